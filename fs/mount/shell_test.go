package mount_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs/mount/mounttest"
)

// A shell does to a mount, in a process of its own, what a test tells it line by line.
type shellProc struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (m *model) shell(t *testing.T) *shellProc {
	t.Helper()
	sh := &shellProc{t: t, cmd: mounttest.Role("shell", m.dir)}
	var err error
	if sh.in, err = sh.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := sh.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	sh.out = bufio.NewReader(out)
	sh.cmd.Stderr = os.Stderr
	if err := sh.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sh.close)
	return sh
}

func (sh *shellProc) close() {
	sh.in.Close()
	_ = sh.cmd.Wait()
}

// try returns what a command says: its output, or its error after "error: ".
func (sh *shellProc) try(args ...string) string {
	sh.t.Helper()
	fmt.Fprintf(sh.in, "%q\n", strings.Join(args, "\x00"))
	watchdog := time.AfterFunc(3*time.Minute, func() { _ = sh.cmd.Process.Kill() })
	defer watchdog.Stop()
	line, err := sh.out.ReadString('\n')
	if err != nil {
		sh.t.Fatalf("%q: the shell has ended: %v", args, err)
	}
	answer, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
	if err != nil {
		sh.t.Fatalf("%q answers %q: %v", args, line, err)
	}
	return answer
}

func (sh *shellProc) do(args ...string) string {
	sh.t.Helper()
	answer := sh.try(args...)
	if strings.HasPrefix(answer, "error: ") {
		sh.t.Fatalf("%q: %s", args, answer)
	}
	return answer
}

func shell(args []string) {
	s := &shellState{dir: args[0]}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		text, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
		if err != nil {
			panic(err)
		}
		out, err := s.run(strings.Split(text, "\x00"))
		if err != nil {
			out = "error: " + err.Error()
		}
		fmt.Printf("%q\n", out)
	}
}

type shellState struct {
	dir string
	fd  int
	log int
	mem []byte
}

func (s *shellState) run(args []string) (string, error) {
	path := func(i int) string {
		if filepath.IsAbs(args[i]) {
			return args[i]
		}
		return filepath.Join(s.dir, args[i])
	}
	var st unix.Stat_t
	var err error
	switch args[0] {
	case "write":
		return "", os.WriteFile(path(1), []byte(args[2]), 0o644)
	case "read":
		p, err := os.ReadFile(path(1))
		return string(p), err
	case "open":
		s.fd, err = unix.Open(path(1), unix.O_RDWR, 0)
		return "", err
	case "pread":
		var n int
		fmt.Sscan(args[1], &n)
		p := make([]byte, n)
		n, err = unix.Pread(s.fd, p, 0)
		return string(p[:max(n, 0)]), err
	case "pwrite":
		_, err = unix.Pwrite(s.fd, []byte(args[1]), 0)
		return "", err
	case "handle":
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path(1), 0)
		return fmt.Sprintf("%d %x", h.Type(), h.Bytes()), err
	case "readhandle":
		return s.readHandle(args[1])
	case "create":
		s.fd, err = unix.Open(path(1), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		return "", err
	case "writefd":
		var n int
		fmt.Sscan(args[1], &n)
		_, err = unix.Write(s.fd, make([]byte, n))
		return "", err
	case "openappend":
		s.log, err = unix.Open(path(1), unix.O_WRONLY|unix.O_APPEND, 0)
		return "", err
	case "append":
		_, err = unix.Write(s.log, []byte(args[1]))
		return "", err
	case "closeappend":
		return "", unix.Close(s.log)
	case "fstat":
		err = unix.Fstat(s.fd, &st)
		return fmt.Sprintf("size %d nlink %d", st.Size, st.Nlink), err
	case "map":
		s.mem, err = unix.Mmap(s.fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return "", err
	case "mapped":
		return string(s.mem[:len(args[1])]), nil
	case "unmap":
		return "", unix.Munmap(s.mem)
	case "closefd":
		return "", unix.Close(s.fd)
	case "stat":
		err = unix.Lstat(path(1), &st)
		return fmt.Sprintf("size %d nlink %d mode %o", st.Size, st.Nlink, st.Mode), err
	case "ls":
		entries, err := os.ReadDir(path(1))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	case "mkdir":
		return "", unix.Mkdir(path(1), 0o755)
	case "rmdir":
		return "", unix.Rmdir(path(1))
	case "unlink":
		return "", unix.Unlink(path(1))
	case "rename":
		return "", unix.Rename(path(1), path(2))
	case "readlink":
		return os.Readlink(path(1))
	case "chdir":
		return "", unix.Chdir(path(1))
	case "statcwd":
		err = unix.Stat(".", &st)
		return fmt.Sprintf("nlink %d", st.Nlink), err
	case "chmod":
		return "", os.Chmod(path(1), 0o600)
	case "getxattr":
		p := make([]byte, 100)
		n, err := unix.Lgetxattr(path(1), args[2], p)
		return string(p[:max(n, 0)]), err
	}
	return "", errors.New("what is " + args[0])
}

func (s *shellState) readHandle(text string) (string, error) {
	var kind int32
	var id []byte
	if _, err := fmt.Sscanf(text, "%d %x", &kind, &id); err != nil {
		return "", err
	}
	mnt, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(mnt)
	fd, err := unix.OpenByHandleAt(mnt, unix.NewFileHandle(kind, id), unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	p := make([]byte, 100)
	n, err := unix.Read(fd, p)
	return string(p[:max(n, 0)]), err
}
