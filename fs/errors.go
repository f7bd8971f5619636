package fs

import (
	"errors"
	"fmt"
)

// Errors of the contract, to be matched with errors.Is. The exporters translate them to errno or HTTP
// status; anything else is an I/O error.
var (
	ErrNotExist     = errors.New("no such file or directory")
	ErrExist        = errors.New("file exists")
	ErrNotDir       = errors.New("not a directory")
	ErrIsDir        = errors.New("is a directory")
	ErrNotEmpty     = errors.New("directory not empty")
	ErrNameTooLong  = errors.New("name too long")
	ErrInvalid      = errors.New("invalid argument")
	ErrNotPermitted = errors.New("operation not permitted")
	ErrTooManyLinks = errors.New("too many links")
	ErrFileTooBig   = errors.New("file too large")
	ErrNoSpace      = errors.New("no space left on the disks")
	ErrNoData       = errors.New("no data there") // a missing extended attribute is ErrNoAttr
	ErrNoAttr       = errors.New("no such attribute")
	ErrTooBig       = errors.New("argument too long")
	ErrNotSupported = errors.New("operation not supported")
	ErrBusy         = errors.New("resource busy")
	ErrIO           = errors.New("input/output error")
	ErrClosed       = errors.New("filesystem is closed")
)

// OpError says which operation on what failed, and why.
type OpError struct {
	Op   string
	Ino  Ino
	Name string // of the entry, when there is one
	Err  error
}

func (e *OpError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s inode %d: %v", e.Op, e.Ino, e.Err)
	}
	return fmt.Sprintf("%s %q in inode %d: %v", e.Op, e.Name, e.Ino, e.Err)
}
func (e *OpError) Unwrap() error { return e.Err }
