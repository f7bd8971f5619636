package meta_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
)

// site is a tree for damage: /d/{f,g} where /h is another name of g, /d/sub/leaf, /s -> target, a
// fifo, an extended attribute on f, and an orphan.
type site struct {
	*world
	v                                              meta.Volume
	d, sub, f, g, leaf, symlink, fifo, orphan, dev fs.Ino
}

func newSite(t *testing.T) *site {
	w := newWorld(t)
	s := &site{world: w, v: w.Volume()}
	s.d = w.dir(fs.Root, "d")
	s.sub = w.dir(s.d, "sub")
	s.f, s.g, s.leaf = w.file(s.d, "f"), w.file(s.d, "g"), w.file(s.sub, "leaf")
	w.mk(w.Link(ctx, s.g, fs.Root, "h"))
	s.symlink = w.mk(w.Symlink(ctx, fs.Cred{}, fs.Root, "s", "target"))
	s.fifo = w.mk(w.Mknod(ctx, fs.Cred{}, fs.Root, "fifo", fs.TypeFifo|0o644, 0))
	s.dev = w.mk(w.Mknod(ctx, fs.Cred{}, fs.Root, "dev", fs.TypeChar|0o644, 7))
	w.ok(w.SetXattr(ctx, s.f, "user.x", []byte("y"), 0))
	s.orphan = w.mk(w.Tmpfile(ctx, fs.Cred{}, fs.Root, 0o600))
	sound(t, w.store)
	return s
}

func (s *site) direntKey(parent fs.Ino, name string) []byte {
	return append(binary.BigEndian.AppendUint64(key(parent), s.v.Cookie(name)), name...)
}

func (s *site) putEntry(parent fs.Ino, name string, ino fs.Ino, typ uint32) {
	s.edit(func(t kv.Txn) {
		t.Put(meta.DirentKeyspace, s.direntKey(parent, name), binary.AppendUvarint([]byte{1<<4 | byte(typ>>12)}, uint64(ino)))
	})
}

func (s *site) del(ks kv.Keyspace, key []byte) { s.edit(func(t kv.Txn) { t.Delete(ks, key) }) }
func (s *site) put(ks kv.Keyspace, key, value []byte) {
	s.edit(func(t kv.Txn) { t.Put(ks, key, value) })
}

// is fails unless path means an inode.
func (s *site) is(path string, want fs.Ino) meta.Inode {
	s.Helper()
	in, err := s.Getattr(ctx, fs.Root)
	for _, name := range strings.Split(path, "/") {
		if err == nil {
			in, err = s.Lookup(ctx, in.Ino, name)
		}
	}
	if want == 0 && err == nil || want != 0 && (err != nil || in.Ino != want) {
		s.Fatalf("%s is inode %d, %v; want %d", path, in.Ino, err, want)
	}
	return in
}

func lost(ino fs.Ino) string { return fmt.Sprintf("lost+found/#%d", ino) }

// damages is every way to break a tree: what it is, which kinds of problems it makes, what is left
// after the repair.
var damages = []struct {
	name   string
	damage func(s *site)
	kinds  []meta.Kind
	after  func(s *site)
}{
	{"inode of a directory", func(s *site) { s.put(meta.InodeKeyspace, key(s.sub), []byte("?")) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) {
			s.is("d/sub/leaf", s.leaf)
			s.is("d/sub", s.sub)
		}},
	{"inode of a file", func(s *site) { s.put(meta.InodeKeyspace, key(s.f), nil) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) {
			if in := s.is("d/f", s.f); in.Size != 5000 || in.Blocks != 16 || in.Mode != fs.TypeRegular|0o600 || in.Xattrs != 1 {
				s.Fatalf("%+v", in)
			}
		}},
	{"inode of a file of two names", func(s *site) { s.put(meta.InodeKeyspace, key(s.g), []byte{1}) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) {
			if in := s.is("h", s.g); in.Nlink != 2 || in.Size != 0 {
				s.Fatalf("%+v", in)
			}
		}},
	{"inode of a symlink", func(s *site) { s.put(meta.InodeKeyspace, key(s.symlink), []byte{1}) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) { s.is("s", 0) }},
	{"inode of a fifo", func(s *site) { s.put(meta.InodeKeyspace, key(s.fifo), []byte{1}) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) { s.is("fifo", s.fifo) }},
	{"inode of a device", func(s *site) { s.put(meta.InodeKeyspace, key(s.dev), []byte{1}) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) { s.is("dev", 0) }},
	{"inode of an orphan", func(s *site) { s.put(meta.InodeKeyspace, key(s.orphan), []byte{1}) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) {
			if len(s.orphans()) != 0 {
				s.Fatal("the orphan is left")
			}
		}},
	{"inode without a number", func(s *site) { s.put(meta.InodeKeyspace, []byte("what"), nil) },
		[]meta.Kind{meta.KindDamaged, meta.KindFiles}, nil},
	{"missing inode of a file", func(s *site) { s.del(meta.InodeKeyspace, key(s.leaf)) },
		[]meta.Kind{meta.KindDangling, meta.KindFiles}, func(s *site) {
			s.is("d/sub", s.sub)
			s.is("d/sub/leaf", 0)
		}},
	{"missing inode of a directory", func(s *site) { s.del(meta.InodeKeyspace, key(s.sub)) },
		[]meta.Kind{meta.KindDangling, meta.KindFiles, meta.KindNlink}, func(s *site) { s.is("d/sub/leaf", s.leaf) }},
	{"missing inode of an empty directory", func(s *site) {
		_, err := s.Unlink(ctx, s.sub, "leaf")
		s.ok(err)
		s.del(meta.InodeKeyspace, key(s.sub))
	}, []meta.Kind{meta.KindDangling, meta.KindFiles, meta.KindNlink}, func(s *site) { s.is("d/sub", 0) }},
	{"missing inode and entry of a directory", func(s *site) {
		s.del(meta.InodeKeyspace, key(s.sub))
		s.del(meta.DirentKeyspace, s.direntKey(s.d, "sub"))
	}, []meta.Kind{meta.KindStray, meta.KindFiles, meta.KindNlink}, func(s *site) { s.is(lost(s.sub)+"/leaf", s.leaf) }},
	{"missing root", func(s *site) { s.del(meta.InodeKeyspace, key(fs.Root)) },
		[]meta.Kind{meta.KindRoot, meta.KindFiles}, func(s *site) { s.is("d/sub/leaf", s.leaf) }},
	{"damaged root", func(s *site) { s.put(meta.InodeKeyspace, key(fs.Root), []byte{7}) },
		[]meta.Kind{meta.KindRoot}, func(s *site) { s.is("d/sub/leaf", s.leaf) }},
	{"root is a file", func(s *site) {
		s.editInode(fs.Root, func(in *meta.Inode) { in.Mode = fs.TypeRegular | 0o644 })
	}, nil, func(s *site) { s.is("d/sub/leaf", s.leaf) }},
	{"damaged entry", func(s *site) { s.put(meta.DirentKeyspace, s.direntKey(s.d, "f"), []byte{0x18}) },
		[]meta.Kind{meta.KindDamaged, meta.KindUnreachable}, func(s *site) {
			s.is("d/f", 0)
			s.is(lost(s.f), s.f)
		}},
	{"entry of a bad name", func(s *site) { s.putEntry(s.d, "a/b", s.f, fs.TypeRegular) },
		[]meta.Kind{meta.KindDamaged}, func(s *site) { s.is("d/f", s.f) }},
	{"entry in a file", func(s *site) { s.putEntry(s.f, "x", s.g, fs.TypeRegular) },
		[]meta.Kind{meta.KindStray}, func(s *site) { s.is("d/g", s.g) }},
	{"type of an entry", func(s *site) { s.putEntry(s.d, "f", s.f, fs.TypeFifo) },
		[]meta.Kind{meta.KindEntryType}, func(s *site) { s.is("d/f", s.f) }},
	{"cookie of an entry", func(s *site) {
		s.del(meta.DirentKeyspace, s.direntKey(s.d, "f"))
		s.put(meta.DirentKeyspace, append(binary.BigEndian.AppendUint64(key(s.d), 77), 'f'), append([]byte{0x18}, byte(s.f)))
	}, []meta.Kind{meta.KindCookie}, func(s *site) { s.is("d/f", s.f) }},
	{"cookie of a second entry", func(s *site) {
		s.put(meta.DirentKeyspace, append(binary.BigEndian.AppendUint64(key(s.d), 0), 'f'), append([]byte{0x18}, byte(s.g)))
	}, []meta.Kind{meta.KindCookie, meta.KindNlink}, func(s *site) {
		s.is("d/f", s.f)
		s.is("h", s.g)
	}},
	{"missing entry of a file", func(s *site) { s.del(meta.DirentKeyspace, s.direntKey(s.d, "f")) },
		[]meta.Kind{meta.KindUnreachable}, func(s *site) { s.is(lost(s.f), s.f) }},
	{"missing entry of one of two", func(s *site) { s.del(meta.DirentKeyspace, s.direntKey(s.d, "g")) },
		[]meta.Kind{meta.KindNlink}, func(s *site) { s.is("h", s.g) }},
	{"missing entry of a directory", func(s *site) { s.del(meta.DirentKeyspace, s.direntKey(s.d, "sub")) },
		[]meta.Kind{meta.KindUnreachable, meta.KindNlink}, func(s *site) { s.is(lost(s.sub)+"/leaf", s.leaf) }},
	{"all entries of a directory", func(s *site) {
		for _, name := range []string{"f", "g", "sub"} {
			s.del(meta.DirentKeyspace, s.direntKey(s.d, name))
		}
	}, []meta.Kind{meta.KindUnreachable, meta.KindUnreachable, meta.KindNlink, meta.KindNlink}, func(s *site) {
		s.is(lost(s.f), s.f)
		s.is(lost(s.sub)+"/leaf", s.leaf)
	}},
	{"lost+found is a file", func(s *site) {
		s.file(fs.Root, "lost+found")
		s.del(meta.DirentKeyspace, s.direntKey(s.d, "f"))
	}, []meta.Kind{meta.KindUnreachable}, func(s *site) { s.is(fmt.Sprintf("lost+found.2/#%d", s.f), s.f) }},
	{"the name in lost+found is taken", func(s *site) {
		s.dir(s.dir(fs.Root, "lost+found"), fmt.Sprintf("#%d", s.f))
		s.del(meta.DirentKeyspace, s.direntKey(s.d, "f"))
	}, []meta.Kind{meta.KindUnreachable}, func(s *site) { s.is(lost(s.f)+".2", s.f) }},
	{"second entry of a directory", func(s *site) { s.putEntry(fs.Root, "again", s.sub, fs.TypeDir) },
		[]meta.Kind{meta.KindExtraEntry}, func(s *site) {
			s.is("d/sub", s.sub)
			s.is("again", 0)
		}},
	{"second entry in the same directory", func(s *site) { s.putEntry(s.d, "again", s.sub, fs.TypeDir) },
		[]meta.Kind{meta.KindExtraEntry}, func(s *site) {
			if in, err := s.Getattr(ctx, s.d); err != nil || in.Nlink != 3 {
				s.Fatal(in.Nlink, err)
			}
		}},
	{"two entries, and the directory believes in neither", func(s *site) {
		s.putEntry(fs.Root, "again", s.sub, fs.TypeDir)
		s.editInode(s.sub, func(in *meta.Inode) { in.Parent = 999 })
	}, nil, func(s *site) {}},
	{"entry of the root", func(s *site) { s.putEntry(s.d, "root", fs.Root, fs.TypeDir) },
		[]meta.Kind{meta.KindExtraEntry}, func(s *site) { s.is("d/root", 0) }},
	{"parent of a directory", func(s *site) { s.editInode(s.sub, func(in *meta.Inode) { in.Parent = fs.Root }) },
		[]meta.Kind{meta.KindParent}, func(s *site) {
			if p, err := s.Parent(ctx, s.sub); err != nil || p != s.d {
				s.Fatal(p, err)
			}
		}},
	{"parent of the root", func(s *site) { s.editInode(fs.Root, func(in *meta.Inode) { in.Parent = s.d }) },
		[]meta.Kind{meta.KindParent}, func(s *site) {
			if p, err := s.Parent(ctx, fs.Root); err != nil || p != fs.Root {
				s.Fatal(p, err)
			}
		}},
	{"circle of directories", func(s *site) {
		s.del(meta.DirentKeyspace, s.direntKey(fs.Root, "d"))
		s.putEntry(s.sub, "up", s.d, fs.TypeDir)
		s.editInode(s.d, func(in *meta.Inode) { in.Parent = s.sub })
		s.editInode(s.sub, func(in *meta.Inode) { in.Nlink = 3 })
		s.editInode(fs.Root, func(in *meta.Inode) { in.Nlink-- })
	}, []meta.Kind{meta.KindCycle}, func(s *site) { s.is(lost(s.d)+"/sub/leaf", s.leaf) }},
	{"directory in itself", func(s *site) {
		s.del(meta.DirentKeyspace, s.direntKey(s.d, "sub"))
		s.putEntry(s.sub, "self", s.sub, fs.TypeDir)
	}, []meta.Kind{meta.KindCycle, meta.KindParent, meta.KindNlink, meta.KindNlink}, func(s *site) { s.is(lost(s.sub)+"/leaf", s.leaf) }},
	{"links of a file", func(s *site) { s.editInode(s.f, func(in *meta.Inode) { in.Nlink = 7 }) },
		[]meta.Kind{meta.KindNlink}, func(s *site) {
			if in := s.is("d/f", s.f); in.Nlink != 1 {
				s.Fatal(in.Nlink)
			}
		}},
	{"links of a directory", func(s *site) { s.editInode(s.d, func(in *meta.Inode) { in.Nlink = 2 }) },
		[]meta.Kind{meta.KindNlink}, nil},
	{"no links and an entry", func(s *site) { s.editInode(s.f, func(in *meta.Inode) { in.Nlink = 0 }) },
		[]meta.Kind{meta.KindNlink}, func(s *site) { s.is("d/f", s.f) }},
	{"missing orphan row", func(s *site) { s.del(meta.OrphanKeyspace, key(s.orphan)) },
		[]meta.Kind{meta.KindOrphanMissing}, func(s *site) {
			if got := s.orphans(); !slices.Equal(got, []fs.Ino{s.orphan}) {
				s.Fatal(got)
			}
		}},
	{"orphan with an entry", func(s *site) { s.put(meta.OrphanKeyspace, key(s.f), []byte{0}) },
		[]meta.Kind{meta.KindOrphanLinked}, func(s *site) { s.is("d/f", s.f) }},
	{"orphan with a link count", func(s *site) { s.editInode(s.orphan, func(in *meta.Inode) { in.Nlink = 1 }) },
		[]meta.Kind{meta.KindUnreachable}, func(s *site) { s.is(lost(s.orphan), s.orphan) }},
	{"orphan without an inode", func(s *site) { s.put(meta.OrphanKeyspace, key(777), []byte{0}) },
		[]meta.Kind{meta.KindOrphanDangling}, nil},
	{"bad orphan", func(s *site) { s.put(meta.OrphanKeyspace, []byte("x"), nil) },
		[]meta.Kind{meta.KindDamaged}, nil},
	{"attribute without an inode", func(s *site) { s.put(meta.XattrKeyspace, append(key(777), "user.x"...), nil) },
		[]meta.Kind{meta.KindXattrDangling}, nil},
	{"attribute without a name", func(s *site) { s.put(meta.XattrKeyspace, key(s.f), nil) },
		[]meta.Kind{meta.KindDamaged, meta.KindXattrCount}, nil},
	{"count of attributes", func(s *site) { s.editInode(s.f, func(in *meta.Inode) { in.Xattrs = 0 }) },
		[]meta.Kind{meta.KindXattrCount}, func(s *site) {
			if names, err := s.ListXattr(ctx, s.f); err != nil || len(names) != 1 {
				s.Fatal(names, err)
			}
		}},
	{"missing attribute", func(s *site) { s.del(meta.XattrKeyspace, append(key(s.f), "user.x"...)) },
		[]meta.Kind{meta.KindXattrCount}, nil},
	{"number of inodes", func(s *site) { s.put(meta.VolumeKeyspace, []byte("files"), []byte{77}) },
		[]meta.Kind{meta.KindFiles}, nil},
	{"missing number of inodes", func(s *site) { s.del(meta.VolumeKeyspace, []byte("files")) },
		[]meta.Kind{meta.KindFiles}, nil},
	{"next inode number", func(s *site) { s.put(meta.VolumeKeyspace, []byte("next"), []byte{3}) },
		[]meta.Kind{meta.KindNext}, nil},
	{"missing next inode number", func(s *site) { s.del(meta.VolumeKeyspace, []byte("next")) },
		[]meta.Kind{meta.KindNext}, nil},
}

// content is what package data would say: f has some.
func (s *site) content(_ kv.Reader, content uint64) (size, blocks int64, err error) {
	if content == uint64(s.f) {
		return 5000, 16, nil
	}
	return 0, 0, nil
}

func TestDamages(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.damage(s)

			updates := s.store.Unsynced()
			var kinds []meta.Kind
			sum, err := meta.Check(ctx, s.store, func(p meta.Problem) {
				kinds = append(kinds, p.Kind)
				t.Log(p)
			})
			s.ok(err)
			if s.store.Unsynced() != updates {
				t.Fatal("the check wrote to the store")
			}
			slices.Sort(kinds)
			slices.Sort(c.kinds)
			// whatever is broken, the volume opens: how else would it be repaired
			s.Tree = open(t, s.store, s.clock)
			s.orphans()
			if sum.Problems != uint64(len(kinds)) || len(kinds) == 0 || c.kinds != nil && !slices.Equal(kinds, c.kinds) {
				t.Fatalf("found %v, want %v", kinds, c.kinds)
			}

			sum, err = meta.Repairer{Clock: s.clock.read, Content: s.content}.Run(ctx, s.store, func(r meta.Repaired) { t.Log(r.Problem, "->", r.Done) })
			if err != nil || sum.Problems != 0 {
				t.Fatalf("%d problems are left, %v", sum.Problems, err)
			}
			sound(t, s.store)
			if s.store.Unsynced() != 0 {
				t.Error("the repair is not durable")
			}
			s.Tree = open(t, s.store, s.clock)
			if c.after != nil {
				c.after(s)
			}
			s.file(fs.Root, "afterwards")
		})
	}
}

// TestRepairRandom damages random rows of a random tree: the repair always ends, and with a sound tree.
func TestRepairRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, store, c := newTree(t)
		dirs := []fs.Ino{fs.Root}
		for i := range rapid.IntRange(1, 25).Draw(t, "inodes") {
			c.now++
			parent := rapid.SampledFrom(dirs).Draw(t, "parent")
			name := fmt.Sprint("n", i)
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0, 1:
				in, err := tree.Mkdir(ctx, fs.Cred{}, parent, name, 0o755)
				if err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, in.Ino)
			case 2:
				in, err := tree.Mknod(ctx, fs.Cred{}, parent, name, 0o644, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tree.Link(ctx, in.Ino, fs.Root, "link"+name); err != nil {
					t.Fatal(err)
				}
				if err := tree.SetXattr(ctx, in.Ino, "user.a", []byte("b"), 0); err != nil {
					t.Fatal(err)
				}
			case 3:
				if _, err := tree.Tmpfile(ctx, fs.Cred{}, parent, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "damages") {
			damageRow(t, store)
		}
		sum, err := meta.Repairer{Clock: c.read}.Run(ctx, store, func(r meta.Repaired) { t.Log(r.Problem, "->", r.Done) })
		if err != nil || sum.Problems != 0 {
			t.Fatalf("%d problems are left, %v", sum.Problems, err)
		}
		sound(t, store)
	})
}

// damageRow deletes a row, gives it the value of another, or puts garbage there.
func damageRow(t *rapid.T, store kv.Store) {
	type row struct {
		ks         kv.Keyspace
		key, value string
	}
	rows := map[kv.Keyspace][]row{}
	err := store.View(ctx, kv.Pending, func(r kv.Reader) error {
		for _, ks := range []kv.Keyspace{meta.InodeKeyspace, meta.DirentKeyspace, meta.XattrKeyspace, meta.OrphanKeyspace, meta.VolumeKeyspace} {
			if err := r.Range(ks, kv.Range{}, func(k, v []byte) bool {
				if string(k) != "format" {
					rows[ks] = append(rows[ks], row{ks, string(k), string(v)})
				}
				return true
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		return
	}
	ks := rapid.SampledFrom(slices.Sorted(maps.Keys(rows))).Draw(t, "keyspace")
	a, b := rapid.SampledFrom(rows[ks]).Draw(t, "row"), rapid.SampledFrom(rows[ks]).Draw(t, "other")
	err = store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		switch rapid.IntRange(0, 4).Draw(t, "damage") {
		case 0:
			tx.Delete(ks, []byte(a.key))
		case 1:
			tx.Put(ks, []byte(a.key), []byte(b.value))
		case 2:
			tx.Put(ks, []byte(a.key), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "garbage"))
		case 3: // a new row, near the old one
			k := []byte(a.key)
			k[rapid.IntRange(0, len(k)-1).Draw(t, "at")] ^= rapid.SampledFrom([]byte{1, 2, 4, 0x80, 0xff}).Draw(t, "flip")
			tx.Put(ks, k, []byte(a.value))
		case 4:
			v := []byte(a.value)
			if len(v) > 0 {
				v[rapid.IntRange(0, len(v)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
			tx.Put(ks, []byte(a.key), v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRepairMany: more problems than one transaction repairs.
func TestRepairMany(t *testing.T) {
	const n = 9000
	s := newSite(t)
	s.edit(func(t kv.Txn) {
		for i := range n {
			in := meta.Inode{Attr: fs.Attr{Ino: fs.Ino(1000 + i), Mode: fs.TypeRegular, Nlink: 1, Size: int64(i)}}
			meta.PutInode(t, &in)
		}
		t.Put(meta.VolumeKeyspace, []byte("next"), binary.AppendUvarint(nil, 20000))
	})
	repaired := 0
	sum, err := meta.Repairer{Clock: s.clock.read}.Run(ctx, s.store, func(meta.Repaired) { repaired++ })
	if err != nil || sum.Problems != 0 || repaired < n {
		t.Fatalf("%d repaired, %d left, %v", repaired, sum.Problems, err)
	}
	for _, i := range []fs.Ino{1000, 5000, 9999} {
		if in := s.is(lost(i), i); in.Size != int64(i-1000) {
			t.Error(in)
		}
	}
	sound(t, s.store)
}
