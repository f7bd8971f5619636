package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// The kinds of problems that Check finds.
const (
	KindDamaged      = "damaged-row"         // a row does not decode; not repairable
	KindStrayContent = "stray-content"       // extents of a content that no inode has; repair frees them
	KindStrayInline  = "stray-inline"        // inline rows that no extent announces; repair frees them
	KindLostBlob     = "lost-blob"           // an extent refers to a blob that has no row; not repairable
	KindRefs         = "blob-references"     // a blob counts another number of references; repair corrects it
	KindPackCount    = "pack-count"          // a pack counts other blobs than it has; repair corrects it
	KindBlocks       = "file-blocks"         // an inode counts other blocks than its extents have; repair corrects it
	KindBeyond       = "data-beyond-end"     // data behind the end of the file; not repairable
	KindLostObject   = "lost-object"         // the object of a pack is missing or short; not repairable
	KindGarbage      = "unreferenced-object" // an object that no pack row names; repair deletes it
	KindContent      = "blob-content"        // a blob's bytes are not those of its hash, or cannot be read; not repairable
)

// Problem is one finding of Check.
type Problem struct {
	Kind, Object, Text string
	Repairable         bool
	Repaired           bool
}

// CheckOptions of Check. The zero value looks at every row and that every object is there.
type CheckOptions struct {
	Deep     bool                    // also read every blob and compare it with its hash
	Repair   bool                    // mend what can be mended; else nothing is written
	Volume   *Store                  // the open store of the same volume when it is in use; its flights are left alone
	Progress func(done, total int64) // in blobs; may be nil
}

// CheckSummary is what Check counted.
type CheckSummary struct{ Extents, Inline, Blobs, Packs, Problems int64 }

// Check tests that extents, inline rows, blobs, packs, inodes and objects agree. The rows are looked at
// in one consistent view. report must not call the store. It holds about 80 bytes in memory
// for each blob and 40 for each file.
func Check(ctx context.Context, store kv.Store, ns objstore.Namespace, o CheckOptions, report func(Problem)) (CheckSummary, error) {
	store, err := sealRows(ctx, store, ns)
	if err != nil {
		return CheckSummary{}, fmt.Errorf("check content: %w", err)
	}
	c := &checker{ctx: ctx, kv: store, ns: ns, o: o, decided: math.MaxUint64}
	if o.Volume != nil {
		c.decided = o.Volume.ids.settled() // before the rows: a flight may end between them and the objects
	}
	err = store.View(ctx, kv.Pending, c.rows)
	if err == nil {
		err = c.objects()
	}
	if err == nil && o.Deep {
		err = c.contents()
	}
	if err == nil && o.Repair {
		err = c.repair()
	}
	if err != nil {
		return c.sum, fmt.Errorf("check content: %w", err)
	}
	for _, p := range c.problems {
		report(p)
	}
	c.sum.Problems = int64(len(c.problems))
	return c.sum, nil
}

type checker struct {
	ctx context.Context
	kv  kv.Store
	ns  objstore.Namespace
	o   CheckOptions
	sum CheckSummary

	files  map[uint64]*checkFile // by content
	blobs  map[Hash]*checkBlob
	packs  map[uint64]*checkPack
	dead   map[uint64]bool
	doomed map[uint64]bool

	decided uint64 // of the objects below it, the rows that were looked at say whether they are referenced

	problems []Problem
	fixes    []fix // of problems, by index
}

type checkFile struct {
	ino    fs.Ino
	size   int64
	blocks int64 // what the inode says
	found  int64
}

type checkBlob struct {
	row  blobRow
	has  bool // a row
	refs uint64
}

type checkPack struct {
	row   packRow
	blobs uint64
	live  uint64
}

// fix mends a problem in a transaction, if the rows are still as they were when it was found.
type fix struct {
	problem int
	mend    func(t kv.Txn) (bool, error)
}

func (c *checker) found(kind, object, format string, args ...any) {
	c.problems = append(c.problems, Problem{Kind: kind, Object: object, Text: fmt.Sprintf(format, args...)})
}

// fixable is found with a way to mend it.
func (c *checker) fixable(mend func(t kv.Txn) (bool, error), kind, object, format string, args ...any) {
	c.found(kind, object, format, args...)
	c.problems[len(c.problems)-1].Repairable = true
	c.fixes = append(c.fixes, fix{len(c.problems) - 1, mend})
}

// rows looks at everything that is in the key-value store.
func (c *checker) rows(r kv.Reader) error {
	c.files, c.blobs, c.packs = map[uint64]*checkFile{}, map[Hash]*checkBlob{}, map[uint64]*checkPack{}
	c.dead, c.doomed = map[uint64]bool{}, map[uint64]bool{}
	c.problems, c.fixes, c.sum = nil, nil, CheckSummary{}
	for _, pass := range []func(kv.Reader) error{c.readInodes, c.readMarks, c.readBlobs, c.readPacks, c.readExtents, c.readInline} {
		if err := pass(r); err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	c.compare()
	return nil
}

func (c *checker) readInodes(r kv.Reader) error {
	return r.Range(meta.InodeKeyspace, kv.Range{}, func(k, _ []byte) bool {
		ino, ok := parseIno(k)
		if !ok {
			return true // meta.Check tells of it, and of rows that do not decode
		}
		if n, err := meta.GetInode(r, ino); err == nil && n.IsRegular() {
			c.files[n.Content] = &checkFile{ino: n.Ino, size: n.Size, blocks: n.Blocks}
		}
		return true
	})
}

func (c *checker) readMarks(r kv.Reader) error {
	for ks, into := range map[kv.Keyspace]map[uint64]bool{ksDead: c.dead, ksDoomed: c.doomed} {
		err := r.Range(ks, kv.Range{}, func(k, _ []byte) bool {
			if len(k) == 8 {
				into[binary.BigEndian.Uint64(k)] = true
			} else {
				c.found(KindDamaged, fmt.Sprintf("row %s/%x", ks, k), "the key has %d bytes", len(k))
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) readBlobs(r kv.Reader) error {
	return r.Range(ksBlob, kv.Range{}, func(k, v []byte) bool {
		row, err := decodeBlob(v)
		if err != nil || len(k) != len(Hash{}) {
			c.found(KindDamaged, fmt.Sprintf("blob %x", k), "the row does not decode: %v", err)
			return true
		}
		c.blobs[Hash(k)] = &checkBlob{row: row, has: true}
		c.sum.Blobs++
		return true
	})
}

func (c *checker) readPacks(r kv.Reader) error {
	return r.Range(ksPack, kv.Range{}, func(k, v []byte) bool {
		row, err := decodePack(v)
		if err != nil || len(k) != 8 {
			c.found(KindDamaged, fmt.Sprintf("pack %x", k), "the row does not decode: %v", err)
			return true
		}
		c.packs[binary.BigEndian.Uint64(k)] = &checkPack{row: row}
		c.sum.Packs++
		return true
	})
}

func (c *checker) readExtents(r kv.Reader) error {
	return r.Range(ksExtent, kv.Range{}, func(k, v []byte) bool {
		if c.sum.Extents++; len(k) != 12 {
			c.found(KindDamaged, fmt.Sprintf("extent %x", k), "the key has %d bytes", len(k))
			return true
		}
		content, block := binary.BigEndian.Uint64(k), blockOf(k)
		e, err := decodeExtent(v)
		if err != nil {
			c.found(KindDamaged, fmt.Sprintf("extent %x", k), "the row does not decode: %v", err)
			return true
		}
		for _, p := range e.pieces {
			b := c.blobs[p.hash]
			if b == nil {
				b = new(checkBlob)
				c.blobs[p.hash] = b
			}
			b.refs++
			if !b.has || uint64(p.boff)+uint64(p.n) > b.row.n {
				c.found(KindLostBlob, c.fileName(content), "bytes %d to %d are in blob %x, which is not there",
					int64(block)*BlockSize+int64(p.off), int64(block)*BlockSize+int64(p.end()), p.hash[:8])
			}
		}
		f := c.files[content]
		if f == nil {
			if !c.doomed[content] {
				c.fixable(func(t kv.Txn) (bool, error) { t.Put(ksDoomed, u64key(content), nil); return true, nil },
					KindStrayContent, fmt.Sprintf("content %d", content), "block %d has extents and no inode", block)
				c.doomed[content] = true
			}
			return true
		}
		inline, err := inlineBytes(r, content, block)
		if err != nil {
			c.found(KindDamaged, c.fileName(content), "inline rows of block %d: %v", block, err)
			return true
		}
		if e.inline != uncounted && e.inline != inline {
			c.found(KindDamaged, c.fileName(content), "block %d counts %d inline bytes and has %d", block, e.inline, inline)
		}
		f.found += blocks512(e.covered() + inline)
		if end := int64(block)*BlockSize + int64(e.end()); end > f.size {
			c.found(KindBeyond, c.fileName(content), "data up to %d and a size of %d", end, f.size)
		}
		return true
	})
}

// readInline looks for inline rows whose extent does not say that it has some.
func (c *checker) readInline(r kv.Reader) error {
	var last []byte
	return r.Range(ksInline, kv.Range{}, func(k, _ []byte) bool {
		c.sum.Inline++
		content, block, _, ok := splitInlineKey(k)
		if !ok {
			c.found(KindDamaged, fmt.Sprintf("inline row %x", k), "the key has %d bytes", len(k))
			return true
		}
		if bytes.Equal(last, k[:12]) {
			return true
		}
		last = bytes.Clone(k[:12])
		if e, err := getExtent(r, content, block); err == nil && !e.hasInline {
			key := bytes.Clone(k)
			c.fixable(func(t kv.Txn) (bool, error) { t.Delete(ksInline, key); return true, nil },
				KindStrayInline, fmt.Sprintf("inline row %x", k), "its extent says there is none")
		}
		return true
	})
}

func (c *checker) fileName(content uint64) string {
	if f := c.files[content]; f != nil {
		return fmt.Sprintf("inode %d", f.ino)
	}
	return fmt.Sprintf("content %d", content)
}

// compare compares what rows count with what was found.
func (c *checker) compare() {
	for h, b := range c.blobs {
		if !b.has {
			continue
		}
		if b.refs != b.row.refs {
			c.fixable(c.setRefs(h, *b), KindRefs, fmt.Sprintf("blob %x", h[:8]), "it counts %d references and has %d", b.row.refs, b.refs)
		}
		p := c.packs[b.row.pack]
		if p == nil {
			c.found(KindLostBlob, fmt.Sprintf("blob %x", h[:8]), "it is in pack %d, which has no row", b.row.pack)
			continue
		}
		p.blobs++
		p.live += b.row.n
	}
	for id, p := range c.packs {
		if p.blobs != p.row.blobs || p.live != p.row.live {
			c.fixable(c.setCounts(id, *p), KindPackCount, fmt.Sprintf("pack %d", id), "it counts %d blobs of %d bytes and has %d of %d",
				p.row.blobs, p.row.live, p.blobs, p.live)
		}
	}
	for _, f := range c.files {
		if f.found != f.blocks {
			c.fixable(c.setBlocks(*f), KindBlocks, fmt.Sprintf("inode %d", f.ino), "it counts %d blocks and has %d", f.blocks, f.found)
		}
	}
}

// objects looks for the object of each pack, and for objects of no pack.
func (c *checker) objects() error {
	seen := make(map[uint64]bool, len(c.packs))
	err := c.ns.List(c.ctx, "", "", func(o objstore.Info) bool {
		id, err := parseObjectName(o.Name)
		if err != nil {
			c.found(KindGarbage, "object "+o.Name, "%v", err)
			return true
		}
		seen[id] = true
		p := c.packs[id]
		switch {
		case p == nil && !c.dead[id] && id < c.decided:
			c.fixable(func(t kv.Txn) (bool, error) { return buryOne(t, id) },
				KindGarbage, "object "+o.Name, "no pack row names it: it takes %d bytes", o.Stored)
		case p != nil && uint64(o.Size) < p.row.total:
			c.found(KindLostObject, "object "+o.Name, "it has %d bytes, its blobs %d", o.Size, p.row.total)
		}
		return true
	})
	if err != nil {
		return err
	}
	for id := range c.packs {
		if seen[id] {
			continue
		}
		// It may have been deleted, with its row, since the rows were looked at.
		_, err := c.ns.Stat(c.ctx, objectName(id))
		if errors.Is(err, objstore.ErrNotFound) && c.stillThere(id) {
			c.found(KindLostObject, "object "+objectName(id), "it is missing, with %d blobs", c.packs[id].blobs)
		}
	}
	return c.ctx.Err()
}

func (c *checker) stillThere(id uint64) bool {
	err := c.kv.View(c.ctx, kv.Pending, func(r kv.Reader) error {
		_, err := getPack(r, id)
		return err
	})
	return err == nil
}
