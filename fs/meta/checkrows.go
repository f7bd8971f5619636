package meta

import (
	"fmt"

	"github.com/gabionfs/gabion/fs"
)

// The passes of a check that read the keyspaces one after the other.

func (c *check) inodes() error {
	err := c.each(InodeKeyspace, func(k, v []byte) {
		c.sum.Inodes++
		if len(k) != 8 || !validIno(inoOf(k)) {
			c.found(Problem{Kind: KindDamaged, Keyspace: InodeKeyspace, Key: k}, "no inode can have this number")
			return
		}
		ino := inoOf(k)
		in, err := decodeInode(ino, v)
		n := node{ino: ino, nlink: in.Nlink, xattrs: in.Xattrs, dir: notDir, typ: uint8(in.Mode >> 12), damaged: err != nil}
		switch {
		case n.damaged: // reported by links, which knows what its entries say
		case in.IsDir():
			c.sum.Directories++
			n.dir = int32(len(c.dirs))
			c.dirs = append(c.dirs, dirNode{parent: in.Parent})
		case in.IsRegular():
			c.sum.Files++
		case in.Mode&fs.TypeMask == fs.TypeSymlink:
			c.sum.Symlinks++
		}
		c.nodes = append(c.nodes, n)
	})
	if err != nil {
		return err
	}
	if root := c.find(fs.Root); root == nil || root.damaged {
		c.found(Problem{Kind: KindRoot, Ino: fs.Root}, "the root directory is missing or damaged")
	} else if root.dir == notDir {
		c.found(Problem{Kind: KindRoot, Ino: fs.Root}, "the root is not a directory")
	}
	return nil
}

func (c *check) entries() error {
	var at *node // the node of the directory whose entries are being read
	var last fs.Ino
	c.strays, c.claimed = map[fs.Ino]bool{}, map[fs.Ino]bool{}
	err := c.each(DirentKeyspace, func(k, v []byte) {
		c.sum.Entries++
		parent, cookie, raw, err := parseDirentKey(k)
		name := string(raw)
		var e entry
		if err == nil {
			err = checkName(name)
		}
		if err == nil {
			e, err = decodeEntry(k, v)
		}
		if err != nil {
			c.found(Problem{Kind: KindDamaged, Parent: parent, Name: name, Keyspace: DirentKeyspace, Key: k},
				"entry %q of directory %d: %v", name, parent, err)
			return
		}
		if parent != last {
			at, last = c.find(parent), parent
		}
		c.entry(at, Problem{Ino: e.ino, Parent: parent, Name: name, Keyspace: DirentKeyspace, Key: k}, cookie, e)
	})
	for ino := range c.strays {
		if !c.claimed[ino] && ino != fs.Root {
			c.found(Problem{Kind: KindStray, Ino: ino}, "directory %d is missing, and it has entries", ino)
		}
	}
	return err
}

// entry checks the entry that at describes, in the directory dir.
func (c *check) entry(dir *node, at Problem, cookie uint64, e entry) {
	found := func(k Kind, format string, args ...any) {
		at.Kind = k
		c.found(at, "entry %q of directory %d: %s", at.Name, at.Parent, fmt.Sprintf(format, args...))
	}
	switch {
	case dir == nil:
		c.strays[at.Parent] = true
	case dir.damaged: // it is reported, and made anew as what its own entry says
		dir.typ = uint8(fs.TypeDir >> 12)
	case dir.dir == notDir:
		found(KindStray, "inode %d is not a directory", at.Parent)
		return
	default:
		c.dirs[dir.dir].used = true
	}
	if want := c.volume.Cookie(at.Name); cookie != want {
		found(KindCookie, "its cookie is %x and has to be %x", cookie, want)
	}
	n := c.find(e.ino)
	if n == nil {
		found(KindDangling, "inode %d does not exist", e.ino)
		if e.typ == fs.TypeDir {
			c.claimed[e.ino] = true
		}
		return
	}
	n.links++
	switch {
	case n.damaged:
		n.typ = max(n.typ, uint8(e.typ>>12))
		if e.typ == fs.TypeDir {
			n.typ = uint8(fs.TypeDir >> 12)
			if d := c.asDir(dir); d != nil {
				d.subdirs++
			}
		}
	case e.typ != uint32(n.typ)<<12:
		found(KindEntryType, "its type is %o and inode %d is a %o", e.typ, e.ino, uint32(n.typ)<<12)
		fallthrough
	default:
		if n.dir != notDir {
			c.subdir(n, c.asDir(dir), at)
		}
	}
}

// subdir notes an entry that names a directory n. Of several the one that n itself believes in is kept.
func (c *check) subdir(n *node, in *dirNode, at Problem) {
	d := &c.dirs[n.dir]
	at.Kind = KindExtraEntry
	switch {
	case n.ino == fs.Root, n.links > 1 && (d.parent != at.Parent || d.holder == at.Parent):
		n.links--
		c.found(at, "entry %q of directory %d: directory %d has another entry", at.Name, at.Parent, n.ino)
		return
	case n.links > 1:
		n.links--
		at := Problem{Kind: KindExtraEntry, Ino: n.ino, Parent: d.holder, Name: d.name,
			Keyspace: DirentKeyspace, Key: c.volume.direntKey(d.holder, d.name)}
		c.found(at, "entry %q of directory %d: directory %d has another entry", at.Name, at.Parent, n.ino)
		if h := c.asDir(c.find(d.holder)); h != nil {
			h.subdirs--
		}
	}
	d.holder, d.name = at.Parent, at.Name
	if in != nil {
		in.subdirs++
	}
}

func (c *check) orphans() error {
	return c.each(OrphanKeyspace, func(k, v []byte) {
		c.sum.Orphans++
		at := Problem{Keyspace: OrphanKeyspace, Key: k}
		if len(k) != 8 || len(v) != 1 || orphanKind(v[0]) > linkable {
			at.Kind = KindDamaged
			c.found(at, "an orphan row with a key of %d and a value of %d bytes", len(k), len(v))
			return
		}
		at.Ino = inoOf(k)
		n := c.find(at.Ino)
		switch {
		case n == nil:
			at.Kind = KindOrphanDangling
			c.found(at, "orphan %d does not exist", at.Ino)
		case n.links > 0 || at.Ino == fs.Root:
			at.Kind = KindOrphanLinked
			c.found(at, "orphan %d has %d entries", at.Ino, n.links)
		default:
			n.orphan = true
		}
	})
}

func (c *check) xattrs() error {
	counts := map[fs.Ino]uint32{}
	err := c.each(XattrKeyspace, func(k, v []byte) {
		c.sum.Xattrs++
		at := Problem{Keyspace: XattrKeyspace, Key: k}
		if len(k) <= 8 || checkXattr(string(k[8:])) != nil || len(v) > fs.MaxXattr {
			at.Kind = KindDamaged
			c.found(at, "an extended attribute with a key of %d and a value of %d bytes", len(k), len(v))
			if len(k) < 8 {
				return
			}
		}
		at.Ino, at.Name = inoOf(k), string(k[8:])
		if c.find(at.Ino) == nil {
			at.Kind = KindXattrDangling
			c.found(at, "extended attribute %q of inode %d, which does not exist", at.Name, at.Ino)
			return
		}
		counts[at.Ino]++
	})
	for i := range c.nodes {
		if n := &c.nodes[i]; !n.damaged && n.xattrs != counts[n.ino] {
			c.found(Problem{Kind: KindXattrCount, Ino: n.ino}, "inode %d counts %d extended attributes and has %d",
				n.ino, n.xattrs, counts[n.ino])
		}
	}
	return err
}
