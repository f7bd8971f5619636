package fstest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/fs"
)

// recorder is a Watcher that writes down what it is told, and looks at the filesystem while it is told:
// nothing may be locked then, and the change must be visible.
type recorder struct {
	mu     sync.Mutex
	events map[string]bool
	look   func(ino fs.Ino)
}

func (r *recorder) EntryChanged(dir fs.Ino, name string) {
	r.look(dir)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[fmt.Sprint("entry ", dir, " ", name)] = true
}

func (r *recorder) InodeChanged(ino fs.Ino, content bool) {
	r.look(ino)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[fmt.Sprint("inode ", ino)] = true
	if content {
		r.events[fmt.Sprint("content ", ino)] = true
	}
}

func (r *recorder) take() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = map[string]bool{}
	return events
}

// watchers does each operation and checks that the other sessions were told of at least what changed,
// and the own session of nothing. Changes of a directory's own attributes follow from its entries'.
func watchers(e *env) {
	mine, theirs := &recorder{}, []*recorder{{}, {}}
	own := e.session(mine)
	for _, r := range append(theirs, mine) {
		r.events = map[string]bool{}
		r.look = func(ino fs.Ino) { _, _ = e.Getattr(context.Background(), ino) } // it may be gone
	}
	for _, r := range theirs {
		e.session(r)
	}
	other := e.FS
	e = &env{T: e.T, FS: own, session: e.session, ctx: e.ctx}
	ctx, ok := e.ctx, e.ok
	for i, c := range []struct {
		name string
		op   func(w *world)
		want func(w *world) []string
	}{
		{"mknod", func(w *world) { e.file(w.d, "new") }, func(w *world) []string { return entryOf(w.d, "new") }},
		{"mkdir", func(w *world) { e.dir(w.d, "new") }, func(w *world) []string { return entryOf(w.d, "new") }},
		{"symlink", func(w *world) { _, err := e.Symlink(ctx, owner, w.d, "new", "x"); ok(err) }, func(w *world) []string { return entryOf(w.d, "new") }},
		{"link", func(w *world) { _, err := e.Link(ctx, w.f, w.d2, "new"); ok(err) },
			func(w *world) []string { return append(entryOf(w.d2, "new"), inodeOf(w.f)...) }},
		{"unlink", func(w *world) { ok(e.Unlink(ctx, w.d, "f")) },
			func(w *world) []string { return append(entryOf(w.d, "f"), inodeOf(w.f)...) }},
		{"rmdir", func(w *world) { ok(e.Rmdir(ctx, w.d, "sub")) }, func(w *world) []string { return entryOf(w.d, "sub") }},
		{"rename", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "new", 0)) },
			func(w *world) []string { return slices.Concat(entryOf(w.d, "f"), entryOf(w.d2, "new"), inodeOf(w.f)) }},
		{"rename over", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "g", 0)) },
			func(w *world) []string {
				return slices.Concat(entryOf(w.d, "f"), entryOf(w.d2, "g"), inodeOf(w.f), inodeOf(w.g))
			}},
		{"exchange", func(w *world) { ok(e.Rename(ctx, w.d, "f", w.d2, "g", fs.RenameExchange)) },
			func(w *world) []string {
				return slices.Concat(entryOf(w.d, "f"), entryOf(w.d2, "g"), inodeOf(w.f), inodeOf(w.g))
			}},
		{"write", func(w *world) { e.write(w.f, 0, []byte("x")) }, func(w *world) []string { return contentOf(w.f) }},
		{"truncate", func(w *world) { e.setSize(w.f, 1) }, func(w *world) []string { return contentOf(w.f) }},
		{"allocate", func(w *world) { ok(e.Allocate(ctx, w.f, fs.AllocZeroRange, 0, 10)) }, func(w *world) []string { return contentOf(w.f) }},
		{"copy", func(w *world) { _, err := e.CopyRange(ctx, w.f, 0, w.g, 0, 2); ok(err) }, func(w *world) []string { return contentOf(w.g) }},
		{"replace", func(w *world) { _, err := e.ReplaceContent(ctx, w.f, w.g); ok(err) },
			func(w *world) []string { return append(contentOf(w.f), contentOf(w.g)...) }},
		{"chmod", func(w *world) { _, err := e.Setattr(ctx, w.f, fs.SetAttr{Mask: fs.SetMode}); ok(err) }, func(w *world) []string { return inodeOf(w.f) }},
		{"setxattr", func(w *world) { ok(e.SetXattr(ctx, w.f, "user.b", nil, 0)) }, func(w *world) []string { return inodeOf(w.f) }},
		{"removexattr", func(w *world) { ok(e.RemoveXattr(ctx, w.f, "user.a")) }, func(w *world) []string { return inodeOf(w.f) }},
	} {
		w := e.world(fmt.Sprint("world", i, "-"))
		for _, r := range theirs {
			r.take()
		}
		c.op(w)
		for n, r := range theirs {
			told := r.take()
			for _, event := range c.want(w) {
				if !told[event] {
					e.Errorf("%s: watcher %d was not told %q, only %v", c.name, n, event, told)
				}
			}
		}
		w.drop(e)
	}
	if told := mine.take(); len(told) > 0 {
		e.Errorf("a session was told of its own changes: %v", told)
	}
	_, err := other.Mkdir(ctx, owner, fs.Root, "by another", 0o755)
	ok(err)
	if told := mine.take(); !told[entryOf(fs.Root, "by another")[0]] {
		e.Errorf("a session was not told of another's change: %v", told)
	}
}

func entryOf(dir fs.Ino, name string) []string { return []string{fmt.Sprint("entry ", dir, " ", name)} }
func inodeOf(ino fs.Ino) []string              { return []string{fmt.Sprint("inode ", ino)} }
func contentOf(ino fs.Ino) []string {
	return []string{fmt.Sprint("inode ", ino), fmt.Sprint("content ", ino)}
}

// cancelled: an operation whose context is cancelled happened whole or not at all.
func cancelled(e *env) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	f := e.fileWith(fs.Root, "f", []byte("old"))
	if a, err := e.Mknod(ctx, owner, fs.Root, "g", fs.TypeRegular|0o644, 0); err == nil {
		e.look(fs.Root, "g")
		e.wantNlink(a.Ino, 1)
	} else {
		e.absent(fs.Root, "g")
	}
	if err := e.Rename(ctx, fs.Root, "f", fs.Root, "h", 0); err == nil {
		e.absent(fs.Root, "f")
		e.look(fs.Root, "h")
	} else {
		e.absent(fs.Root, "h")
		e.look(fs.Root, "f")
	}
	if err := e.Write(ctx, f, 0, []byte("new")); err == nil {
		e.wantContent(f, []byte("new"))
	} else {
		e.wantContent(f, []byte("old"))
	}
	e.file(fs.Root, "later")
}
