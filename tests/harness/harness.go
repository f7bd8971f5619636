// Package harness runs the real gabion for the tests that cross layers: it builds the binary, starts
// `gabion up` on a data directory, waits for its ready line, stops, kills and restarts it, and asks it for
// its status and a check.
//
// It promises that a test neither hangs nor leaves anything behind. Everything that touches a mount runs in a
// child process with a deadline, since a process in a system call of a mount that hangs cannot be killed.
// When a deadline passes, gabion gets SIGQUIT: its goroutines land in the log, its end aborts the
// connection, and the children come free. Mounts are detached and processes are killed at the end of the
// test. The log is shown when a test fails.
//
// A package that uses it calls Main from TestMain, with the roles that its children play: a child is the
// test binary itself, started with the name of a role.
package harness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	roleVar   = "GABION_TEST_ROLE"
	seedVar   = "GABION_SEED"
	binaryVar = "GABION_TEST_BINARY"
	longVar   = "GABION_LONG"
)

// Role is what a child process does. An error is printed and makes it exit with 1.
type Role func(args []string) error

// Main is to be called from TestMain and does not return. In a child it plays the role.
func Main(m *testing.M, roles map[string]Role) {
	if name := os.Getenv(roleVar); name != "" {
		role := roles[name]
		if role == nil {
			role = common[name]
		}
		if role == nil {
			fmt.Fprintf(os.Stderr, "no role %q\n", name)
			os.Exit(2)
		}
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	removeBinary()
	os.Exit(code)
}

// Long reports whether the long versions of the tests are wanted: GABION_LONG=1, as `make test-long` sets.
func Long() bool { return os.Getenv(longVar) == "1" }

// Scale returns short, or long when the long versions are wanted.
func Scale(short, long int) int {
	if Long() {
		return long
	}
	return short
}

// Seed returns the seed of a random test: GABION_SEED or a new one. When the test fails it says how to
// replay.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(seedVar); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: %v", seedVar, s, err)
		}
		seed = n
	}
	t.Cleanup(func() {
		if t.Failed() {
			wd, _ := os.Getwd()
			t.Logf("replay: %s=%d go test -count 1 -run '^%s$' ./tests/%s", seedVar, seed, t.Name(), filepath.Base(wd))
		}
	})
	return seed
}

// Rand returns a generator for the part of a random test that name and seed stand for.
func Rand(seed uint64, name string) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

// NeedRoot skips the test where it does not run as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// NeedTool returns the path of a program, or skips the test where it is missing.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	return path
}

// NeedMount skips the test where nothing can be mounted.
func NeedMount(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	}
	f.Close()
	if os.Getuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skip("needs root or fusermount3")
		}
	}
}

var binary struct {
	once sync.Once
	path string
	dir  string // to be removed
	err  error
}

// Binary returns the path of gabion, built from this module once for each test binary, with the race
// detector when the tests have it. GABION_TEST_BINARY names another one.
func Binary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.path = os.Getenv(binaryVar); binary.path != "" {
			return
		}
		if binary.dir, binary.err = os.MkdirTemp("", "gabion-test-"); binary.err != nil {
			return
		}
		binary.path = filepath.Join(binary.dir, "gabion")
		args := []string{"build", "-o", binary.path}
		if raceEnabled {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/gabionfs/gabion/cmd/gabion")...).CombinedOutput()
		if err != nil {
			binary.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

func removeBinary() {
	if binary.dir != "" {
		os.RemoveAll(binary.dir)
	}
}

// WaitFor waits until cond holds, and ends the test when it does not within limit.
func WaitFor(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience(limit)); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for: %s", Patience(limit), what)
		}
	}
}

// Patience stretches a deadline from what it takes on a machine of one's own to what it may take where many
// tests run at once: nothing but a failure waits that long.
func Patience(d time.Duration) time.Duration {
	if raceEnabled {
		return 10 * d
	}
	return 3 * d
}

// Race reports whether the race detector is on.
func Race() bool { return raceEnabled }
