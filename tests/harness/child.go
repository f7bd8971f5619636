package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Child is a process that works on a mount. Its methods may be called from any goroutine.
type Child struct {
	Name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   buffer
	ended chan struct{}
}

// buffer collects output of a running process.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// GoRole starts a child that plays a role. It is killed at the end of the test at the latest.
func GoRole(t testing.TB, name string, args ...string) *Child {
	t.Helper()
	cmd, err := RoleCommand(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return Go(t, "role "+name, cmd)
}

// GoShell starts a shell script whose arguments are args. A command that fails ends it.
func GoShell(t testing.TB, script string, args ...string) *Child {
	t.Helper()
	return Go(t, "script "+script, exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...))
}

// Go starts a child. Its output and error output are collected together.
func Go(t testing.TB, name string, cmd *exec.Cmd) *Child {
	t.Helper()
	return GoBy(t, name, cmd, (*exec.Cmd).Start)
}

// RoleCommand returns the command that Go starts for a role.
func RoleCommand(name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVar+"="+name)
	return cmd, nil
}

// GoBy is Go for a child that start starts, on another host of a network perhaps.
func GoBy(t testing.TB, name string, cmd *exec.Cmd, start func(*exec.Cmd) error) *Child {
	t.Helper()
	c := &Child{Name: name, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.out, &c.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		c.Kill()
		select {
		case <-c.ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s cannot be killed: it hangs in a system call", name)
		}
	})
	return c
}

// Kill kills the child and what it started.
func (c *Child) Kill() { _ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }

// Signal sends a signal to the child and what it started.
func (c *Child) Signal(s syscall.Signal) { _ = syscall.Kill(-c.cmd.Process.Pid, s) }

// Tell closes the child's standard input, which asks a role to come to its end.
func (c *Child) Tell() { _ = c.in.Close() }

// Output returns what the child has printed so far.
func (c *Child) Output() string { return c.out.String() }

// Ended is closed when the child has ended.
func (c *Child) Ended() <-chan struct{} { return c.ended }

// ErrDeadline says that a child did not end in time.
var ErrDeadline = errors.New("did not end in time")

// Wait waits for the child's end and returns what it printed. The error says how it failed, ErrDeadline
// when it does not end within limit; it is killed then.
func (c *Child) Wait(limit time.Duration) (string, error) {
	select {
	case <-c.ended:
	case <-time.After(Patience(limit)):
		c.Kill()
		return c.Output(), fmt.Errorf("%s: %w (%v)", c.Name, ErrDeadline, Patience(limit))
	}
	if !c.cmd.ProcessState.Success() {
		return c.Output(), fmt.Errorf("%s: %v\n%s", c.Name, c.cmd.ProcessState, c.Output())
	}
	return c.Output(), nil
}

// Finish waits for a child that works on the mount and wants it to succeed. A child that hangs makes
// gabion print its goroutines.
func (g *Gabion) Finish(c *Child, limit time.Duration) string {
	g.t.Helper()
	out, err := g.Try(c, limit)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// Try is Finish where the child may fail, but not hang.
func (g *Gabion) Try(c *Child, limit time.Duration) (string, error) {
	g.t.Helper()
	out, err := c.Wait(limit)
	if errors.Is(err, ErrDeadline) {
		g.quit()
		g.t.Fatalf("%v\n%s", err, out)
	}
	return out, err
}

// Role runs a child that plays a role and wants it to succeed.
func (g *Gabion) Role(limit time.Duration, name string, args ...string) string {
	g.t.Helper()
	return g.Finish(GoRole(g.t, name, args...), limit)
}

// Shell runs a script and wants it to succeed.
func (g *Gabion) Shell(limit time.Duration, script string, args ...string) string {
	g.t.Helper()
	return g.Finish(GoShell(g.t, script, args...), limit)
}

// CommandLimit is how long a command of gabion may take.
const CommandLimit = 3 * time.Minute

// Command runs another command of gabion on the same data directory. It returns what it printed on
// standard output and on standard error, and its exit code.
func (g *Gabion) Command(args ...string) (stdout, stderr string, code int) {
	g.t.Helper()
	cmd := exec.Command(g.bin, append(args, "--data", g.Data)...)
	var out, errs buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	late := time.AfterFunc(Patience(CommandLimit), func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	if !late.Stop() {
		g.quit()
		g.t.Fatalf("gabion %s hangs\n%s", strings.Join(args, " "), errs.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
