package main_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that should be there at once.
const patience = 3 * time.Minute

// process is a running `gabion up`.
type process struct {
	t                *testing.T
	cmd              *exec.Cmd
	mount, dav, data string // of the ready line
	stderr           lockedBuffer
	ended            chan struct{} // closed when the process has ended
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var readyLine = regexp.MustCompile(`^ready: mount=(\S+) dav=(\S+) data=(\S+)$`)

// up starts `gabion up` and waits for its ready line. It is stopped at the end of the test at the latest.
func up(t *testing.T, args ...string) *process {
	t.Helper()
	return upWith(t, exec.Command(binary, append([]string{"up"}, args...)...))
}

// upWith is up with a command of the caller's.
func upWith(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = environment()
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		defer close(p.ended)
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		lines <- strings.TrimSpace(line)
		io.Copy(io.Discard, stdout)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("gabion up printed:\n%s", p.stderr.String())
		}
	})
	select {
	case line := <-lines:
		m := readyLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a ready line: %q\n%s", line, p.stderr.String())
		}
		p.mount, p.dav, p.data = m[1], m[2], m[3]
	case <-time.After(patience):
		t.Fatalf("not ready within %v\n%s", patience, p.stderr.String())
	}
	return p
}

// says waits until the process has printed text to standard error.
func (p *process) says(text string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(p.stderr.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Errorf("does not say %q:\n%s", text, p.stderr.String())
			return
		}
	}
}

// kill ends the process as a crash does, and detaches the mount that it leaves behind.
func (p *process) kill() {
	p.crash()
	if p.mount != "" && p.mount != "-" {
		syscall.Unmount(p.mount, syscall.MNT_DETACH)
	}
}

// crash ends the process with SIGKILL and leaves the mount as it is.
func (p *process) crash() {
	p.cmd.Process.Kill()
	<-p.ended
}

// stop sends SIGINT and wants a clean end.
func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("does not stop\n%s", p.stderr.String())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("exit code %d after SIGINT\n%s", code, p.stderr.String())
	}
}

// sh runs a shell script in a child process, with a limit on its time so that a mount that hangs does not
// hang the test.
func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// mountPoint returns an empty directory to mount on, or skips the test where mounting is not possible.
func mountPoint(t *testing.T) string {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	} else {
		f.Close()
	}
	if _, err := exec.LookPath("fusermount3"); os.Getuid() != 0 && err != nil {
		t.Skip("needs root or fusermount3")
	}
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// tree lists everything below dir with sizes and times, to show that nothing has changed.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", `%P %y %s %T@\n`).CombinedOutput()
	if err != nil {
		t.Fatalf("find: %v\n%s", err, out)
	}
	return string(out)
}
