package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Check tests every invariant of the namespace over one consistent view of the store and reports what
// does not hold, in no particular order. It changes nothing. report runs inside the view and must not
// call the store. The error is about the check itself: the store, or a volume that is not there.
//
// It holds about 28 bytes in memory for each inode and 60 for each directory.
func Check(ctx context.Context, store kv.Store, report func(Problem)) (Summary, error) {
	return Checker{}.Run(ctx, store, report)
}

// Checker is Check with options. The zero value is Check.
type Checker struct {
	// Progress is called now and then with the number of rows read so far.
	Progress func(rows uint64)
}

// Run is Check.
func (o Checker) Run(ctx context.Context, store kv.Store, report func(Problem)) (Summary, error) {
	var c *check
	err := store.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
		c, err = o.check(ctx, r, report)
		return err
	})
	if err != nil {
		return Summary{}, fmt.Errorf("check volume: %w", translate(err))
	}
	return c.sum, nil
}

func (o Checker) check(ctx context.Context, r kv.Reader, report func(Problem)) (*check, error) {
	v, err := GetVolume(r)
	if err != nil {
		return nil, err
	}
	c := &check{Reader: r, ctx: ctx, options: o, report: report, volume: v}
	for _, pass := range []func() error{c.inodes, c.entries, c.orphans, c.xattrs, c.counters} {
		if err := pass(); err != nil {
			return nil, err
		}
	}
	c.tree()
	c.links()
	return c, nil
}

// check is one run. nodes are in order of inode number.
type check struct {
	kv.Reader
	ctx     context.Context
	options Checker
	report  func(Problem)
	volume  Volume
	sum     Summary
	rows    uint64

	nodes   []node
	dirs    []dirNode
	strays  map[fs.Ino]bool // missing inodes that have entries
	claimed map[fs.Ino]bool // missing inodes that an entry names as a directory
}

// node is an inode as far as it was read.
type node struct {
	ino     fs.Ino
	nlink   uint32 // what the row says
	links   uint32 // entries that were found
	xattrs  uint32
	dir     int32 // index in dirs, or notDir
	typ     uint8 // S_IFMT >> 12; of a damaged inode what an entry says
	orphan  bool
	damaged bool
}

const notDir = -1

// dirNode is what is known of a directory besides.
type dirNode struct {
	parent  fs.Ino // what the row says
	holder  fs.Ino // where an entry was found
	name    string // that entry's
	subdirs uint32
	used    bool // it has entries
	mark    mark
}

// found reports a problem. Its row is the inode's when none is given.
func (c *check) found(p Problem, format string, args ...any) {
	if p.Keyspace == "" {
		p.Keyspace, p.Key = InodeKeyspace, inodeKey(p.Ino)
	}
	p.Key = bytes.Clone(p.Key)
	p.Text = fmt.Sprintf(format, args...)
	c.sum.Problems++
	c.report(p)
}

// each calls fn with every row of a keyspace.
func (c *check) each(ks kv.Keyspace, fn func(k, v []byte)) error {
	var stop error
	err := c.Range(ks, kv.Range{}, func(k, v []byte) bool {
		if c.rows++; c.rows%4096 == 0 {
			if stop = c.ctx.Err(); stop != nil {
				return false
			}
			if c.options.Progress != nil {
				c.options.Progress(c.rows)
			}
		}
		fn(k, v)
		return true
	})
	return errors.Join(err, stop)
}

// find returns the node of an inode, or nil.
func (c *check) find(ino fs.Ino) *node {
	i, ok := slices.BinarySearchFunc(c.nodes, ino, func(n node, ino fs.Ino) int {
		if n.ino < ino {
			return -1
		} else if n.ino > ino {
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &c.nodes[i]
}

// asDir returns what is known of n as a directory, or nil.
func (c *check) asDir(n *node) *dirNode {
	if n == nil || n.dir == notDir {
		return nil
	}
	return &c.dirs[n.dir]
}

func (c *check) counters() error {
	files, err := getCounter(c, filesKey)
	if err != nil && !errors.Is(err, fs.ErrIO) {
		return err
	}
	if err != nil || files != c.sum.Inodes {
		c.found(Problem{Kind: KindFiles, Keyspace: VolumeKeyspace, Key: filesKey, Want: c.sum.Inodes},
			"the volume counts %d inodes and has %d", files, c.sum.Inodes)
	}
	next, err := getCounter(c, nextKey)
	if err != nil && !errors.Is(err, fs.ErrIO) {
		return err
	}
	last := fs.Root
	if n := len(c.nodes); n > 0 {
		last = max(last, c.nodes[n-1].ino)
	}
	if err != nil || next <= uint64(last) || next > uint64(maxIno)+1 {
		c.found(Problem{Kind: KindNext, Keyspace: VolumeKeyspace, Key: nextKey, Want: uint64(last) + 1},
			"the next inode number is %d, and %d is in use", next, last)
	}
	return nil
}
