package meta_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tidwall/btree"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// stores are what the benchmarks run over: the real one, and one that costs next to nothing. The model
// memkv clones the state with each update and would measure itself.
var stores = map[string]func(b *testing.B) kv.Store{
	"plain": func(*testing.B) kv.Store { return newPlain() },
	"raftkv": func(b *testing.B) kv.Store {
		s, err := raftkv.Open(ctx, raftkv.Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		return s
	},
}

type row struct {
	ks         kv.Keyspace
	key, value []byte
}

// plain is a map without history, rollback or checks.
type plain struct {
	sync.Mutex
	*btree.BTreeG[row]
}

func newPlain() *plain {
	return &plain{BTreeG: btree.NewBTreeGOptions(func(a, b row) bool {
		if a.ks != b.ks {
			return a.ks < b.ks
		}
		return bytes.Compare(a.key, b.key) < 0
	}, btree.Options{NoLocks: true})}
}

func (p *plain) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	if r, ok := p.BTreeG.Get(row{ks: ks, key: key}); ok {
		return r.value, nil
	}
	return nil, kv.ErrNotFound
}

func (p *plain) Range(ks kv.Keyspace, g kv.Range, fn func(k, v []byte) bool) error {
	n := 0
	p.Ascend(row{ks: ks, key: g.From}, func(r row) bool {
		if n++; r.ks != ks || g.To != nil && bytes.Compare(r.key, g.To) >= 0 || g.Limit > 0 && n > g.Limit {
			return false
		}
		return fn(r.key, r.value)
	})
	return nil
}

func (p *plain) Put(ks kv.Keyspace, key, value []byte) { p.Set(row{ks, key, value}) }
func (p *plain) Delete(ks kv.Keyspace, key []byte)     { p.BTreeG.Delete(row{ks: ks, key: key}) }
func (p *plain) Sync(context.Context) error            { return nil }
func (p *plain) Close() error                          { return nil }

func (p *plain) Update(_ context.Context, _ kv.Commit, fn func(kv.Txn) error) error {
	p.Lock()
	defer p.Unlock()
	return fn(p)
}

func (p *plain) View(_ context.Context, _ kv.Level, fn func(kv.Reader) error) error {
	p.Lock()
	defer p.Unlock()
	return fn(p)
}

func eachStore(b *testing.B, fn func(b *testing.B, tree *meta.Tree)) {
	for name, make := range stores {
		b.Run(name, func(b *testing.B) {
			s := make(b)
			if _, err := meta.Format(ctx, s, meta.FormatOptions{}); err != nil {
				b.Fatal(err)
			}
			tree, err := meta.Open(ctx, s, meta.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			fn(b, tree)
		})
	}
}

// fill makes directories of 1000 files each and returns their numbers, and those of the files.
func fill(b *testing.B, tree *meta.Tree, n int) (dirs, files []fs.Ino) {
	for i := range n {
		if i%1000 == 0 {
			d, err := tree.Mkdir(ctx, fs.Cred{}, fs.Root, fmt.Sprint("dir", i), 0o755)
			if err != nil {
				b.Fatal(err)
			}
			dirs = append(dirs, d.Ino)
		}
		f, err := tree.Mknod(ctx, fs.Cred{UID: 1000, GID: 1000}, dirs[len(dirs)-1], fmt.Sprint("file", i), 0o644, 0)
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, f.Ino)
	}
	return dirs, files
}

func BenchmarkCreate(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		b.ResetTimer()
		fill(b, tree, b.N)
	})
}

func BenchmarkLookup(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		const n = 100_000
		dirs, _ := fill(b, tree, n)
		b.ResetTimer()
		for i := range b.N {
			i = i * 7919 % n
			if _, err := tree.Lookup(ctx, dirs[i/1000], fmt.Sprint("file", i)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLookupMissing(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		fill(b, tree, 100_000)
		b.ResetTimer()
		for range b.N {
			if _, err := tree.Lookup(ctx, fs.Root, "none"); err != fs.ErrNotExist {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkGetattr(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		const n = 100_000
		_, files := fill(b, tree, n)
		b.ResetTimer()
		for i := range b.N {
			if _, err := tree.Getattr(ctx, files[i*7919%n]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRename(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		const n = 100_000
		dirs, _ := fill(b, tree, n)
		b.ResetTimer()
		for i := range b.N {
			k := i % n
			from, to := fmt.Sprint("file", k), fmt.Sprint("renamed", k)
			if i/n%2 == 1 {
				from, to = to, from
			}
			if _, err := tree.Rename(ctx, dirs[k/1000], from, dirs[k/1000], to, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUnlink(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		dirs, _ := fill(b, tree, b.N)
		b.ResetTimer()
		for i := range b.N {
			if _, err := tree.Unlink(ctx, dirs[i/1000], fmt.Sprint("file", i)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSetattr(b *testing.B) {
	eachStore(b, func(b *testing.B, tree *meta.Tree) {
		const n = 100_000
		_, files := fill(b, tree, n)
		b.ResetTimer()
		for i := range b.N {
			if _, err := tree.Setattr(ctx, files[i*7919%n], fs.SetAttr{Mask: fs.SetMode, Mode: 0o600}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkReadDir lists one directory of 100,000 entries; an operation is one entry.
func BenchmarkReadDir(b *testing.B) {
	for _, plus := range []bool{false, true} {
		b.Run(fmt.Sprintf("plus=%v", plus), func(b *testing.B) {
			eachStore(b, func(b *testing.B, tree *meta.Tree) {
				for i := range 100_000 {
					if _, err := tree.Mknod(ctx, fs.Cred{}, fs.Root, fmt.Sprint("file", i), 0o644, 0); err != nil {
						b.Fatal(err)
					}
				}
				b.ResetTimer()
				for n := 0; n < b.N; {
					if err := tree.ReadDir(ctx, fs.Root, 0, plus, func(fs.Dirent, *fs.Attr) bool { n++; return n < b.N }); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkCheck checks a volume of 100,000 files; an operation is one inode.
func BenchmarkCheck(b *testing.B) {
	for name, make := range stores {
		b.Run(name, func(b *testing.B) {
			s := make(b)
			if _, err := meta.Format(ctx, s, meta.FormatOptions{}); err != nil {
				b.Fatal(err)
			}
			tree, err := meta.Open(ctx, s, meta.Options{})
			if err != nil {
				b.Fatal(err)
			}
			fill(b, tree, 100_000)
			b.ResetTimer()
			for n := 0; n < b.N; {
				sum, err := meta.Check(ctx, s, func(p meta.Problem) { b.Error(p) })
				if err != nil {
					b.Fatal(err)
				}
				n += int(sum.Inodes)
			}
		})
	}
}
