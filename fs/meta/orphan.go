package meta

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// orphanPage is how many orphans one view reads.
const orphanPage = 1024

// orphanKind is the value of an orphan row, one byte.
type orphanKind byte

const (
	unlinked orphanKind = 0 // it had a name
	linkable orphanKind = 1 // it was made without one, by Tmpfile, and may still get it
)

func putOrphan(t kv.Txn, ino fs.Ino, k orphanKind) {
	t.Put(OrphanKeyspace, inodeKey(ino), []byte{byte(k)})
}

func deleteOrphan(t kv.Txn, ino fs.Ino) { t.Delete(OrphanKeyspace, inodeKey(ino)) }

// adopt takes an inode from the orphans, if it is one that may be given a name.
func (c *change) adopt(ino fs.Ino) error {
	v, err := c.Get(OrphanKeyspace, inodeKey(ino))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return damaged(OrphanKeyspace, inodeKey(ino), "missing, and the inode has no links")
	case err != nil:
		return err
	case len(v) != 1 || orphanKind(v[0]) != linkable:
		return fs.ErrNotExist
	}
	deleteOrphan(c, ino)
	return nil
}

// Orphans calls fn with each inode that has no links, in order of number, until fn returns false. No
// view is open while fn runs, so it may change the tree; orphans made meanwhile may or may not be seen.
// Damaged rows are left to Check.
func (t *Tree) Orphans(ctx context.Context, fn func(fs.Ino) bool) error {
	for from := inodeKey(0); from != nil; {
		var page []fs.Ino
		var next []byte
		err := t.view(ctx, func(r kv.Reader) error {
			n := 0
			page, next = page[:0], nil
			return r.Range(OrphanKeyspace, kv.Range{From: from, Limit: orphanPage}, func(k, _ []byte) bool {
				if n++; n == orphanPage {
					next = append(append(next, k...), 0)
				}
				if len(k) == 8 {
					page = append(page, inoOf(k))
				}
				return true
			})
		})
		if err != nil {
			return &fs.OpError{Op: "list orphans", Err: translate(err)}
		}
		for _, ino := range page {
			if !fn(ino) {
				return nil
			}
		}
		from = next
	}
	return nil
}

// DropInode removes an orphan and everything that this package keeps of it: inode, extended attributes
// and orphan row. Its content has been freed before, or is freed in the same transaction. One that has
// links is refused with fs.ErrBusy; one that is gone already is fs.ErrNotExist.
func DropInode(t kv.Txn, ino fs.Ino) error {
	in, err := GetInode(t, ino)
	if err != nil {
		return err
	}
	if in.Nlink != 0 {
		return fs.ErrBusy
	}
	if in.Xattrs != 0 {
		if err := dropXattrs(t, ino); err != nil {
			return err
		}
	}
	t.Delete(InodeKeyspace, inodeKey(ino))
	deleteOrphan(t, ino)
	return addFiles(t, -1)
}
