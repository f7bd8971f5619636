package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How long parts of gabion's life may take before the test gives up on them.
const (
	startLimit = time.Minute
	stopLimit  = time.Minute
)

// Options says how to run gabion. The zero value mounts a new data directory with six disks in it.
type Options struct {
	Data    string   // data directory; "" makes one that goes with the test
	ASDs    int      // --asds
	ASDDirs []string // --asd
	NoMount bool
	Args    []string // further arguments of `gabion up`
}

// Gabion is a data directory and the process that runs on it, if any. Its methods end the test when
// something is not as it should be. To be used by the test's goroutine.
type Gabion struct {
	t     testing.TB
	o     Options
	bin   string
	Data  string // data directory
	Mount string // mount point, "" without
	DAV   string // address of WebDAV as a URL with a slash at its end, while it runs

	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	log   *os.File      // standard error of all its lives
}

// New prepares a Gabion that does not run yet.
func New(t testing.TB, o Options) *Gabion {
	t.Helper()
	if !o.NoMount {
		NeedMount(t)
	}
	g := &Gabion{t: t, o: o, bin: Binary(t), Data: o.Data}
	dir := t.TempDir()
	if g.Data == "" {
		g.Data = filepath.Join(dir, "data")
	}
	if !o.NoMount {
		g.Mount = filepath.Join(dir, "mnt")
		if err := os.Mkdir(g.Mount, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if g.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.cleanup)
	return g
}

// Start is New and Up.
func Start(t testing.TB, o Options) *Gabion {
	t.Helper()
	g := New(t, o)
	g.Up()
	return g
}

var readyLine = regexp.MustCompile(`^ready: mount=(\S+) dav=(\S+) data=(\S+)$`)

// SetArgs are the further arguments of the next starts.
func (g *Gabion) SetArgs(args ...string) { g.o.Args = args }

// Up starts the process and waits until it is ready.
func (g *Gabion) Up() {
	g.t.Helper()
	if err := g.TryUp(); err != nil {
		g.t.Fatal(err)
	}
}

// TryUp is Up where the start may fail. The error holds what gabion printed.
func (g *Gabion) TryUp() error {
	if g.Running() {
		return errors.New("gabion runs already")
	}
	before, err := g.log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	lines, err := g.launch()
	if err != nil {
		return err
	}
	select {
	case line := <-lines:
		m := readyLine.FindStringSubmatch(line)
		if m == nil {
			g.Kill()
			return fmt.Errorf("gabion up: %q instead of a ready line, %v: %s", line, g.cmd.ProcessState, g.logFrom(before))
		}
		if (m[1] != "-") != (g.Mount != "") {
			return fmt.Errorf("gabion up is ready with mount=%s", m[1])
		}
		if g.DAV = m[2]; g.DAV == "-" {
			g.DAV = ""
		}
		return nil
	case <-time.After(Patience(startLimit)):
		g.quit()
		return fmt.Errorf("gabion up: not ready within %v: %s", Patience(startLimit), g.logFrom(before))
	}
}

// UpAndKill starts the process and kills it a moment later, ready or not.
func (g *Gabion) UpAndKill(after time.Duration) {
	g.t.Helper()
	if _, err := g.launch(); err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-time.After(after):
	case <-g.ended:
		g.t.Fatalf("gabion up ended: %v", g.cmd.ProcessState)
	}
	g.Kill()
}

// launch starts the process. The channel gets the first line that it prints.
func (g *Gabion) launch() (<-chan string, error) {
	args := []string{"up", "--data", g.Data, "--dav", "127.0.0.1:0"}
	if g.Mount != "" {
		args = append(args, "--mount", g.Mount)
	}
	if g.o.ASDs > 0 {
		args = append(args, "--asds", strconv.Itoa(g.o.ASDs))
	}
	for _, dir := range g.o.ASDDirs {
		args = append(args, "--asd", dir)
	}
	cmd := exec.Command(g.bin, append(args, g.o.Args...)...)
	cmd.Stderr = g.log
	cmd.Dir = filepath.Dir(g.log.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(g.log, "--- gabion %s\n", strings.Join(cmd.Args[1:], " "))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	g.cmd, g.ended = cmd, make(chan struct{})
	lines := make(chan string, 1)
	go func() {
		defer close(g.ended)
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		lines <- strings.TrimSpace(line)
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	}()
	return lines, nil
}

// Running reports whether the process runs.
func (g *Gabion) Running() bool {
	if g.cmd == nil {
		return false
	}
	select {
	case <-g.ended:
		return false
	default:
		return true
	}
}

// PID of the process.
func (g *Gabion) PID() int { return g.cmd.Process.Pid }

// Stop ends the process as an operator does, and wants it to exit with 0.
func (g *Gabion) Stop() {
	g.t.Helper()
	if !g.Running() {
		g.t.Fatalf("gabion has ended by itself: %v", g.cmd.ProcessState)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-g.ended:
	case <-time.After(Patience(stopLimit)):
		g.quit()
		g.t.Fatalf("gabion does not stop within %v of SIGTERM", Patience(stopLimit))
	}
	if !g.cmd.ProcessState.Success() {
		g.t.Fatalf("gabion after SIGTERM: %v", g.cmd.ProcessState)
	}
}

// Kill ends the process as a crash does. The stale mount stays, for the next start to clean up.
func (g *Gabion) Kill() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill()
	<-g.ended
}

// quit ends a process that hangs and has it print its goroutines.
func (g *Gabion) quit() {
	if !g.Running() {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		g.Kill()
	}
}

// Restart stops the process cleanly and starts it again.
func (g *Gabion) Restart() {
	g.t.Helper()
	g.Stop()
	g.Up()
}

func (g *Gabion) cleanup() {
	g.Kill()
	if g.Mount != "" {
		detach(g.Mount)
	}
	if g.t.Failed() {
		g.t.Logf("gabion's log:\n%s", g.logFrom(0))
	}
	g.log.Close()
}

// detach takes everything off a mount point, without touching what is mounted there.
func detach(dir string) {
	for {
		if os.Getuid() == 0 {
			if unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) != nil {
				return // EINVAL: nothing is mounted there
			}
		} else if exec.Command("fusermount3", "-uzq", dir).Run() != nil {
			return
		}
	}
}

// maxLog bounds what is shown of the log.
const maxLog = 256 << 10

// logFrom returns the log from an offset on, its middle left out when it is very long.
func (g *Gabion) logFrom(off int64) string {
	raw, err := os.ReadFile(g.log.Name())
	if err != nil {
		return err.Error()
	}
	raw = raw[min(off, int64(len(raw))):]
	if len(raw) > maxLog {
		return fmt.Sprintf("%s\n[... %d bytes ...]\n%s", raw[:maxLog/2], len(raw)-maxLog, raw[len(raw)-maxLog/2:])
	}
	return string(raw)
}

// Log returns what the process printed to standard error in all its lives.
func (g *Gabion) Log() string { return g.logFrom(0) }

// Path returns a path below the mount point.
func (g *Gabion) Path(elem ...string) string {
	return filepath.Join(append([]string{g.Mount}, elem...)...)
}
