package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// clockVar names the file that holds how far a process' wall clock is off, in seconds.
const clockVar = "GABION_TEST_CLOCK"

// jumpSource is added to package time in the binary whose clock can jump. Nothing in gabion knows of it, and
// the libraries are fooled as well. The monotonic clock stays as it is.
const jumpSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var wallOffset = mapWallOffset()

func mapWallOffset() *int64 {
	path, ok := syscall.Getenv("` + clockVar + `")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("time: " + path + ": " + err.Error())
	}
	page, err := syscall.Mmap(fd, 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("time: " + path + ": " + err.Error())
	}
	_ = syscall.Close(fd)
	return (*int64)(unsafe.Pointer(&page[0]))
}

func jumped() int64 { return atomic.LoadInt64(wallOffset) }
`

// buildJumpBinary builds gabion into dir, with a package time that can be made to jump.
func buildJumpBinary(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	src, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return "", err
	}
	const read = "\tsec, nsec, mono := runtimeNow()\n"
	patched := strings.Replace(string(src), read, read+"\tsec += jumped()\n", 1)
	if patched == string(src) {
		return "", errors.New("time.Now is not written as expected: the clock cannot be made to jump")
	}
	replace := map[string]string{}
	for name, text := range map[string]string{"time.go": patched, "jump.go": jumpSource} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(pkg, name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "gabion")
	args := []string{"build", "-overlay", file, "-o", path}
	if harness.Race() {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/gabionfs/gabion/cmd/gabion")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}

// wallClock is how far the wall clock of a node is off.
type wallClock struct {
	path   string
	offset *int64 // shared with the node's process
}

func newWallClock(t testing.TB, path string) *wallClock {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(page) })
	w := &wallClock{path: path, offset: (*int64)(unsafe.Pointer(&page[0]))}
	runtime.KeepAlive(page)
	return w
}

// jump sets how far the clock is off.
func (w *wallClock) jump(d time.Duration) { atomic.StoreInt64(w.offset, int64(d/time.Second)) }
