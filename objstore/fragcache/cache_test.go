package fragcache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is what fragment i holds, of n bytes.
func content(i, n int) []byte {
	p := make([]byte, n)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

func keyOf(i int, p []byte) Key {
	return Key{objstore.FragmentKey{Namespace: 1, Object: uint64(i), Chunk: uint32(i % 3), Fragment: uint8(i)}, crc.Sum(p)}
}

func open(t testing.TB, o Options) *Cache {
	t.Helper()
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if o.Dir != "" && o.Size == 0 {
		o.Size = MinSize
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, c) // it has looked through the folder
	return c
}

func settle(t testing.TB, c *Cache) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
}

func shut(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// want checks whether a range is there, and that it is right if it is.
func want(t testing.TB, c *Cache, i int, p []byte, off, n int, there bool) {
	t.Helper()
	got := make([]byte, n)
	ok := c.Get(context.Background(), keyOf(i, p), int64(off), got)
	if ok != there {
		t.Fatalf("fragment %d, %d bytes at %d: there %v, want %v; %+v", i, n, off, ok, there, c.Stat())
	}
	if ok && !bytes.Equal(got, p[off:off+n]) {
		t.Fatalf("fragment %d, %d bytes at %d: wrong content", i, n, off)
	}
}

// kinds are the ways to have a cache.
func kinds(t *testing.T, fn func(t *testing.T, o Options)) {
	t.Run("memory", func(t *testing.T) { fn(t, Options{Memory: MinSize}) })
	t.Run("folder", func(t *testing.T) { fn(t, Options{Dir: t.TempDir(), Size: MinSize}) })
}

func TestRanges(t *testing.T) {
	kinds(t, func(t *testing.T, o Options) {
		c := open(t, o)
		defer shut(t, c)
		p := content(1, 5*PageSize+1000)
		k := keyOf(1, p)
		want(t, c, 1, p, 0, 1, false)
		c.Put(k, len(p), PageSize-7, p[PageSize-7:3*PageSize+5], nil) // pages 1 and 2
		settle(t, c)
		for _, at := range [][3]int{{PageSize, 1, 1}, {PageSize, 2 * PageSize, 1}, {PageSize + 17, PageSize, 1}, {3*PageSize - 1, 1, 1},
			{PageSize - 1, 2, 0}, {0, 10, 0}, {3*PageSize - 1, 2, 0}, {4 * PageSize, 100, 0}} {
			want(t, c, 1, p, at[0], at[1], at[2] == 1)
		}
		c.Put(k, len(p), 3*PageSize, p[3*PageSize:], crc.Blocks(nil, p[3*PageSize:]))
		c.Put(k, len(p), 0, p[:PageSize], nil)
		settle(t, c)
		for _, at := range [][2]int{{0, len(p)}, {5, len(p) - 9}, {5 * PageSize, 1000}, {5*PageSize + 999, 1}, {4*PageSize + 1, PageSize + 10}} {
			want(t, c, 1, p, at[0], at[1], true)
		}
		for _, at := range [][2]int64{{int64(len(p)) - 1, 2}, {-1, 5}, {1 << 40, 1}, {0, 0}} {
			if c.Get(context.Background(), k, at[0], make([]byte, at[1])) || c.Has(k, at[0], int(at[1])) && at[0] != int64(len(p))-1 {
				t.Fatalf("%d bytes at %d", at[1], at[0])
			}
		}
		other := k
		other.Sum++
		if c.Get(context.Background(), other, 0, make([]byte, 10)) {
			t.Fatal("the content of an earlier fragment with the same key")
		}
		c.Drop(k, len(p))
		want(t, c, 1, p, 0, 1, false)
		want(t, c, 1, p, 5*PageSize, 1, false)
	})
}

// TestRestart: what was kept is there again after a stop, and after the process was killed.
func TestRestart(t *testing.T) {
	for _, how := range []string{"stopped", "killed"} {
		t.Run(how, func(t *testing.T) {
			o := Options{Dir: t.TempDir()}
			c := open(t, o)
			for i := range 40 {
				p := content(i, 100_000)
				c.Put(keyOf(i, p), len(p), 0, p, nil)
			}
			settle(t, c)
			if how == "killed" {
				o.Dir = copyDir(t, o.Dir)
			}
			shut(t, c)
			for range 2 {
				c = open(t, o)
				for i := range 40 {
					p := content(i, 100_000)
					want(t, c, i, p, 0, len(p), true)
				}
				shut(t, c)
			}
			o.Owner[3] = 1
			c = open(t, o)
			want(t, c, 1, content(1, 100_000), 0, 1, false)
			shut(t, c)
			if n := len(segments(t, o.Dir)); n != 0 {
				t.Fatalf("%d segments of another owner are kept", n)
			}
		})
	}
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDamage changes single bits, and cuts, at every kind of place of a segment, while the cache is open and while it is
// not: what comes back is right or nothing.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const fragments, size = 8, PageSize + 5000
	for _, running := range []bool{true, false} {
		for round := range 24 {
			o := Options{Dir: t.TempDir()}
			c := open(t, o)
			for i := range fragments {
				p := content(i, size)
				c.Put(keyOf(i, p), size, 0, p, nil)
			}
			settle(t, c)
			if !running {
				shut(t, c)
			}
			file := segments(t, o.Dir)[0]
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			at := r.IntN(len(raw))
			switch round % 6 {
			case 0:
				at = r.IntN(segHeader)
			case 1:
				at = segHeader + r.IntN(recHeader)
			case 2:
				at = len(raw) - 1 - r.IntN(trailerLen)
			}
			if round%3 == 2 {
				err = os.Truncate(file, int64(at))
			} else {
				f, oerr := os.OpenFile(file, os.O_RDWR, 0)
				if oerr != nil {
					t.Fatal(oerr)
				}
				_, err = f.WriteAt([]byte{raw[at] ^ 1<<r.IntN(8)}, int64(at))
				_ = f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			if !running {
				c = open(t, o)
			}
			missing := 0
			for i := range fragments {
				p := content(i, size)
				got := make([]byte, size)
				if !c.Get(context.Background(), keyOf(i, p), 0, got) {
					missing++
				} else if !bytes.Equal(got, p) {
					t.Fatalf("round %d: wrong content", round)
				}
			}
			if n := c.Stat().Damaged; n > 0 && (missing == 0 || len(segments(t, o.Dir)) != 0) {
				t.Fatalf("round %d: damaged %d, %d missing, files %v", round, n, missing, segments(t, o.Dir))
			}
			for i := range fragments { // and it goes on
				p := content(i, size)
				c.Put(keyOf(i, p), size, 0, p, nil)
			}
			settle(t, c)
			for i := range fragments {
				want(t, c, i, content(i, size), 0, size, true)
			}
			shut(t, c)
		}
	}
}

// TestBoundAndScan: the bound holds, and what is read often survives a scan that is far larger than the cache.
func TestBoundAndScan(t *testing.T) {
	kinds(t, func(t *testing.T, o Options) {
		c := open(t, o)
		defer shut(t, c)
		const hot, cold = 40, 1200
		for i := range hot {
			p := content(i, PageSize)
			c.Put(keyOf(i, p), PageSize, 0, p, nil)
		}
		settle(t, c)
		use := func() (found int) {
			got := make([]byte, PageSize)
			for i := range hot {
				p := content(i, PageSize)
				if c.Get(context.Background(), keyOf(i, p), 0, got) {
					found++
				}
			}
			return found
		}
		for range 3 {
			if n := use(); n != hot {
				t.Fatalf("%d of %d are there when the cache is nearly empty", n, hot)
			}
		}
		p := content(0, PageSize)
		for i := range cold {
			k := keyOf(0, p)
			k.Fragment.Object = uint64(1000 + i)
			c.Put(k, PageSize, 0, p, nil)
			if i%16 == 15 {
				settle(t, c)
				s := c.Stat()
				if s.Used > s.Size || s.MemoryUsed > s.MemorySize {
					t.Fatalf("too much: %+v", s)
				}
				if o.Dir != "" && onDisk(t, o.Dir) > o.Size {
					t.Fatalf("the files have %d bytes", onDisk(t, o.Dir))
				}
			}
			if i%200 == 199 {
				use()
			}
		}
		if n := use(); n != hot {
			t.Fatalf("after the scan %d of %d are left: %+v", n, hot, c.Stat())
		}
	})
}

func onDisk(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, f := range segments(t, dir) {
		if i, err := os.Stat(f); err == nil {
			n += i.Size()
		}
	}
	return n
}

func TestOneProcess(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	c := open(t, o)
	defer shut(t, c)
	if _, err := Open(Options{Dir: o.Dir, Size: MinSize}); !errors.Is(err, ErrInUse) {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), Size: 1000}); err == nil {
		t.Fatal("a folder of 1000 bytes")
	}
}

// TestForeignFiles: nothing is touched that the cache did not make.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"seg-1", "seg-0000000G", "notes.txt", "seg-00000001.bak"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, open(t, Options{Dir: dir}))
	if list, _ := os.ReadDir(dir); len(list) != 5 {
		t.Fatal(list)
	}
}

// TestFolderIsGone: a folder that is taken away makes misses, and nothing worse.
func TestFolderIsGone(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "cache")}
	c := open(t, o)
	p := content(1, 3*PageSize)
	c.Put(keyOf(1, p), len(p), 0, p, nil)
	settle(t, c)
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	want(t, c, 1, p, 0, len(p), true) // the open file is still there
	for i := range 40 {
		p := content(i, 10*PageSize)
		c.Put(keyOf(i, p), len(p), 0, p, nil)
		settle(t, c)
	}
	s := c.Stat()
	if s.WriteErrors == 0 || s.Skipped == 0 || !strings.Contains(s.LastError, "no such file") {
		t.Fatalf("%+v", s)
	}
	shut(t, c)
}

// TestParallel reads and puts from many goroutines while segments come and go.
func TestParallel(t *testing.T) {
	kinds(t, func(t *testing.T, o Options) {
		c := open(t, o)
		defer shut(t, c)
		const fragments = 150
		all := make([][]byte, fragments)
		for i := range all {
			all[i] = content(i, 3*PageSize-100*i)
		}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 3))
				for range 250 {
					i := r.IntN(fragments)
					p := all[i]
					off := r.IntN(len(p))
					n := 1 + r.IntN(len(p)-off)
					got := make([]byte, n)
					if c.Get(context.Background(), keyOf(i, p), int64(off), got) {
						if !bytes.Equal(got, p[off:off+n]) {
							t.Error("wrong content")
							return
						}
						continue
					}
					c.Put(keyOf(i, p), len(p), 0, p, nil)
					if r.IntN(50) == 0 {
						c.Drop(keyOf(i, p), len(p))
					}
				}
			})
		}
		wg.Wait()
		settle(t, c)
		if s := c.Stat(); s.Damaged > 0 || s.WriteErrors > 0 || s.Hits == 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestModel: whatever is done, a read gives what was put or nothing, and what was put last and not evicted is there.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "fragcache")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		o := Options{Dir: dir, Size: MinSize, Patience: time.Minute}
		if rapid.Bool().Draw(t, "memory") {
			o.Memory = 1 << 20
		}
		open := func() *Cache {
			c, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := open()
		defer func() { _ = c.Close() }()
		put := make(map[int]map[int]bool) // pages, by fragment
		sizes := rapid.SliceOfN(rapid.IntRange(1, 4*PageSize), 6, 6).Draw(t, "sizes")
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				i := rapid.IntRange(0, 5).Draw(t, "fragment")
				p := content(i, sizes[i])
				off := rapid.IntRange(0, len(p)).Draw(t, "off")
				n := rapid.IntRange(0, len(p)-off).Draw(t, "n")
				c.Put(keyOf(i, p), len(p), int64(off), p[off:off+n], nil)
				for j := 0; j*PageSize < len(p); j++ {
					if j*PageSize >= off && min((j+1)*PageSize, len(p)) <= off+n {
						if put[i] == nil {
							put[i] = make(map[int]bool)
						}
						put[i][j] = true
					}
				}
			},
			"get": func(t *rapid.T) {
				i := rapid.IntRange(0, 5).Draw(t, "fragment")
				p := content(i, sizes[i])
				off := rapid.IntRange(0, len(p)-1).Draw(t, "off")
				n := rapid.IntRange(1, len(p)-off).Draw(t, "n")
				if err := c.Sync(context.Background()); err != nil {
					t.Fatal(err)
				}
				there := true
				for j := off / PageSize; j*PageSize < off+n; j++ {
					there = there && put[i][j]
				}
				got := make([]byte, n)
				if ok := c.Get(context.Background(), keyOf(i, p), int64(off), got); ok != there || ok && !bytes.Equal(got, p[off:off+n]) {
					t.Fatalf("fragment %d, %d at %d: there %v, want %v", i, n, off, ok, there)
				}
			},
			"drop": func(t *rapid.T) {
				i := rapid.IntRange(0, 5).Draw(t, "fragment")
				if err := c.Sync(context.Background()); err != nil {
					t.Fatal(err)
				}
				c.Drop(keyOf(i, content(i, sizes[i])), sizes[i])
				delete(put, i)
			},
			"restart": func(t *rapid.T) {
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				c = open()
				for i := range 6 {
					if put[i] == nil { // what was dropped may be back
						if err := c.Sync(context.Background()); err != nil {
							t.Fatal(err)
						}
						c.Drop(keyOf(i, content(i, sizes[i])), sizes[i])
					}
				}
			},
		})
	})
}
