package mount

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Unmount unmounts cleanly and waits until the kernel has let go and all requests are answered, or ctx is done.
// When the mount is in use it stays, and the error is a *BusyError that says by whom. The kernel does not let go
// while there is a copy in another mount namespace. Unmounting what is gone is no error.
func (s *Server) Unmount(ctx context.Context) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := unmount(s.dir, false); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return &BusyError{Dir: s.dir, Holders: holders(s.dir)}
		}
		if mounts, merr := mountsAt(s.dir); merr != nil || len(mounts) > 0 {
			return &Error{Op: "unmount", Dir: s.dir, Err: err}
		}
	}
	return s.wait(ctx, "unmount")
}

// Detach takes the mount out of the tree at once (a lazy unmount). Who has something open in it goes on
// using it; when the last of them is done, Wait returns. Ending the process before that cuts them off.
func (s *Server) Detach() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := unmount(s.dir, true); err != nil {
		return &Error{Op: "detach", Dir: s.dir, Err: err}
	}
	return nil
}

func (s *Server) wait(ctx context.Context, op string) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return &Error{Op: op, Dir: s.dir, Err: ctx.Err(), Advice: "it is out of the tree, but programs in another mount namespace (a container?) have it still"}
	}
}

// CleanStale detaches a mount of ours at dir that has lost its process, as after kill -9: every access
// to it says "transport endpoint is not connected". It reports whether there was one. It never touches
// a mount of another type, nor one that is alive.
func CleanStale(dir string) (bool, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false, &Error{Op: "detach", Dir: dir, Err: err}
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil { // the last component cannot be resolved
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	cleaned := false
	for {
		mounts, err := mountsAt(abs)
		if err != nil {
			return cleaned, &Error{Op: "detach", Dir: dir, Err: err}
		}
		if len(mounts) == 0 || mounts[len(mounts)-1].fsType != fsType {
			return cleaned, nil
		}
		if !stale(abs) {
			return cleaned, nil
		}
		if err := unmount(abs, true); err != nil {
			return cleaned, &Error{Op: "detach", Dir: dir, Err: err, Advice: "detach it as root: umount -l " + dir}
		}
		cleaned = true
	}
}

// stale reports whether nobody serves the mount at dir any more. It asks for what the kernel never has
// cached. A server that does not answer is not gone.
func stale(dir string) bool {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		return isErrno(err, syscall.ENOTCONN) || isErrno(err, syscall.ECONNABORTED)
	case <-time.After(5 * time.Second):
		return false
	}
}

// unmount takes the topmost mount off dir: as root by itself, else through fusermount3.
func unmount(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	args := []string{"-u", dir}
	if lazy {
		args = []string{"-u", "-z", dir}
	}
	helper, err := exec.LookPath("fusermount3")
	if err != nil {
		return ErrNoHelper
	}
	out, err := exec.Command(helper, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	if bytes.Contains(out, []byte("busy")) {
		return syscall.EBUSY
	}
	return fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), err)
}

type mounted struct {
	fsType string
	device uint64
}

// mountsAt lists what is mounted on dir, the topmost last. It does not touch dir.
func mountsAt(dir string) ([]mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mounted
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point options... - type source options
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || unescapeOctal(fields[4]) != dir {
			continue
		}
		m := mounted{}
		m.fsType, _, _ = strings.Cut(after, " ")
		var major, minor uint32
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err == nil {
			m.device = unix.Mkdev(major, minor)
		}
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// deviceOf returns the device number of the mount at dir, without touching it.
func deviceOf(dir string) (uint64, error) {
	mounts, err := mountsAt(dir)
	if err != nil {
		return 0, err
	}
	if len(mounts) == 0 {
		return 0, os.ErrNotExist
	}
	return mounts[len(mounts)-1].device, nil
}

// unescapeOctal undoes the escapes of /proc/self/mountinfo.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// holders lists the processes that use something below dir. It reads links of /proc only, and so does
// not wait for the mount.
func holders(dir string) []Holder {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	var found []Holder
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		if path := uses(proc, dir); path != "" {
			name, _ := os.ReadFile(filepath.Join(proc, "comm"))
			found = append(found, Holder{PID: pid, Command: strings.TrimSpace(string(name)), Path: path})
		}
	}
	slices.SortFunc(found, func(a, b Holder) int { return a.PID - b.PID })
	return found
}

// uses returns a path below dir that a process uses, or "".
func uses(proc, dir string) string {
	links := []string{filepath.Join(proc, "cwd"), filepath.Join(proc, "root"), filepath.Join(proc, "exe")}
	for _, sub := range []string{"fd", "map_files"} {
		entries, _ := os.ReadDir(filepath.Join(proc, sub))
		for _, entry := range entries {
			links = append(links, filepath.Join(proc, sub, entry.Name()))
		}
	}
	for _, link := range links {
		path, err := os.Readlink(link)
		if err == nil && (path == dir || strings.HasPrefix(path, dir+"/")) {
			return path
		}
	}
	return ""
}
