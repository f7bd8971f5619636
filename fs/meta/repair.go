package meta

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Repairer repairs what Check finds. What it cannot place it links in the directory lost+found of the
// root, under the name "#" and the inode number; it deletes only what names nothing or cannot be read.
//
// Each round of repairs is one transaction that checks again before it writes, so the volume may be in
// use: everything else waits meanwhile. Caches above the store are not told.
type Repairer struct {
	Clock func() time.Time // stamps what is made anew; nil is time.Now
	// Content measures the content that package data keeps under an id, for a regular file whose inode
	// does not decode: its size in bytes and in units of 512. With nil such a file comes back empty.
	Content func(r kv.Reader, content uint64) (size, blocks int64, err error)
	// Progress is that of Checker.
	Progress func(rows uint64)
}

const (
	// roundRepairs bounds one transaction.
	roundRepairs = 4096
	// maxStuck bounds the rounds after which there are no fewer problems than before: repairing one
	// thing can uncover the next, as reading a directory that was made anew does, but never for long.
	maxStuck = 16
)

// Repaired is what was done about a problem.
type Repaired struct {
	Problem
	Done string `json:"done"` // what was done
}

// Run checks and repairs until nothing is left that it can repair, and returns once the result is
// durable. It reports every problem that it repaired, after it did. The summary is of the last check;
// its Problems are those that are left.
func (o Repairer) Run(ctx context.Context, store kv.Store, report func(Repaired)) (Summary, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	checker := Checker{Progress: o.Progress}
	sum, err := checker.Run(ctx, store, func(Problem) {})
	if err != nil || sum.Problems == 0 {
		return sum, err
	}
	for stuck := 0; stuck < maxStuck; {
		var done []Repaired
		err := store.Update(ctx, kv.Ordered, func(t kv.Txn) (err error) {
			done, err = o.round(ctx, t)
			return err
		})
		if err != nil {
			return sum, fmt.Errorf("repair volume: %w", translate(err))
		}
		for _, r := range done {
			report(r)
		}
		before := sum.Problems
		if sum, err = checker.Run(ctx, store, func(Problem) {}); err != nil {
			return sum, err
		}
		if len(done) == 0 || sum.Problems == 0 {
			break
		}
		if sum.Problems >= before {
			stuck++
		}
	}
	if err := store.Sync(ctx); err != nil {
		return sum, fmt.Errorf("repair volume: %w", translate(err))
	}
	return sum, nil
}

// round checks and repairs in one transaction.
func (o Repairer) round(ctx context.Context, t kv.Txn) (done []Repaired, err error) {
	var all []Problem
	c, err := Checker{Progress: o.Progress}.check(ctx, t, func(p Problem) {
		if len(all) < roundRepairs {
			all = append(all, p)
		}
	})
	if err != nil {
		return nil, err
	}
	r := repair{Txn: t, options: o, volume: c.volume, now: o.Clock().UnixNano()}
	for _, p := range all {
		what, err := r.fix(p)
		switch {
		case errors.Is(err, errLater), errors.Is(err, fs.ErrIO): // it needs a row that is damaged itself
		case err != nil:
			return nil, fmt.Errorf("%v: %w", p, err)
		case what != "":
			done = append(done, Repaired{p, what})
		}
	}
	return done, nil
}

// errLater says that a repair has to wait for another. A repair that fails has written nothing.
var errLater = errors.New("something else has to be repaired first")

// repair is one transaction.
type repair struct {
	kv.Txn
	options Repairer
	volume  Volume
	now     int64
}

// fix does what can be done about a problem and says what it did: "" when it is no problem any more.
func (r *repair) fix(p Problem) (string, error) {
	switch p.Kind {
	case KindDamaged:
		return r.damaged(p)
	case KindRoot:
		return r.root()
	case KindDangling:
		return r.dangling(p)
	case KindStray:
		return r.stray(p)
	case KindEntryType:
		return r.entryType(p)
	case KindCookie:
		return r.cookie(p)
	case KindExtraEntry:
		return r.extraEntry(p)
	case KindParent:
		return r.parent(p)
	case KindCycle:
		return r.cycle(p)
	case KindUnreachable:
		return r.unreachable(p)
	case KindNlink, KindXattrCount:
		return r.count(p)
	case KindOrphanMissing, KindOrphanLinked, KindOrphanDangling:
		return r.orphan(p)
	case KindXattrDangling:
		return r.xattr(p)
	case KindFiles:
		putCounter(r, filesKey, p.Want)
		return fmt.Sprintf("set to %d", p.Want), nil
	case KindNext:
		next, err := r.next()
		if err != nil {
			return "", err
		}
		putCounter(r, nextKey, next)
		return fmt.Sprintf("set to %d", next), nil
	}
	return "", nil
}

// inode reads an inode; ok is false when it is missing.
func (r *repair) inode(ino fs.Ino) (in Inode, ok bool, err error) {
	in, err = GetInode(r, ino)
	if errors.Is(err, fs.ErrNotExist) {
		return in, false, nil
	}
	return in, err == nil, err
}

// entryAt reads the entry that a problem is about; ok is false when it is gone.
func (r *repair) entryAt(p Problem) (e entry, ok bool, err error) {
	b, err := r.Get(p.Keyspace, p.Key)
	if errors.Is(err, kv.ErrNotFound) {
		return e, false, nil
	}
	if err == nil {
		e, err = decodeEntry(p.Key, b)
	}
	return e, err == nil, err
}

// next returns an inode number above all that exist, and above what was reserved if that is known.
func (r *repair) next() (uint64, error) {
	next := uint64(fs.Root) + 1
	if n, err := getCounter(r, nextKey); err == nil && n <= uint64(maxIno) {
		next = max(next, n)
	} else if err != nil && !errors.Is(err, fs.ErrIO) {
		return 0, err
	}
	for _, ks := range []kv.Keyspace{InodeKeyspace, OrphanKeyspace} {
		err := r.Range(ks, kv.Range{Reverse: true}, func(k, _ []byte) bool {
			if len(k) != 8 || !validIno(inoOf(k)) {
				return true
			}
			next = max(next, uint64(inoOf(k))+1)
			return false
		})
		if err != nil {
			return 0, err
		}
	}
	return next, nil
}

// files counts an inode that comes or goes. A damaged count is repaired on its own.
func (r *repair) files(delta int64) error {
	if err := addFiles(r, delta); err != nil && !errors.Is(err, fs.ErrIO) {
		return err
	}
	return nil
}

// newInode is an inode made anew: only its owner may use it, until somebody had a look.
func (r *repair) newInode(ino fs.Ino, typ uint32) Inode {
	in := Inode{Attr: fs.Attr{Ino: ino, Mode: typ | 0o600, Nlink: 1, Version: uint64(r.now),
		Atime: r.now, Mtime: r.now, Ctime: r.now, Btime: r.now}}
	switch typ {
	case fs.TypeDir:
		in.Mode, in.Nlink, in.Size, in.Blocks, in.Parent = typ|0o700, 2, dirSize, dirBlocks, fs.Root
	case fs.TypeRegular:
		in.Content = uint64(ino)
	}
	return in
}

// holds reports whether dir has an entry that names ino, other than the row except.
func (r *repair) holds(dir, ino fs.Ino, except []byte) (bool, error) {
	found := false
	err := r.Range(DirentKeyspace, direntRange(dir, 0), func(k, v []byte) bool {
		e, err := decodeEntry(k, v)
		found = err == nil && e.ino == ino && string(k) != string(except)
		return !found
	})
	return found, err
}
