package data

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

const (
	// reapInodes and reapExtents bound one transaction of the reaper.
	reapInodes  = 64
	reapExtents = 512
	// reapGather is how long the reaper waits for more to free at once, when nobody waits for it.
	reapGather = 50 * time.Millisecond
	// deleteObjects is how many dead objects are deleted in one call.
	deleteObjects = 256
)

// reaper frees what nothing refers to any more, in steps: inodes without links, content without an
// inode, objects without a blob. Each step leaves a row that says what is left, so that a crash loses
// none of it.
type reaper struct {
	s    *Store
	wake chan struct{} // poked when there is something to free
	now  chan struct{} // poked when that is worth a pass, or somebody waits for one

	mu     sync.Mutex
	inodes []fs.Ino
	begun  uint64        // passes
	ended  uint64        // the newest pass that has ended
	change chan struct{} // closed and renewed when a pass ends
	over   chan struct{} // closed when there will be no more passes
}

func newReaper(s *Store) *reaper {
	x := &reaper{s: s, wake: make(chan struct{}, 1), now: make(chan struct{}, 1), change: make(chan struct{}), over: make(chan struct{})}
	x.kick() // what the last run of the process left
	return x
}

func (x *reaper) kick() { poke(x.wake) }

// Reap frees the inode ino, which has no link and is not held any more, and its content.
func (s *Store) Reap(ino fs.Ino) {
	s.forget(ino)
	s.reaper.mu.Lock()
	s.reaper.inodes = append(s.reaper.inodes, ino)
	batch := len(s.reaper.inodes) >= reapInodes
	s.reaper.mu.Unlock()
	s.reaper.kick()
	if batch {
		poke(s.reaper.now)
	}
}

// forget gives up what is in memory of a file that is gone.
func (s *Store) forget(ino fs.Ino) {
	s.mu.Lock()
	f := s.files[ino]
	if f != nil {
		if f.refs == 0 {
			s.idle--
		}
		f.refs++
	}
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	f.gone = true
	f.drop()
	f.mu.Unlock()
	s.folder.forget(ino)
	s.flusher.hurry() // nothing of it is left to fail
	s.release(f)
}

func (x *reaper) take() []fs.Ino {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := min(len(x.inodes), reapInodes)
	out := x.inodes[:n:n]
	x.inodes = x.inodes[n:]
	return out
}

func (x *reaper) run(ctx context.Context) {
	defer close(x.over)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := x.pass(ctx); err != nil && ctx.Err() == nil {
			x.s.log.Error("freeing space failed; it is tried again", "err", err)
			select { // not at once: the cause is likely still there
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-x.wake:
			x.gather(ctx)
		case <-tick.C:
			x.s.settle(ctx)
		}
	}
}

// gather waits until there is enough to free for a pass to be worth it: each costs a transaction or two.
func (x *reaper) gather(ctx context.Context) {
	timer := time.NewTimer(reapGather)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-x.now:
	}
}

// settled returns when a pass has ended that began after the call.
func (x *reaper) settled(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for since := x.begun; x.ended <= since; {
		ch := x.change
		x.mu.Unlock()
		x.kick()
		poke(x.now)
		select {
		case <-ch:
		case <-x.over:
			x.mu.Lock()
			return fs.ErrClosed
		case <-ctx.Done():
			x.mu.Lock()
			return ctx.Err()
		}
		x.mu.Lock()
	}
	return nil
}

// pass frees everything there is to free now.
func (x *reaper) pass(ctx context.Context) error {
	x.mu.Lock()
	x.begun++
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.ended = x.begun
		close(x.change)
		x.change = make(chan struct{})
	}()
	for {
		batch := x.take()
		if len(batch) == 0 {
			break
		}
		if err := x.s.dropInodes(ctx, batch); err != nil {
			x.mu.Lock()
			x.inodes = append(x.inodes, batch...)
			x.mu.Unlock()
			return err
		}
	}
	if err := x.s.freeDoomed(ctx); err != nil {
		return err
	}
	return x.s.deleteDead(ctx)
}

// dropInodes removes inodes; their contents are doomed, small ones freed at once.
func (s *Store) dropInodes(ctx context.Context, inos []fs.Ino) error {
	var l *ledger
	err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		l = s.ledger(t)
		budget := reapExtents
		for _, ino := range inos {
			n, err := meta.GetInode(t, ino)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := meta.DropInode(t, ino); err != nil {
				return fmt.Errorf("drop inode %d: %w", ino, err)
			}
			if !n.IsRegular() {
				continue
			}
			t.Delete(ksFold, u64key(uint64(ino)))
			done, err := l.free(n.Content, &budget)
			if err != nil {
				return err
			}
			if !done {
				t.Put(ksDoomed, u64key(n.Content), nil)
			}
		}
		l.finish()
		return nil
	})
	if err == nil {
		l.settle()
		s.reaped(inos)
	}
	return err
}

// free removes up to *budget extents of a content, and what they refer to; done when none is left.
func (l *ledger) free(content uint64, budget *int) (done bool, err error) {
	if *budget <= 0 {
		return false, nil
	}
	refs := make(refDelta)
	var keys [][]byte
	done = true
	rerr := l.t.Range(ksExtent, kv.Prefix(u64key(content)), func(k, v []byte) bool {
		if len(keys) == *budget {
			done = false
			return false
		}
		var e extent
		if e, err = decodeExtent(v); err != nil {
			err = &DamageError{fmt.Sprintf("extent %x", k), err}
			return false
		}
		for _, p := range e.pieces {
			refs[p.hash]--
		}
		keys = append(keys, append([]byte(nil), k...))
		return true
	})
	if err = errors.Join(err, rerr); err != nil {
		return false, err
	}
	*budget -= len(keys)
	for _, k := range keys {
		if err := l.dropInline(k); err != nil {
			return false, err
		}
		l.t.Delete(ksExtent, k)
	}
	return done, l.apply(refs, nil)
}

// dropInline removes the inline rows of the block with that extent key.
func (l *ledger) dropInline(key []byte) error {
	var rows [][]byte
	err := l.t.Range(ksInline, kv.Prefix(key), func(k, _ []byte) bool {
		rows = append(rows, append([]byte(nil), k...))
		return true
	})
	for _, k := range rows {
		l.t.Delete(ksInline, k)
	}
	return err
}

// freeDoomed frees contents that no inode has, a bounded number of extents at a time.
func (s *Store) freeDoomed(ctx context.Context) error {
	for {
		more := false
		var l *ledger
		err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
			l, more = s.ledger(t), false
			var doomed []uint64
			err := t.Range(ksDoomed, kv.Range{Limit: reapInodes}, func(k, _ []byte) bool {
				doomed = append(doomed, binary.BigEndian.Uint64(k))
				return true
			})
			budget := reapExtents
			for _, c := range doomed {
				if err != nil {
					return err
				}
				var done bool
				if done, err = l.free(c, &budget); done && err == nil {
					t.Delete(ksDoomed, u64key(c))
				}
				more = true
			}
			if err == nil {
				l.finish()
			}
			return err
		})
		if err != nil {
			return err
		}
		l.settle()
		if !more {
			return nil
		}
	}
}

// deleteDead deletes the objects that no blob is in.
func (s *Store) deleteDead(ctx context.Context) error {
	for {
		var names []string
		var keys [][]byte
		err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
			names, keys = names[:0], keys[:0]
			return r.Range(ksDead, kv.Range{Limit: deleteObjects}, func(k, _ []byte) bool {
				keys = append(keys, append([]byte(nil), k...))
				names = append(names, objectName(binary.BigEndian.Uint64(k)))
				return true
			})
		})
		if err != nil || len(names) == 0 {
			return err
		}
		if err := s.ns.Delete(ctx, names...); err != nil {
			return fmt.Errorf("delete objects: %w", err)
		}
		err = s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
			for _, k := range keys {
				t.Delete(ksDead, k)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// settle records below which id every object has its row, so that the next start after a crash looks
// only at the others.
func (s *Store) settle(ctx context.Context) {
	low := s.ids.settled()
	if low == s.settled {
		return
	}
	err := s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		t.Put(ksData, keySettled, u64key(low))
		return nil
	})
	if err == nil {
		s.settled = low
	}
}

// collect marks dead the objects that a crash left without a reference: those with ids from settled on
// that have no row.
func (s *Store) collect(ctx context.Context, settled uint64) error {
	var orphans []uint64
	flush := func() error {
		defer func() { orphans = orphans[:0] }()
		return s.bury(ctx, orphans)
	}
	var err error
	lerr := s.ns.List(ctx, objectName(settled), "", func(o objstore.Info) bool {
		var id uint64
		if id, err = parseObjectName(o.Name); err != nil {
			return false
		}
		if id >= s.firstID { // of this run
			return false
		}
		if orphans = append(orphans, id); len(orphans) == reapExtents {
			err = flush()
		}
		return err == nil
	})
	if err == nil && lerr == nil {
		err = flush()
	}
	return errors.Join(err, lerr)
}
