package meta_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

func key(ino fs.Ino) []byte { return binary.BigEndian.AppendUint64(nil, uint64(ino)) }

// TestReadDirChanging lists a directory again and again, in parts that end anywhere, while entries
// come and go: those that stay are seen once, in one order, with one cookie.
func TestReadDirChanging(t *testing.T) {
	w := newWorld(t)
	d := w.dir(fs.Root, "d")
	const stay = 700
	for i := range stay {
		w.file(d, fmt.Sprint("stay", i))
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for g := range 2 {
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint("go", g, i%50)
				if _, err := w.Mknod(ctx, fs.Cred{}, d, name, 0o644, 0); err != nil {
					t.Error(err)
				}
				if _, err := w.Rename(ctx, d, name, d, "gone"+name, 0); err != nil {
					t.Error(err)
				}
				if _, err := w.Unlink(ctx, d, "gone"+name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	cookies := map[string]uint64{}
	for round := range 30 {
		seen := map[string]int{}
		for after, more := uint64(0), true; more; {
			n := 1 + rng.IntN(200)
			more = false
			err := w.ReadDir(ctx, d, after, round%2 == 0, func(e fs.Dirent, a *fs.Attr) bool {
				if e.Cookie <= after {
					t.Fatalf("cookie %d after %d", e.Cookie, after)
				}
				after = e.Cookie
				seen[e.Name]++
				if c := cookies[e.Name]; c != 0 && c != e.Cookie {
					t.Errorf("%s moved from %d to %d", e.Name, c, e.Cookie)
				}
				cookies[e.Name] = e.Cookie
				n--
				more = n == 0
				return !more
			})
			w.ok(err)
		}
		for i := range stay {
			if n := seen[fmt.Sprint("stay", i)]; n != 1 {
				t.Fatalf("round %d: stay%d was listed %d times", round, i, n)
			}
		}
	}
	close(stop)
	others.Wait()
	sound(t, w.store)
}

// TestReadDirLarge fills a directory with 100,000 entries, through few large transactions.
func TestReadDirLarge(t *testing.T) {
	const n = 100_000
	s := memkv.New()
	v, err := meta.Format(ctx, s, meta.FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; i += 5000 {
		err := s.Update(ctx, kv.Ordered, func(t kv.Txn) error {
			for k := i; k < i+5000; k++ {
				in := meta.Inode{Attr: fs.Attr{Ino: fs.Ino(k + 2), Mode: fs.TypeRegular | 0o644, Nlink: 1}}
				meta.PutInode(t, &in)
				name := fmt.Sprint("file", k)
				dirent := append(binary.BigEndian.AppendUint64(key(fs.Root), v.Cookie(name)), name...)
				t.Put(meta.DirentKeyspace, dirent, binary.AppendUvarint([]byte{1<<4 | byte(fs.TypeRegular>>12)}, uint64(in.Ino)))
			}
			t.Put(meta.VolumeKeyspace, []byte("files"), binary.AppendUvarint(nil, n+1))
			t.Put(meta.VolumeKeyspace, []byte("next"), binary.AppendUvarint(nil, n+2))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if sum := sound(t, s); sum.Entries != n || sum.Files != n {
		t.Fatalf("%+v", sum)
	}
	tree := open(t, s, &clock{1})
	for _, plus := range []bool{false, true} {
		seen := make([]bool, n)
		err := tree.ReadDir(ctx, fs.Root, 0, plus, func(e fs.Dirent, a *fs.Attr) bool {
			if seen[e.Ino-2] || plus != (a != nil) || e.Name != fmt.Sprint("file", e.Ino-2) || plus && a.Ino != e.Ino {
				t.Fatalf("%+v %+v", e, a)
			}
			seen[e.Ino-2] = true
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, ok := range seen {
			if !ok {
				t.Fatalf("file%d is not listed", i)
			}
		}
	}
}

// TestReadDirCollision: entries with one cookie are never torn apart by the paging.
func TestReadDirCollision(t *testing.T) {
	w := newWorld(t)
	f := w.file(fs.Root, "f")
	names := map[string]int{}
	w.edit(func(t kv.Txn) {
		for i := range 500 {
			name := fmt.Sprint("n", i)
			k := append(binary.BigEndian.AppendUint64(key(fs.Root), uint64(1000+i/70)), name...)
			t.Put(meta.DirentKeyspace, k, binary.AppendUvarint([]byte{1<<4 | byte(fs.TypeRegular>>12)}, uint64(f)))
			names[name] = 0
		}
	})
	w.ok(w.ReadDir(ctx, fs.Root, 0, false, func(e fs.Dirent, _ *fs.Attr) bool { names[e.Name]++; return true }))
	for name, n := range names {
		if n != 1 {
			t.Errorf("%s is listed %d times", name, n)
		}
	}
}

// TestReadDirPlus: attributes are the same whichever way they are read, with hard links, missing and
// damaged inodes among them.
func TestReadDirPlus(t *testing.T) {
	for _, spread := range []int{0, 20} { // how many inode numbers lie between two entries
		w := newWorld(t)
		d := w.dir(fs.Root, "d")
		var inos []fs.Ino
		for i := range 40 {
			inos = append(inos, w.file(d, fmt.Sprint("f", i)))
			for k := range spread {
				w.file(fs.Root, fmt.Sprint(i, "-", k))
			}
		}
		for i := range 10 {
			w.mk(w.Link(ctx, inos[3*i], d, fmt.Sprint("link", i)))
		}
		w.edit(func(t kv.Txn) {
			t.Delete(meta.InodeKeyspace, key(inos[5]))
			t.Put(meta.InodeKeyspace, key(inos[6]), []byte{9})
			t.Put(meta.InodeKeyspace, key(inos[7])[:7], nil)
			t.Put(meta.InodeKeyspace, append(key(inos[7]), 0), nil)
		})
		n := 0
		w.ok(w.ReadDir(ctx, d, 0, true, func(e fs.Dirent, a *fs.Attr) bool {
			n++
			in, err := w.Getattr(ctx, e.Ino)
			if err != nil {
				in = meta.Inode{}
			}
			if (a == nil) != (err != nil) || a != nil && *a != in.Attr {
				t.Errorf("%s has %+v, want %+v, %v", e.Name, a, in.Attr, err)
			}
			return true
		}))
		if n != 50 {
			t.Errorf("%d entries", n)
		}
	}
}
