package mount

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Why a directory cannot be mounted on, or unmounted. Match them with errors.Is.
var (
	ErrMissing      = errors.New("the mount point does not exist")
	ErrNotDir       = errors.New("the mount point is not a directory")
	ErrNotEmpty     = errors.New("the mount point is not empty")
	ErrMounted      = errors.New("something is mounted there already")
	ErrStale        = errors.New("a mount whose process is gone is still there")
	ErrNoFuse       = errors.New("/dev/fuse is missing: FUSE is not available here")
	ErrNotPermitted = errors.New("mounting is not permitted")
	ErrNoHelper     = errors.New("fusermount3 is not installed, and only root can mount without it")
	ErrBusy         = errors.New("the mount is in use")
)

// Error says what could not be done with which mount point, and what to do about it, in one line.
type Error struct {
	Op     string // "mount", "unmount", "detach"
	Dir    string
	Err    error
	Advice string // may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.Dir, e.Err)
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}
func (e *Error) Unwrap() error { return e.Err }

// BusyError says who uses a mount that should go. It matches ErrBusy.
type BusyError struct {
	Dir string
	// Holders are the processes that have something open in it, as far as this process may see.
	Holders []Holder
}

// Holder is a process that uses a mount.
type Holder struct {
	PID     int
	Command string
	Path    string // one of the paths it uses
}

func (e *BusyError) Error() string {
	var who []string
	for i, h := range e.Holders {
		if i == 5 {
			who = append(who, fmt.Sprintf("and %d more", len(e.Holders)-i))
			break
		}
		who = append(who, fmt.Sprintf("%s (pid %d, %s)", h.Command, h.PID, h.Path))
	}
	if len(who) == 0 {
		who = []string{"a process that cannot be seen from here"}
	}
	return fmt.Sprintf("unmount %s: %v by %s; end it and try again", e.Dir, ErrBusy, strings.Join(who, ", "))
}
func (e *BusyError) Unwrap() error { return ErrBusy }

func isErrno(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }
