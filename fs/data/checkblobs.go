package data

import (
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/zeebo/blake3"
)

// contents reads every blob and compares it with its hash.
func (c *checker) contents() error {
	var key hashKey
	err := c.kv.View(c.ctx, kv.Pending, func(r kv.Reader) (err error) {
		key, err = loadKey(r, c.ns)
		return err
	})
	if err != nil {
		return err
	}
	hasher, err := blake3.NewKeyed(key.key[:])
	if err != nil {
		return &DamageError{"the key of the content hash", err}
	}
	buf := make([]byte, BlockSize)
	done := int64(0)
	for h, b := range c.blobs {
		if !b.has {
			continue
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if done++; c.o.Progress != nil && done%64 == 0 {
			c.o.Progress(done, int64(len(c.blobs)))
		}
		p := buf[:b.row.n]
		err := c.ns.ReadAt(c.ctx, objectName(b.row.pack), int64(b.row.off), p)
		if errors.Is(err, objstore.ErrNotFound) && !c.unmoved(h, b.row) {
			continue
		}
		if err != nil {
			c.found(KindContent, fmt.Sprintf("blob %x", h[:8]), "it cannot be read: %v", err)
			continue
		}
		hasher.Reset()
		hasher.Write(p)
		if got := Hash(hasher.Sum(nil)); got != h {
			c.found(KindContent, fmt.Sprintf("blob %x", h[:8]), "its content hashes to %x", got[:8])
		}
	}
	return nil
}

// unmoved reports whether a blob is still where it was when the rows were looked at.
func (c *checker) unmoved(h Hash, row blobRow) bool {
	err := c.kv.View(c.ctx, kv.Pending, func(r kv.Reader) error {
		now, err := getBlob(r, &h)
		if err == nil && (now.pack != row.pack || now.off != row.off) {
			err = kv.ErrNotFound
		}
		return err
	})
	return err == nil
}

// repair runs the fixes, each in a transaction of its own.
func (c *checker) repair() error {
	for _, f := range c.fixes {
		var mended bool
		err := c.kv.Update(c.ctx, kv.Ordered, func(t kv.Txn) (err error) {
			mended, err = f.mend(t)
			return err
		})
		if err != nil {
			return fmt.Errorf("repair %s: %w", c.problems[f.problem].Object, err)
		}
		c.problems[f.problem].Repaired = mended
	}
	return c.kv.Sync(c.ctx)
}

// setRefs corrects the references of a blob; one that has none is deleted.
func (c *checker) setRefs(h Hash, b checkBlob) func(kv.Txn) (bool, error) {
	return func(t kv.Txn) (bool, error) {
		row, err := getBlob(t, &h)
		if err != nil || row != b.row {
			return false, ignoreNotFound(err)
		}
		if row.refs = b.refs; row.refs > 0 {
			t.Put(ksBlob, h[:], row.encode())
			return true, nil
		}
		t.Delete(ksBlob, h[:])
		p, err := getPack(t, row.pack)
		if err != nil {
			return true, ignoreNotFound(err)
		}
		p.blobs -= min(p.blobs, 1)
		p.live -= min(p.live, row.n)
		t.Put(ksPack, u64key(row.pack), p.encode())
		return true, nil
	}
}

// setCounts corrects what a pack counts; the fixes of its blobs have changed the row in the meantime.
func (c *checker) setCounts(id uint64, p checkPack) func(kv.Txn) (bool, error) {
	return func(t kv.Txn) (bool, error) {
		row, err := getPack(t, id)
		if err != nil {
			return false, ignoreNotFound(err)
		}
		row.blobs, row.live = 0, 0
		err = t.Range(ksBlob, kv.Range{}, func(_, v []byte) bool {
			if b, err := decodeBlob(v); err == nil && b.pack == id {
				row.blobs++
				row.live += b.n
			}
			return true
		})
		t.Put(ksPack, u64key(id), row.encode())
		return true, err
	}
}

func (c *checker) setBlocks(f checkFile) func(kv.Txn) (bool, error) {
	return func(t kv.Txn) (bool, error) {
		n, err := meta.GetInode(t, f.ino)
		if err != nil || n.Blocks != f.blocks || n.Size != f.size {
			return false, ignoreNotFound(err)
		}
		n.Blocks = f.found
		meta.PutInode(t, &n)
		return true, nil
	}
}

// buryOne marks an object dead that no pack row names.
func buryOne(t kv.Txn, id uint64) (bool, error) {
	if _, err := getPack(t, id); err == nil {
		return false, nil
	}
	t.Put(ksDead, u64key(id), nil)
	return true, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	return err
}
