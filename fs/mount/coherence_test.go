package mount_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/mount"
)

// TestCoherence changes things through another session, and looks through the mount at once: before,
// so that the kernel has cached what there was, and after.
func TestCoherence(t *testing.T) { each(t, coherence) }

func coherence(t *testing.T, m *model) {
	other := m.fs
	sh := m.shell(t)
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	look := func(want string, args ...string) {
		t.Helper()
		if got := sh.try(args...); got != want && (!strings.HasPrefix(want, "error") || !strings.Contains(got, want[len("error "):])) {
			t.Errorf("%q says %q, want %q", args, got, want)
		}
	}
	const gone = "error no such file or directory"

	look(gone, "read", "f") // known to be missing, and the listing known to be empty
	look("", "ls", ".")
	f, err := other.Mknod(ctx, fs.Cred{}, fs.Root, "f", 0o666, 0)
	ok(err)
	look("", "read", "f")
	look("f", "ls", ".")

	ok(other.Write(ctx, f.Ino, 0, []byte("first")))
	look("first", "read", "f")
	look("size 5 nlink 1 mode 100666", "stat", "f")
	sh.do("open", "f")
	sh.do("map")
	look("first", "mapped", "first")
	ok(other.Write(ctx, f.Ino, 0, []byte("second")))
	look("second", "pread", "100")
	look("second", "mapped", "second")
	look("size 6 nlink 1", "fstat")
	_, err = other.Setattr(ctx, f.Ino, fs.SetAttr{Mask: fs.SetSize | fs.SetMode, Size: 3, Mode: 0o640})
	ok(err)
	look("sec", "read", "f")
	look("size 3 nlink 1 mode 100640", "stat", "f")
	src, err := other.Tmpfile(ctx, fs.Cred{}, fs.Root, 0o600)
	ok(err)
	ok(other.Write(ctx, src.Ino, 0, []byte("replaced")))
	_, err = other.ReplaceContent(ctx, f.Ino, src.Ino)
	ok(err)
	other.Drop(src.Ino, 1)
	look("replaced", "pread", "100")
	look("replaced", "mapped", "replaced")

	// the other way round: what the mount wrote is there when the call returns
	sh.do("pwrite", "written!")
	p := make([]byte, 100)
	n, err := other.Read(ctx, f.Ino, 0, p)
	ok(err)
	if string(p[:n]) != "written!" {
		t.Errorf("the other session reads %q", p[:n])
	}

	// appending goes to the end that there is, wherever the kernel takes it to be
	sh.do("openappend", "f")
	sh.do("append", "1")
	ok(other.Write(ctx, f.Ino, 9, []byte(" longer")))
	sh.do("append", "2")
	sh.do("append", "3")
	look("written!1 longer23", "read", "f")
	_, err = other.Setattr(ctx, f.Ino, fs.SetAttr{Mask: fs.SetSize, Size: 8})
	ok(err)
	sh.do("append", "4")
	look("written!4", "read", "f")
	_, err = other.Setattr(ctx, f.Ino, fs.SetAttr{Mask: fs.SetSize, Size: 8})
	ok(err)
	sh.do("closeappend")

	_, err = other.Link(ctx, f.Ino, fs.Root, "g")
	ok(err)
	look("size 8 nlink 2", "fstat")
	look("f g", "ls", ".")
	ok(other.Rename(ctx, fs.Root, "g", fs.Root, "h", 0))
	look(gone, "stat", "g")
	look("written!", "read", "h")
	d, err := other.Mkdir(ctx, fs.Cred{}, fs.Root, "d", 0o755)
	ok(err)
	look("", "ls", "d")
	ok(other.Rename(ctx, fs.Root, "h", d.Ino, "h", 0))
	look("h", "ls", "d")
	look("d f", "ls", ".")
	ok(other.Rename(ctx, fs.Root, "f", d.Ino, "h", fs.RenameExchange))
	look("written!", "read", "f")
	ok(other.Unlink(ctx, d.Ino, "h"))
	ok(other.Unlink(ctx, fs.Root, "f"))
	look(gone, "read", "f")
	look("size 8 nlink 0", "fstat")
	look("written!", "pread", "100") // still open
	sh.do("unmap")
	sh.do("closefd")

	sh.do("chdir", "d")
	ok(other.Rmdir(ctx, fs.Root, "d"))
	look("nlink 0", "statcwd")
	look(gone, "ls", "d")
	look("", "ls", ".")

	l, err := other.Symlink(ctx, fs.Cred{}, fs.Root, "l", "one")
	ok(err)
	look("one", "readlink", "l")
	ok(other.Unlink(ctx, fs.Root, "l"))
	_, err = other.Symlink(ctx, fs.Cred{}, fs.Root, "l", "two")
	ok(err)
	look("two", "readlink", "l")
	look("error no data", "getxattr", "l", "trusted.a")
	l, err = other.Lookup(ctx, fs.Root, "l")
	ok(err)
	ok(other.SetXattr(ctx, l.Ino, "trusted.a", []byte("v"), 0))
	look("v", "getxattr", "l", "trusted.a")
}

// TestCoherenceUnderLoad: two sessions, one of them the mount, change the same few names and files at
// once. Nothing may hang, and in the end both see the same.
func TestCoherenceUnderLoad(t *testing.T) { each(t, coherenceUnderLoad) }

func coherenceUnderLoad(t *testing.T, m *model) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	other := m.fs
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint("n", (i*7+w)%5)
				if a, err := other.Mknod(ctx, fs.Cred{}, fs.Root, name, 0o666, 0); err == nil {
					if err := other.Write(ctx, a.Ino, 0, []byte("from the other")); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
				_ = other.Rename(ctx, fs.Root, name, fs.Root, fmt.Sprint("n", (i*3+w)%5), 0)
				_ = other.Unlink(ctx, fs.Root, fmt.Sprint("n", (i*5+w)%5))
			}
		})
	}
	var shells sync.WaitGroup
	for w := range 2 {
		sh := m.shell(t)
		shells.Go(func() {
			for i := range 120 {
				name := fmt.Sprint("n", (i+w)%5)
				sh.try("write", name, "from the mount")
				sh.try("read", name)
				sh.try("rename", name, fmt.Sprint("n", (i*3+w)%5))
				sh.try("ls", ".")
				sh.try("unlink", name)
			}
		})
	}
	shells.Wait()
	close(stop)
	wg.Wait()
	sh := m.shell(t)
	var names []string
	if err := other.ReadDir(ctx, fs.Root, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		names = append(names, d.Name)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(sh.do("ls", "."))
	if len(listed) != len(names) {
		t.Errorf("the mount lists %v, the other session %v", listed, names)
	}
	for i := range 5 {
		name := fmt.Sprint("n", i)
		a, err := other.Lookup(ctx, fs.Root, name)
		got := sh.try("read", name)
		if err != nil {
			if !strings.Contains(got, "no such file") {
				t.Errorf("%s is gone, but the mount reads %q", name, got)
			}
			continue
		}
		p := make([]byte, 100)
		n, err := other.Read(ctx, a.Ino, 0, p)
		if err != nil || got != string(p[:n]) {
			t.Errorf("%s: the mount reads %q, the other session %q, %v", name, got, p[:n], err)
		}
	}
}

// TestHandles: a file handle means the same inode when it is mounted again, and none when it is gone.
func TestHandles(t *testing.T) { each(t, handles) }

func handles(t *testing.T, m *model) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	sh := m.shell(t)
	sh.do("mkdir", "d")
	sh.do("write", "d/f", "content")
	sh.do("write", "g", "other")
	f, d, g := sh.do("handle", "d/f"), sh.do("handle", "d"), sh.do("handle", "g")
	sh.close()
	if err := m.server.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	server, err := mount.Mount(t.Context(), m.dir, m.session, mount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, server) })
	sh = m.shell(t)
	sh.do("unlink", "g")
	if got := sh.try("readhandle", f); got != "content" {
		t.Errorf("by handle: %q", got)
	}
	if got := sh.try("readhandle", d); !strings.Contains(got, "is a directory") {
		t.Errorf("a directory by handle: %q", got)
	}
	if got := sh.try("readhandle", g); !strings.Contains(got, "stale") {
		t.Errorf("what is gone by handle: %q", got)
	}
}
