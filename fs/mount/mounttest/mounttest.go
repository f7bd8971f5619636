// Package mounttest checks what the kernel shows of a mounted filesystem: the rules of POSIX and Linux
// for names, content, permissions, times, attributes and locks, as programs meet them. It knows nothing
// of how the directory came to be mounted, so that it runs over a mount of anything:
//
//	func TestMain(m *testing.M) { os.Exit(mounttest.Main(m, nil)) }
//
//	func TestMount(t *testing.T) {
//		dir := mountSomething(t)
//		mounttest.Run(t, dir)
//	}
//
// Accesses to a mount from the process that serves it can deadlock. So all that goes through the kernel
// runs in a child process: the test binary again, which Main sends to its part. A child that hangs is
// ended after three minutes.
package mounttest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	roleVar = "GABION_TEST_ROLE" // what the child is
	argsVar = "GABION_TEST_ARGS" // separated by newlines
)

// Main runs the tests of a package, or, in a child process, the child's part. It returns what to exit
// with. roles are further parts for the package's own use.
func Main(m *testing.M, roles map[string]func(args []string)) int {
	name := os.Getenv(roleVar)
	if name == "" {
		return m.Run()
	}
	args := strings.Split(os.Getenv(argsVar), "\n")
	if name == "case" {
		runCase(args[0], args[1])
	}
	own := map[string]func([]string){
		"append": appender, "mmap": mapper, "locker": locker,
		"id": func([]string) { fmt.Printf("%d %d %d %d\n", os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid()) },
	}
	if role := own[name]; role != nil {
		role(args)
	} else {
		roles[name](args)
	}
	return 0
}

// IsChild reports whether this process is a child that Role started.
func IsChild() bool { return os.Getenv(roleVar) != "" }

// Role returns a command that runs the test binary in a role of Main.
func Role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+name, argsVar+"="+strings.Join(args, "\n"),
		"GORACE=atexit_sleep_ms=0") // a child has told all it found before it ends
	return cmd
}

func cases() map[string]func(c *kase) {
	return map[string]func(c *kase){
		"posixtest":   posix,
		"names/kinds": kinds, "names/limits": limits, "names/links": links, "names/rename": renames, "names/unlinked": unlinked,
		"names/cwd": deletedCwd, "names/tmpfile": tmpfile, "dir/seek": seekDir,
		"content/sparse": sparse, "content/truncate": truncate, "content/openflags": openFlags, "content/append": appendMany,
		"content/mmap": sharedMmap, "content/direct": direct, "content/allocate": allocate, "content/copy": copyRange,
		"content/times": contentTimes, "content/big": big, "content/exec": execute, "content/ioctl": ioctl,
		"content/moving": moving, "content/random": random, "content/created": created,
		"perm/access": access, "perm/directories": directoryAccess, "perm/sticky": sticky, "perm/chmod": chmod, "perm/chown": chown,
		"perm/setid": setID, "perm/capabilities": fileCapabilities, "perm/utimens": utimens, "perm/create": createOwner,
		"perm/special": special, "perm/setuidprogram": setuidProgram,
		"times": directoryTimes, "xattr": xattr, "locks": locks,
	}
}

// Run runs all cases below dir, each in a directory of its own that stays behind. Those that need root
// are skipped for others.
func Run(t *testing.T, dir string) {
	all := cases()
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) { child(t, dir, name) })
	}
}

// child runs a case in a child process.
func child(t *testing.T, dir, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	role := Role("case", dir, name)
	cmd := exec.CommandContext(ctx, role.Path)
	cmd.Env = role.Env
	cmd.WaitDelay = 5 * time.Second // what it started may hold on to the output
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP: "+name)):
		t.Skipf("%s", out)
	case !bytes.Contains(out, []byte("--- PASS: "+name)):
		t.Errorf("the child did not run the case:\n%s", out)
	}
}

// runCase is what the child does. It does not return.
func runCase(dir, name string) {
	flag.Parse()
	if err := flag.Set("test.v", "true"); err != nil { // to tell what was passed and what was skipped
		panic(err)
	}
	dir = filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
	unix.Umask(0)
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: name, F: func(t *testing.T) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cases()[name](&kase{T: t, dir: dir})
	}}}, nil, nil)
}

// kase is a case that runs in the child, with what every case needs.
type kase struct {
	*testing.T
	dir string
}

func (c *kase) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

func (c *kase) ok(err error, what ...any) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s%v", fmt.Sprintln(what...), err)
	}
}

func (c *kase) want(err error, errno unix.Errno, what ...any) {
	c.Helper()
	if !errors.Is(err, errno) {
		c.Errorf("%sgot %v, want %v (%d)", fmt.Sprintln(what...), err, errno, int(errno))
	}
}

func (c *kase) write(path, content string) {
	c.Helper()
	c.ok(os.WriteFile(path, []byte(content), 0o644))
}

func (c *kase) wantFile(path, content string) {
	c.Helper()
	got, err := os.ReadFile(path)
	c.ok(err)
	if string(got) != content {
		c.Errorf("%s holds %.100q, want %.100q", path, got, content)
	}
}

func (c *kase) mkdir(elem ...string) string {
	c.Helper()
	path := c.path(elem...)
	c.ok(os.Mkdir(path, 0o755))
	return path
}

// open returns a descriptor that is closed at the end.
func (c *kase) open(path string, flags int, mode uint32) int {
	c.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	c.ok(err, "open", path)
	c.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (c *kase) lstat(path string) unix.Stat_t {
	c.Helper()
	var st unix.Stat_t
	c.ok(unix.Lstat(path, &st), path)
	return st
}

func (c *kase) fstat(fd int) unix.Stat_t {
	c.Helper()
	var st unix.Stat_t
	c.ok(unix.Fstat(fd, &st))
	return st
}

func (c *kase) needRoot() {
	c.Helper()
	if os.Geteuid() != 0 {
		c.Skip("needs root")
	}
}
