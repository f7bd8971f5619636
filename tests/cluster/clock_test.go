package cluster

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// A wallClock makes the wall clock of one process jump, and nobody else's. The process is stopped before its
// first instruction, and the clock_gettime of its vDSO, through which it asks for the time, is overwritten with
// one that asks the kernel and adds an offset to CLOCK_REALTIME. The offset stands behind the code and can be
// changed at any time. So nothing in the program knows of it, and its libraries are fooled too; the monotonic
// clock is true.
type wallClock struct {
	mu     sync.Mutex
	offset time.Duration // whole seconds
	pid    int           // 0 before the process runs
	at     int64         // address of the code in it
}

// jumpingClock is int clock_gettime(clockid_t, struct timespec *) on x86-64:
//
//	mov  $228, %eax; syscall
//	test %edi, %edi; jne out        // not CLOCK_REALTIME
//	mov  offset(%rip), %r8
//	add  %r8, (%rsi)                // tv_sec
//	out: ret; nop
//	offset: .quad 0
var jumpingClock = []byte{
	0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05,
	0x85, 0xff, 0x75, 0x0a,
	0x4c, 0x8b, 0x05, 0x06, 0, 0, 0,
	0x4c, 0x01, 0x06,
	0xc3, 0x90, 0x90,
	0, 0, 0, 0, 0, 0, 0, 0,
}

const clockOffset = 24 // of the offset in jumpingClock

// start starts a command whose clock can jump.
func (w *wallClock) start(cmd *exec.Cmd) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("no clock that can jump is written for %s", runtime.GOARCH)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	runtime.LockOSThread() // which traces the child
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Ptrace = true
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			if err != nil || !ws.Stopped() {
				return fmt.Errorf("it did not stop at its beginning: %v, %#x", err, ws)
			}
			break
		}
	}
	err := w.patch(pid)
	if e := unix.PtraceDetach(pid); err == nil && e != nil {
		err = os.NewSyscallError("PTRACE_DETACH", e)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	}
	return err
}

// patch overwrites the vDSO's function. The caller holds mu.
func (w *wallClock) patch(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	var from, to int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				return err
			}
		}
	}
	if from == 0 {
		return errors.New("the process has no vDSO")
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, from); err != nil {
		return err
	}
	vdso, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return err
	}
	symbols, err := vdso.DynamicSymbols()
	if err != nil {
		return err
	}
	for _, s := range symbols {
		if s.Name != "__vdso_clock_gettime" || s.Size < uint64(len(jumpingClock)) {
			continue
		}
		w.pid, w.at = pid, from+int64(s.Value)
		if _, err := mem.WriteAt(jumpingClock, w.at); err != nil {
			return fmt.Errorf("write to the vDSO: %w", err)
		}
		return w.set()
	}
	return errors.New("the vDSO has no clock_gettime that can be overwritten")
}

// set writes the offset into the process. The caller holds mu.
func (w *wallClock) set() error {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", w.pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(w.offset/time.Second))
	_, err = mem.WriteAt(b[:], w.at+clockOffset)
	return err
}

// jump sets how far the clock is off, from now on and for the process' next lives. A process that has ended
// meanwhile is no error.
func (w *wallClock) jump(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset = d.Truncate(time.Second)
	if w.pid != 0 {
		_ = w.set()
	}
}

// TestWallClock: the clock of a process jumps, the monotonic one does not.
func TestWallClock(t *testing.T) {
	cmd, err := harness.RoleCommand("clock")
	if err != nil {
		t.Fatal(err)
	}
	w := &wallClock{offset: 100 * time.Hour}
	c := harness.GoBy(t, "clock", cmd, func(cmd *exec.Cmd) error {
		if err := w.start(cmd); err != nil {
			t.Skipf("clocks cannot jump here: %v", err)
		}
		return nil
	})
	harness.WaitFor(t, time.Minute, "the first time", func() bool { return strings.Contains(c.Output(), "\n") })
	w.jump(-50 * time.Hour)
	c.Tell()
	out, err := c.Wait(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var first, second, elapsed int64
	if _, err := fmt.Sscan(out, &first, &second, &elapsed); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	near := func(a, b, by int64) bool { return a-b < by && b-a < by }
	now := time.Now().Unix()
	if !near(first, now+100*3600, 600) || !near(second, now-50*3600, 600) {
		t.Errorf("the clock showed %d, then %d; it is %d", first, second, now)
	}
	if elapsed < 0 || elapsed > int64(10*time.Minute) {
		t.Errorf("the monotonic clock shows %v between them", time.Duration(elapsed))
	}
}

// clocksJump says whether the clock of a process can be made to jump here.
func clocksJump() error {
	cmd, err := harness.RoleCommand("clock")
	if err != nil {
		return err
	}
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	if err := new(wallClock).start(cmd); err != nil {
		return err
	}
	return cmd.Wait() // its input is empty
}

// clock is a role that prints the time, and again when its input ends, and how long that was.
func clock([]string) error {
	first := time.Now()
	fmt.Println(first.Unix())
	_, _ = new(bytes.Buffer).ReadFrom(os.Stdin)
	fmt.Println(time.Now().Unix(), time.Since(first).Nanoseconds())
	return nil
}
