package dav

import (
	"context"
	"slices"
	"sync"
)

// A claim announces what a request is about to do with a path, from its last check of locks and
// preconditions until the change is made, so that nothing comes in between. Claims are short-lived and
// of this process only; they are not WebDAV locks.
type claim struct {
	path string
	tree bool // everything below path, too
	kind claimKind
}

type claimKind uint8

const (
	// member: an entry of the directory path comes or goes.
	member claimKind = iota
	// change: the resource at path changes, comes or goes.
	change
	// locking: a lock on path is being made.
	locking
)

// conflicts says which claims exclude each other: two changes of one path, and a new lock with
// whatever it would cover. Changes of members of one directory pass each other.
func (c claim) conflicts(d claim) bool {
	overlap := c.path == d.path || c.tree && within(d.path, c.path) || d.tree && within(c.path, d.path)
	if !overlap {
		return false
	}
	return c.kind == locking || d.kind == locking ||
		c.kind == change && d.kind == change && c.path == d.path
}

// claims is the table of active claims. mu is never held while waiting.
type claims struct {
	mu     sync.Mutex
	active []*claimSet
}

type claimSet struct {
	claims []claim
	done   chan struct{}
}

func (s *claimSet) conflicts(cs []claim) bool {
	return slices.ContainsFunc(cs, func(c claim) bool { return slices.ContainsFunc(s.claims, c.conflicts) })
}

// take waits until none of cs conflicts with an active claim, takes all of them at once, and returns
// the function that gives them back.
func (t *claims) take(ctx context.Context, cs ...claim) (release func(), err error) {
	for {
		t.mu.Lock()
		i := slices.IndexFunc(t.active, func(s *claimSet) bool { return s.conflicts(cs) })
		if i < 0 {
			s := &claimSet{claims: cs, done: make(chan struct{})}
			t.active = append(t.active, s)
			t.mu.Unlock()
			return func() { t.release(s) }, nil
		}
		busy := t.active[i].done
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *claims) release(s *claimSet) {
	t.mu.Lock()
	i := slices.Index(t.active, s)
	t.active = slices.Delete(t.active, i, i+1)
	t.mu.Unlock()
	close(s.done)
}
