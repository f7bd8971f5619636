package data

import (
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
)

// change is a transaction on the content of one file: its extents, inline rows, size and times.
// Several changes may share a ledger, and so one transaction.
type change struct {
	t       kv.Txn
	n       meta.Inode
	l       *ledger
	refs    refDelta
	placed  map[Hash]place
	extents map[uint32]*openExtent
}

// openExtent is an extent that a change has read.
type openExtent struct {
	extent       // its inline bytes are counted
	before int64 // blocks of 512 bytes that it had
	had    bool  // it has a row
}

func blocks512(n int64) int64 { return (n + 511) / 512 }

// open starts a change of ino. fs.ErrNotExist: there is no such inode.
func (s *Store) open(t kv.Txn, l *ledger, ino fs.Ino) (*change, error) {
	n, err := meta.GetInode(t, ino)
	if err != nil {
		return nil, err
	}
	return &change{t: t, n: n, l: l, refs: make(refDelta), extents: make(map[uint32]*openExtent)}, nil
}

// begin starts the change that commits g; nil when the file is gone.
func (s *Store) begin(t kv.Txn, l *ledger, g *generation) (*change, error) {
	if g.dropped.Load() {
		return nil, nil
	}
	c, err := s.open(t, l, g.f.ino)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if g.size >= 0 {
		c.n.Size = g.size
	}
	if m := g.mtime.Load(); m != 0 {
		c.n.Mtime = m
	}
	c.n.Ctime = max(c.n.Ctime, g.ctime)
	c.n.Version += g.writes
	return c, nil
}

func (c *change) extent(block uint32) (*openExtent, error) {
	if e := c.extents[block]; e != nil {
		return e, nil
	}
	v, err := getExtent(c.t, c.n.Content, block)
	if err != nil {
		return nil, err
	}
	e := &openExtent{extent: v, had: len(v.pieces) > 0 || v.hasInline}
	if v.inline == uncounted {
		if e.inline, err = inlineBytes(c.t, c.n.Content, block); err != nil {
			return nil, err
		}
	}
	e.before = blocks512(e.covered() + e.inline)
	c.extents[block] = e
	return e, nil
}

// cut makes [from, to) of a block a hole.
func (c *change) cut(block, from, to uint32) error {
	e, err := c.extent(block)
	if err != nil {
		return err
	}
	e.cut(from, to, c.refs)
	return c.cutInline(e, block, from, to)
}

func (c *change) cutInline(e *openExtent, block, from, to uint32) error {
	if !e.hasInline {
		return nil
	}
	lost, err := cutInline(c.t, c.n.Content, block, from, to)
	if e.inline -= lost; e.inline == 0 {
		e.hasInline = false
	}
	return err
}

// lay puts a piece over a block.
func (c *change) lay(block uint32, p piece) error {
	e, err := c.extent(block)
	if err != nil {
		return err
	}
	e.lay(p, c.refs)
	return c.cutInline(e, block, p.off, p.end())
}

// putInline puts the bytes of a span over a block as an inline row, or rows.
func (c *change) putInline(block uint32, sp span) error {
	e, err := c.extent(block)
	if err != nil {
		return err
	}
	if err := c.cutInline(e, block, sp.off, sp.end()); err != nil {
		return err
	}
	e.hasInline = true
	for off, b := sp.off, sp.b; len(b) > 0; {
		n := min(len(b), maxInlineRow)
		c.t.Put(ksInline, inlineKey(c.n.Content, block, off), append([]byte(nil), b[:n]...))
		off, b = off+uint32(n), b[n:]
	}
	e.inline += int64(len(sp.b))
	c.t.Put(ksFold, u64key(uint64(c.n.Ino)), nil)
	return nil
}

// unfold forgets that the file has inline rows when it has none left.
func (c *change) unfold() error {
	none := true
	err := c.t.Range(ksInline, withLimit(kv.Prefix(u64key(c.n.Content)), 1), func(_, _ []byte) bool {
		none = false
		return false
	})
	if err == nil && none {
		c.t.Delete(ksFold, u64key(uint64(c.n.Ino)))
	}
	return err
}

// end writes the extents and the inode, and counts the references.
func (c *change) end() error {
	for i, e := range c.extents {
		if len(e.pieces) > maxPieces {
			return errFragmented
		}
		if len(e.pieces) > frayedPieces {
			c.l.frayed = append(c.l.frayed, frayedBlock{c.n.Ino, i})
		}
		c.n.Blocks += blocks512(e.covered()+e.inline) - e.before
		switch {
		case len(e.pieces) > 0 || e.hasInline:
			c.t.Put(ksExtent, extentKey(c.n.Content, i), e.encode())
		case e.had:
			c.t.Delete(ksExtent, extentKey(c.n.Content, i))
		}
	}
	meta.PutInode(c.t, &c.n)
	return c.l.apply(c.refs, c.placed)
}

// errFragmented: the change would leave more pieces in a block than an extent may hold.
var errFragmented = errors.New("too many pieces in one block")
