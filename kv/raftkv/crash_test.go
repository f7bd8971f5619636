package raftkv_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// The workload of the crash tests: transaction i says so under "n", adds a value of its own and deletes
// the one that is window older. So every prefix of the sequence has one exact picture.
const window = 300

const childEnv = "RAFTKV_TEST_CHILD"

func crashOptions(dir string) raftkv.Options {
	return raftkv.Options{Dir: dir, FlushBytes: 200 << 10, SegmentBytes: 128 << 10, Window: 5 * time.Millisecond}
}

func crashKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

func crashValue(i uint64) []byte {
	n := 20 + int(i*7919%200)
	if i%97 == 0 {
		n = 90 << 10
	}
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15), n/8+1)[:n]
}

func crashStep(s kv.Store, c kv.Commit) (n uint64, err error) {
	err = s.Update(context.Background(), c, func(tx kv.Txn) error {
		n = 1
		if v, err := tx.Get("seq", []byte("n")); err == nil {
			n = binary.BigEndian.Uint64(v) + 1
		} else if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		tx.Put("seq", []byte("n"), crashKey(n))
		tx.Put("data", crashKey(n), crashValue(n))
		if n > window {
			tx.Delete("data", crashKey(n-window))
		}
		return nil
	})
	return n, err
}

// crashPicture checks that the store shows a prefix and returns its length.
func crashPicture(t *testing.T, s kv.Store) uint64 {
	t.Helper()
	n, err := lookAt(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func lookAt(s kv.Store) (n uint64, err error) {
	err = s.View(context.Background(), kv.Linearizable, func(r kv.Reader) error {
		v, err := r.Get("seq", []byte("n"))
		if errors.Is(err, kv.ErrNotFound) {
			v, err = crashKey(0), nil
		}
		if err != nil {
			return err
		}
		n = binary.BigEndian.Uint64(v)
		next := uint64(1)
		if n > window {
			next = n - window + 1
		}
		var bad error
		if err := r.Range("data", kv.Range{}, func(k, v []byte) bool {
			if !bytes.Equal(k, crashKey(next)) || !bytes.Equal(v, crashValue(next)) {
				bad = fmt.Errorf("after %d transactions: key %x with %d bytes, want key %d", n, k, len(v), next)
			}
			next++
			return bad == nil
		}); err != nil {
			return err
		}
		if bad == nil && next != n+1 {
			bad = fmt.Errorf("after %d transactions the data end before %d", n, next)
		}
		return bad
	})
	return n, err
}

// runChild is the process that gets killed: it reports each transaction that is certainly durable.
func runChild(dir string) {
	s, err := raftkv.Open(context.Background(), crashOptions(dir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for {
		commit := kv.Commit(min(rng.IntN(20), 1)) // one in twenty is durable
		n, err := crashStep(s, commit)
		if err == nil && commit == kv.Ordered && rng.IntN(50) == 0 {
			err, commit = s.Sync(context.Background()), kv.Durable
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		if commit == kv.Durable {
			fmt.Println(n)
		}
	}
}

// child starts the workload on dir. kill ends it, and returns the last transaction that it had reported
// as durable.
func child(t *testing.T, dir string) (kill func() uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	last := make(chan uint64, 1)
	go func() {
		var n uint64
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if m, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				if n == 0 {
					close(first)
				}
				n = m
			}
		}
		if n == 0 {
			close(first)
		}
		last <- n
	}()
	<-first // it is at work, or dead
	return func() uint64 {
		_ = cmd.Process.Kill()
		n := <-last
		_ = cmd.Wait()
		if n == 0 {
			t.Fatalf("the child did nothing: %s", stderr.String())
		}
		return n
	}
}

// TestKill: after kill -9 at any moment the store shows a prefix that has everything durable.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		kill := child(t, dir)
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)
		acked := kill()
		s := open(t, crashOptions(dir))
		n := crashPicture(t, s)
		if n < acked {
			t.Fatalf("%d transactions are left, %d were durable", n, acked)
		}
		t.Logf("durable %d, found %d, %d bytes of log", acked, n, s.Stats().LogBytes)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// powerCut makes the file system lose everything that it has not put on its device.
func powerCut(t *testing.T, mount string) {
	t.Helper()
	d, err := os.Open(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	flags := uint32(2) // EXT4_GOING_FLAGS_NOLOGFLUSH
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flags))); e != 0 {
		t.Fatalf("FS_IOC_SHUTDOWN: %v", e)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// loopMount mounts a small ext4 on a loop device until the end of the test.
func loopMount(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a loop device")
	}
	if testing.Short() {
		t.Skip("short")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	base := t.TempDir()
	image, mount := filepath.Join(base, "image"), filepath.Join(base, "mnt")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "-s", "192M", image)
	run(t, "mkfs.ext4", "-q", "-F", image)
	if out, err := exec.Command("mount", "-o", "loop", image, mount).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a loop device: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return mount
}

// remount brings the file system back as it is after the power cut.
func remount(t *testing.T, mount string) {
	t.Helper()
	run(t, "umount", mount)
	run(t, "mount", "-o", "loop", filepath.Join(filepath.Dir(mount), "image"), mount)
}

// TestPowerCut: the same, with a file system that loses power.
func TestPowerCut(t *testing.T) {
	mount := loopMount(t)
	dir := filepath.Join(mount, "kv")
	for range 8 {
		kill := child(t, dir)
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		powerCut(t, mount)
		acked := kill()
		remount(t, mount)
		s := open(t, crashOptions(dir))
		n := crashPicture(t, s)
		if n < acked {
			t.Fatalf("%d transactions are left, %d were durable", n, acked)
		}
		t.Logf("durable %d, found %d", acked, n)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
