// Package fstest is the contract of fs.FS as a suite that every implementation runs:
//
//	func TestContract(t *testing.T) {
//		fstest.Run(t, func(t *testing.T) func(fs.Watcher) fs.FS { return memfs.New().Session })
//	}
//
// It checks the rules of POSIX for names, links, times and content, the limits and errors of package
// fs, what watchers are told, and behaviour under concurrency; and it compares random sequences of
// operations with the reference model fs/memfs. A failing random test prints its seed and how to
// replay it.
//
// Left to the implementation: access times when content is read, the size and blocks of a directory,
// where holes begin and end, and in which order entries are listed, as long as cookies rise.
package fstest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
)

// Open makes a new, empty filesystem and returns a function that opens a session with it, as
// memfs.FS.Session does. It cleans up through t.
type Open func(t *testing.T) (session func(fs.Watcher) fs.FS)

// Run runs the suite. Each part of it opens its own filesystem.
func Run(t *testing.T, open Open) {
	for _, part := range []struct {
		name string
		run  func(e *env)
	}{
		{"names", names}, {"kinds", kinds}, {"setgid", setgid}, {"links", links}, {"directories", directories},
		{"held", held}, {"gone", gone}, {"tmpfile", tmpfile}, {"rename", rename}, {"exchange", exchange}, {"attributes", attributes},
		{"times", times}, {"readdir", readdir}, {"readdir/changing", readdirChanging},
		{"content", readWrite}, {"content/sparse", sparse}, {"content/truncate", truncate}, {"content/allocate", allocate},
		{"content/seek", seek}, {"content/copy", copyRange}, {"content/replace", replaceContent}, {"content/big", bigFile},
		{"xattrs", xattrs}, {"watchers", watchers}, {"cancelled", cancelled}, {"statfs", statFS},
		{"concurrent/create", concurrentCreate}, {"concurrent/rename", concurrentRename}, {"concurrent/directories", concurrentDirectories},
		{"concurrent/content", concurrentContent}, {"random/content", randomContent}, {"random/names", randomNames},
	} {
		t.Run(part.name, func(t *testing.T) {
			session := open(t)
			part.run(&env{T: t, FS: session(nil), session: session, ctx: context.Background()})
		})
	}
}

// env is a filesystem under test, with the operations that every part needs. All of them fail the test
// when the operation fails.
type env struct {
	*testing.T
	fs.FS
	session func(fs.Watcher) fs.FS
	ctx     context.Context
}

var owner = fs.Cred{UID: 1000, GID: 100}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("unexpected error: %v", err)
	}
}

// want fails unless err matches target. what says in what case that was.
func (e *env) want(err, target error, what ...any) {
	e.Helper()
	if !errors.Is(err, target) {
		e.Fatalf("%sgot error %v, want %v", fmt.Sprintln(what...), err, target)
	}
}

func (e *env) file(parent fs.Ino, name string) fs.Ino {
	e.Helper()
	a, err := e.Mknod(e.ctx, owner, parent, name, fs.TypeRegular|0o644, 0)
	e.ok(err)
	return a.Ino
}

func (e *env) fileWith(parent fs.Ino, name string, content []byte) fs.Ino {
	e.Helper()
	ino := e.file(parent, name)
	e.write(ino, 0, content)
	return ino
}

func (e *env) dir(parent fs.Ino, name string) fs.Ino {
	e.Helper()
	a, err := e.Mkdir(e.ctx, owner, parent, name, 0o755)
	e.ok(err)
	return a.Ino
}

func (e *env) stat(ino fs.Ino) fs.Attr {
	e.Helper()
	a, err := e.Getattr(e.ctx, ino)
	e.ok(err)
	if a.Ino != ino {
		e.Fatalf("getattr of %d answered for %d", ino, a.Ino)
	}
	return a
}

// look returns the attributes of a name, which must be those of its inode.
func (e *env) look(parent fs.Ino, name string) fs.Attr {
	e.Helper()
	a, err := e.Lookup(e.ctx, parent, name)
	e.ok(err)
	if b := e.stat(a.Ino); a != b {
		e.Fatalf("lookup of %q says %+v, getattr says %+v", name, a, b)
	}
	return a
}

func (e *env) absent(parent fs.Ino, name string) {
	e.Helper()
	_, err := e.Lookup(e.ctx, parent, name)
	e.want(err, fs.ErrNotExist)
}

func (e *env) write(ino fs.Ino, off int64, p []byte) {
	e.Helper()
	e.ok(e.Write(e.ctx, ino, off, p))
}

// readAt returns up to n bytes.
func (e *env) readAt(ino fs.Ino, off int64, n int) []byte {
	e.Helper()
	p := poison(n)
	got, err := e.Read(e.ctx, ino, off, p)
	e.ok(err)
	if size := e.stat(ino).Size; int64(got) != min(int64(n), max(size-off, 0)) {
		e.Fatalf("read %d bytes of %d at %d of a file of %d", got, n, off, size)
	}
	return p[:got]
}

// wantContent reads all of a file and compares.
func (e *env) wantContent(ino fs.Ino, want []byte) {
	e.Helper()
	if size := e.stat(ino).Size; size != int64(len(want)) {
		e.Fatalf("size is %d, want %d", size, len(want))
	}
	if got := e.readAt(ino, 0, len(want)); !bytes.Equal(got, want) {
		e.Fatalf("content is wrong: %s", difference(got, want))
	}
}

// difference describes the first bytes in which two slices of equal length differ.
func difference(got, want []byte) string {
	for i := range want {
		if got[i] != want[i] {
			end := min(i+16, len(want))
			return fmt.Sprintf("at %d of %d: got % x, want % x", i, len(want), got[i:end], want[i:end])
		}
	}
	return "no difference"
}

func (e *env) wantNlink(ino fs.Ino, n uint32) {
	e.Helper()
	if got := e.stat(ino).Nlink; got != n {
		e.Fatalf("inode %d has %d links, want %d", ino, got, n)
	}
}

func (e *env) hold(ino fs.Ino) {
	e.Helper()
	e.ok(e.Hold(ino))
}

func (e *env) wantGone(ino fs.Ino) {
	e.Helper()
	_, err := e.Getattr(e.ctx, ino)
	e.want(err, fs.ErrNotExist)
	e.want(e.Hold(ino), fs.ErrNotExist)
}

func (e *env) setSize(ino fs.Ino, size int64) {
	e.Helper()
	a, err := e.Setattr(e.ctx, ino, fs.SetAttr{Mask: fs.SetSize, Size: size})
	e.ok(err)
	if a.Size != size {
		e.Fatalf("setattr answered size %d, want %d", a.Size, size)
	}
}

// list returns the entries of a directory by name, and checks that cookies rise and names are unique.
func (e *env) list(dir fs.Ino) map[string]fs.Dirent {
	e.Helper()
	entries := map[string]fs.Dirent{}
	last := uint64(2)
	e.ok(e.ReadDir(e.ctx, dir, 0, false, func(d fs.Dirent, a *fs.Attr) bool {
		if d.Cookie <= last || d.Cookie >= 1<<63 {
			e.Errorf("cookie %d of %q after %d", d.Cookie, d.Name, last)
		}
		if _, twice := entries[d.Name]; twice {
			e.Errorf("%q is listed twice", d.Name)
		}
		last, entries[d.Name] = d.Cookie, d
		return true
	}))
	return entries
}

// instant returns the time, later than every time stamp that was given out before.
func instant() int64 {
	at := time.Now().UnixNano()
	for {
		if now := time.Now().UnixNano(); now > at {
			return now
		}
	}
}

// noise returns n bytes that do not repeat, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n+8)
	x := seed * 0x9E3779B97F4A7C15
	for i := 0; i < n; i += 8 { // splitmix64
		x += 0x9E3779B97F4A7C15
		z := (x ^ x>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		binary.LittleEndian.PutUint64(p[i:], z^z>>31)
	}
	return p[:n:n]
}

// poison returns n bytes that are not zero, so that what a read leaves out shows.
func poison(n int) []byte {
	p := make([]byte, n)
	if n > 0 {
		p[0] = 0xEE
	}
	for done := 1; done < n; done *= 2 {
		copy(p[done:], p[:done])
	}
	return p
}
