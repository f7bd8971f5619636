package meta

import "github.com/gabionfs/gabion/fs"

// The passes of a check that compare what the others noted.

// mark says whether a directory leads to the root.
type mark uint8

const (
	unseen  mark = iota
	walking      // on the way that is being walked
	seen
)

// tree walks from each directory towards the root and reports the circles. Directories that nothing
// holds are left to links, and ways that end in a damaged or missing one to the others.
func (c *check) tree() {
	if root := c.asDir(c.find(fs.Root)); root != nil {
		root.mark = seen
	}
	var path []*dirNode
	for i := range c.nodes {
		path = path[:0]
		for n := &c.nodes[i]; ; {
			d := c.asDir(n)
			if d == nil || d.mark == seen {
				break
			}
			if d.mark == walking {
				c.cycle(n)
				break
			}
			d.mark = walking
			path = append(path, d)
			if n.links == 0 {
				break
			}
			n = c.find(d.holder)
		}
		for _, d := range path {
			d.mark = seen
		}
	}
}

// cycle reports the circle that n is on, at its lowest number.
func (c *check) cycle(n *node) {
	low := n
	for m := c.find(c.asDir(n).holder); m != n; m = c.find(c.asDir(m).holder) {
		if m.ino < low.ino {
			low = m
		}
	}
	d := c.asDir(low)
	c.found(Problem{Kind: KindCycle, Ino: low.ino, Parent: d.holder, Name: d.name, Keyspace: DirentKeyspace,
		Key: c.volume.direntKey(d.holder, d.name)}, "directory %d holds itself, through %d", low.ino, d.holder)
}

// links compares what inodes say of their links with what was found.
func (c *check) links() {
	for i := range c.nodes {
		n := &c.nodes[i]
		d := c.asDir(n)
		if d != nil && n.ino == fs.Root {
			n.links, d.holder = 1, fs.Root
		}
		want := n.links
		if d != nil && n.links > 0 {
			want = 2 + d.subdirs
			if d.parent != d.holder {
				c.found(Problem{Kind: KindParent, Ino: n.ino, Parent: d.holder},
					"directory %d takes %d for its parent, and %d holds it", n.ino, d.parent, d.holder)
			}
		}
		switch {
		case n.damaged && n.ino == fs.Root: // KindRoot
		case n.damaged:
			c.found(Problem{Kind: KindDamaged, Ino: n.ino, Want: uint64(n.typ) << 12}, "inode %d does not decode", n.ino)
		case n.links > 0 && n.nlink != want:
			c.found(Problem{Kind: KindNlink, Ino: n.ino, Want: uint64(want)}, "inode %d counts %d links and has %d", n.ino, n.nlink, want)
		case n.links > 0:
		case n.nlink != 0 || d != nil && d.used:
			c.found(Problem{Kind: KindUnreachable, Ino: n.ino}, "inode %d is in no directory", n.ino)
		case !n.orphan:
			c.found(Problem{Kind: KindOrphanMissing, Ino: n.ino}, "inode %d has no links and is not among the orphans", n.ino)
		}
	}
}
