package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is a filesystem of its own, in a file.
type Loop struct {
	t     testing.TB
	image string
	kind  string
	Dir   string // where it is mounted
}

// NewLoop makes a filesystem of a kind (ext4, xfs) and size in bytes, and mounts it. The test is skipped where
// that is not possible.
func NewLoop(t testing.TB, kind string, size int64) *Loop {
	t.Helper()
	NeedRoot(t)
	mkfs := NeedTool(t, "mkfs."+kind)
	dir := t.TempDir()
	l := &Loop{t: t, image: filepath.Join(dir, "image"), kind: kind, Dir: filepath.Join(dir, "fs")}
	f, err := os.Create(l.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", l.image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	out, err := exec.Command("mount", "-o", "loop", l.image, l.Dir).CombinedOutput()
	if err != nil {
		t.Skipf("needs loop devices and %s: %v: %s", kind, err, out)
	}
	t.Cleanup(func() { detach(l.Dir) })
	return l
}

// Cut makes the filesystem behave as if power had failed: nothing more reaches the device, not even what is
// in its journal's buffers.
func (l *Loop) Cut() {
	l.t.Helper()
	const (
		shutdown   = 0x8004587d // FS_IOC_SHUTDOWN
		noLogFlush = 2
	)
	f, err := os.Open(l.Dir)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		l.t.Fatalf("FS_IOC_SHUTDOWN on %s: %v", l.kind, err)
	}
}

// Remount unmounts the filesystem, which nobody may use any more, and mounts it again, so that it recovers.
func (l *Loop) Remount() {
	l.t.Helper()
	WaitFor(l.t, 2*time.Minute, "the "+l.kind+" filesystem to be free", func() bool {
		return unix.Unmount(l.Dir, 0) == nil
	})
	// The device goes with the mount, a moment later.
	WaitFor(l.t, 2*time.Minute, "the loop device to be detached", func() bool {
		out, err := exec.Command("losetup", "-j", l.image).Output()
		return err == nil && len(out) == 0
	})
	if out, err := exec.Command("mount", "-o", "loop", l.image, l.Dir).CombinedOutput(); err != nil {
		l.t.Fatalf("mount: %v\n%s", err, out)
	}
}

// Free returns the bytes that are left on the filesystem.
func (l *Loop) Free() int64 {
	l.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir, &st); err != nil {
		l.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

func (l *Loop) String() string { return fmt.Sprintf("%s on %s", l.kind, l.Dir) }
