package asd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// loopMount mounts a fresh ext4 of that size and returns the mount point and how to cut and restore it. Tests that need it are
// skipped without root.
type loopMount struct {
	t     *testing.T
	image string
	dir   string
	up    bool
}

func newLoopMount(t *testing.T, size int64) *loopMount {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a loop mount")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	base := t.TempDir()
	l := &loopMount{t: t, image: filepath.Join(base, "image"), dir: filepath.Join(base, "mnt")}
	f, err := os.Create(l.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.run("mkfs.ext4", "-q", "-F", l.image)
	if out, err := exec.Command("mount", "-o", "loop", l.image, l.dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a loop device: %v: %s", err, out)
	}
	l.up = true
	t.Cleanup(func() {
		if l.up {
			l.unmount()
		}
	})
	return l
}

func (l *loopMount) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (l *loopMount) mount() {
	l.t.Helper()
	l.run("mount", "-o", "loop", l.image, l.dir)
	l.up = true
}

func (l *loopMount) unmount() {
	l.t.Helper()
	l.up = false
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(name, l.dir) {
			l.t.Errorf("still open: %s", name)
		}
	}
	l.run("umount", l.dir)
}

// cut takes the power away: what is not on disk yet never gets there.
func (l *loopMount) cut() {
	l.t.Helper()
	const (
		ext4Shutdown = 0x8004587d // FS_IOC_SHUTDOWN
		noLogFlush   = 2
	)
	f, err := os.Open(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, noLogFlush); err != nil {
		l.t.Skipf("this kernel has no FS_IOC_SHUTDOWN: %v", err)
	}
}

func diskUsage(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && fi.Mode().IsRegular() {
				n += st.Blocks * 512
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFullDisk(t *testing.T) {
	l := newLoopMount(t, 64<<20)
	// Two ASDs share the disk, as in a local setup.
	var asds []*ASD
	for i := range 2 {
		dir := filepath.Join(l.dir, fmt.Sprintf("asd%d", i))
		if _, err := Format(dir, testCluster); err != nil {
			t.Fatal(err)
		}
		asds = append(asds, mustOpen(t, dir, Options{}))
	}
	fillUp(t, asds, func() {
		// The rest of the system can still write.
		if err := os.WriteFile(filepath.Join(l.dir, "other"), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatalf("nothing is left for others: %v", err)
		}
		if err := os.Remove(filepath.Join(l.dir, "other")); err != nil {
			t.Fatal(err)
		}
	})
	for _, a := range asds {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullCapacity(t *testing.T) {
	a := mustOpen(t, newDir(t), Options{Capacity: 24 << 20})
	fillUp(t, []*ASD{a}, func() {
		if n := diskUsage(t, a.dir); n > 24<<20 {
			t.Fatalf("%d bytes are in use", n)
		}
	})
}

// fillUp fills ASDs until they refuse, checks that nothing was lost, that deletes pass and that their space comes
// back, three times.
func fillUp(t *testing.T, asds []*ASD, whenFull func()) {
	t.Helper()
	n := 0
	for round := range 3 {
		want := make([]map[string][]byte, len(asds))
		for i := range want {
			want[i] = make(map[string][]byte)
		}
		for full := 0; full < len(asds); {
			full = 0
			for i, a := range asds {
				n++
				k := fmt.Sprintf("k%06d", n)
				p := NewBuffer(20<<10 + n%100<<10)
				copy(p, payload(len(p), uint64(n)))
				var b Batch
				b.Put([]byte(k), nil, p)
				_, err := a.Apply(t.Context(), &b, Durability(n%2))
				switch {
				case errors.Is(err, ErrFull):
					full++
				case err != nil:
					t.Fatalf("round %d: put %d: %v", round, n, err)
				default:
					want[i][k] = p
				}
			}
		}
		whenFull()
		total := int64(0)
		for i, a := range asds {
			for k, p := range want[i] {
				check(t, a, k, p)
				total += int64(len(p))
			}
		}
		t.Logf("round %d: %d bytes of payload", round, total)
		if round == 0 {
			defer func(first int64) {
				if total < first*8/10 {
					t.Errorf("%d bytes fit at first, %d at last", first, total)
				}
			}(total)
		}
		// One by one: every delete costs a frame of its own.
		for i, a := range asds {
			for k := range want[i] {
				del(t, a, k)
			}
		}
		for _, a := range asds {
			if err := a.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st := a.Stat(); st.Records != 0 || st.Used > 4<<20 {
				t.Fatalf("round %d: everything is deleted: %+v", round, st)
			}
			if n := diskUsage(t, a.dir); n > 4<<20 {
				t.Fatalf("round %d: everything is deleted and the folder occupies %d bytes", round, n)
			}
		}
	}
}

// TestFullByOthers: the filesystem is filled to the last byte by someone else; deletes still pass.
func TestFullByOthers(t *testing.T) {
	l := newLoopMount(t, 64<<20)
	dir := filepath.Join(l.dir, "asd")
	if _, err := Format(dir, testCluster); err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, dir, Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	for i := range 200 {
		put(t, a, fmt.Sprintf("k%d", i), payload(100<<10, uint64(i)))
	}
	f, err := os.Create(filepath.Join(l.dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	f.Close()
	var b Batch
	b.Put([]byte("more"), nil, NewBuffer(1<<20))
	for i := 0; ; i++ {
		if _, err := a.Apply(t.Context(), &b, Durable); errors.Is(err, ErrFull) {
			break
		} else if err != nil || i == 10 { // what was allocated ahead may be used
			t.Fatalf("put %d: %v", i, err)
		}
	}
	for i := range 200 {
		check(t, a, fmt.Sprintf("k%d", i), payload(100<<10, uint64(i)))
		del(t, a, fmt.Sprintf("k%d", i))
	}
	if err := a.Compact(t.Context()); err != nil {
		out, _ := exec.Command("sh", "-c", "df "+l.dir+"; find "+dir+" -type f | xargs ls -ls").CombinedOutput()
		t.Logf("%s", out)
		for id, seg := range a.table.segments {
			t.Log(id, fmt.Sprintf("%+v", seg.state), seg.sealed, seg.dying, seg.missing)
		}
		t.Fatal(err)
	}
	if _, err := a.Apply(t.Context(), &b, Durable); err != nil {
		t.Fatalf("put after the deletes: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}
