package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

// manifests is a namespace whose manifests are rows of the volume's own store, as in a real one: a crash
// that takes an update back takes the manifests that were sequenced later with it. The bytes
// themselves are never deleted.
type manifests struct {
	kv kv.Store
	*bytesOf
}

type bytesOf struct {
	mu   sync.Mutex
	puts uint64
	p    map[uint64][]byte
}

const ksManifest kv.Keyspace = "manifest"

func (m manifests) Put(ctx context.Context, name string, p []byte) (objstore.Info, error) {
	m.mu.Lock()
	m.puts++
	id := m.puts
	m.p[id] = bytes.Clone(p)
	m.mu.Unlock()
	return objstore.Info{Name: name, ID: id, Size: int64(len(p))}, m.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		t.Put(ksManifest, []byte(name), binary.BigEndian.AppendUint64(nil, id))
		return nil
	})
}

func (m manifests) PutFrom(context.Context, string, io.Reader, int64) (objstore.Info, error) {
	panic("not used by a volume")
}

func (m manifests) get(ctx context.Context, name string) (p []byte, err error) {
	err = m.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		v, err := r.Get(ksManifest, []byte(name))
		if err != nil {
			return fmt.Errorf("object %s: %w", name, objstore.ErrNotFound)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		p = m.p[binary.BigEndian.Uint64(v)]
		return nil
	})
	return p, err
}

func (m manifests) ReadAt(ctx context.Context, name string, off int64, p []byte) error {
	b, err := m.get(ctx, name)
	if err == nil && copy(p, b[off:]) != len(p) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (m manifests) ReadSlices(ctx context.Context, slices []objstore.Slice) error {
	for _, s := range slices {
		if err := m.ReadAt(ctx, s.Name, s.Off, s.P); err != nil {
			return err
		}
	}
	return nil
}

func (m manifests) Stat(ctx context.Context, name string) (objstore.Info, error) {
	b, err := m.get(ctx, name)
	return objstore.Info{Name: name, Size: int64(len(b))}, err
}

func (m manifests) Delete(ctx context.Context, names ...string) error {
	return m.kv.Update(ctx, kv.Ordered, func(t kv.Txn) error {
		for _, n := range names {
			t.Delete(ksManifest, []byte(n))
		}
		return nil
	})
}

func (m manifests) List(ctx context.Context, from, to string, fn func(objstore.Info) bool) error {
	var all []objstore.Info
	err := m.kv.View(ctx, kv.Pending, func(r kv.Reader) error {
		return r.Range(ksManifest, kv.Range{From: []byte(from)}, func(k, v []byte) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			all = append(all, objstore.Info{Name: string(k), Size: int64(len(m.p[binary.BigEndian.Uint64(v)]))})
			return to == "" || string(k) < to
		})
	})
	for _, i := range all {
		if !fn(i) {
			break
		}
	}
	return err
}

// history is every content that an inode had, and which of them a crash may not take back.
type history struct {
	states [][]byte
	synced int
}

func (h *history) now() []byte { return h.states[len(h.states)-1] }

// crasher does random operations and knows what may be found after a crash.
type crasher struct {
	*testing.T
	fs.FS
	rng   *rand.Rand
	files map[fs.Ino]*history
	names map[string]fs.Ino
	least map[string]int // the first state of the inode that the name may have
	maybe map[string]bool
	was   map[string]map[fs.Ino]bool // inodes that the name has meant in this life
}

// named records that name means ino from now on, in a state of at least the given number, unless it has
// meant it before: then a crash may bring that time back.
func (c *crasher) named(name string, ino fs.Ino, least int) {
	if c.was[name] == nil {
		c.was[name] = map[fs.Ino]bool{}
	}
	if c.was[name][ino] {
		least = 0
	}
	c.was[name][ino] = true
	c.names[name], c.least[name] = ino, least
}

func (c *crasher) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *crasher) step(ctx context.Context) {
	name := fmt.Sprintf("f%d", c.rng.IntN(6))
	ino, exists := c.names[name]
	if !exists {
		a, err := c.Mknod(ctx, fs.Cred{}, fs.Root, name, fs.TypeRegular|0o644, 0)
		c.ok(err)
		c.files[a.Ino] = &history{states: [][]byte{nil}}
		c.named(name, a.Ino, 0)
		return
	}
	h := c.files[ino]
	switch n := c.rng.IntN(100); {
	case n < 55:
		p := make([]byte, 1+c.rng.IntN(1<<c.rng.IntN(18)))
		for i := range p {
			p[i] = byte(c.rng.Uint32()>>16) | 1 // never zero: a hole would show
		}
		off := c.rng.IntN(len(h.now()) + 1)
		if c.rng.IntN(3) == 0 {
			off = len(h.now())
		}
		c.ok(c.Write(ctx, ino, int64(off), p))
		s := append(bytes.Clone(h.now()[:off]), p...)
		if len(s) < len(h.now()) {
			s = append(s, h.now()[len(s):]...)
		}
		h.states = append(h.states, s)
	case n < 65:
		size := c.rng.IntN(len(h.now()) + 1)
		if c.rng.IntN(3) == 0 {
			size = 0
		}
		_, err := c.Setattr(ctx, ino, fs.SetAttr{Mask: fs.SetSize, Size: int64(size)})
		c.ok(err)
		h.states = append(h.states, bytes.Clone(h.now()[:size]))
	case n < 80:
		c.ok(c.Fsync(ctx, ino))
		h.synced = len(h.states) - 1
		c.maybe = map[string]bool{}
	case n < 88:
		to := fmt.Sprintf("f%d", c.rng.IntN(6))
		if to == name {
			return
		}
		c.ok(c.Rename(ctx, fs.Root, name, fs.Root, to, 0))
		_, over := c.names[to]
		least := 0
		if over {
			least = len(h.states) - 1
		}
		c.named(to, ino, least)
		delete(c.names, name)
		c.maybe[name], c.maybe[to] = true, true
	case n < 94:
		c.ok(c.Unlink(ctx, fs.Root, name))
		delete(c.names, name)
		c.maybe[name] = true
	default:
		time.Sleep(time.Duration(c.rng.IntN(8)) * time.Millisecond) // lets generations be frozen by age
	}
}

// TestCrash takes back a random number of updates that were not synced, and looks at what is left.
func TestCrash(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for i := range rounds {
		seed := uint64(time.Now().UnixNano()) + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { crash(t, seed) })
	}
}

func crash(t *testing.T, seed uint64) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(seed, 0))
	store := memkv.New()
	objects := &bytesOf{p: map[uint64][]byte{}}
	for range 3 { // lives
		v, err := volume.Open(ctx, store, manifests{store, objects}, volume.Options{FlushAfter: 4 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		c := &crasher{T: t, FS: v.Session(nil), rng: rng,
			files: map[fs.Ino]*history{}, names: map[string]fs.Ino{}, least: map[string]int{}, maybe: map[string]bool{}, was: map[string]map[fs.Ino]bool{}}
		c.adopt(ctx)
		for range 20 + rng.IntN(150) {
			c.step(ctx)
		}
		after := store.CrashPrefix(rng)
		if err := v.Close(ctx); err != nil {
			t.Fatal(err)
		}
		store = after
		c.look(ctx, store, objects)
	}
	v, err := volume.Open(ctx, store, manifests{store, objects}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Close(ctx); err != nil {
		t.Fatal(err)
	}
	check(t, store, manifests{store, objects})
}

// adopt takes over what an earlier life left; all of it is durable.
func (c *crasher) adopt(ctx context.Context) {
	c.ok(c.Sync(ctx))
	c.ok(c.ReadDir(ctx, fs.Root, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		c.names[d.Name] = d.Ino
		return true
	}))
	for name, ino := range c.names {
		c.files[ino] = &history{states: [][]byte{c.content(ctx, c.FS, ino)}}
		c.named(name, ino, 0)
	}
}

func (c *crasher) content(ctx context.Context, f fs.FS, ino fs.Ino) []byte {
	a, err := f.Getattr(ctx, ino)
	c.ok(err)
	p := make([]byte, a.Size)
	if n, err := f.Read(ctx, ino, 0, p); err != nil || n != len(p) {
		c.Fatalf("inode %d: read %d of %d bytes: %v", ino, n, len(p), err)
	}
	return p
}

// look opens what the crash left and compares every name with what it may be.
func (c *crasher) look(ctx context.Context, store *memkv.Store, objects *bytesOf) {
	v, err := volume.Open(ctx, store, manifests{store, objects}, volume.Options{})
	if err != nil {
		c.Fatal(err)
	}
	defer v.Close(ctx)
	s := v.Session(nil)
	found := map[string]bool{}
	var all []fs.Dirent
	c.ok(s.ReadDir(ctx, fs.Root, 0, false, func(d fs.Dirent, _ *fs.Attr) bool {
		all = append(all, d)
		return true
	}))
	for _, d := range all {
		found[d.Name] = true
		h := c.files[d.Ino]
		if h == nil {
			c.Fatalf("%s is inode %d, which was never made", d.Name, d.Ino)
		}
		from := h.synced
		if c.names[d.Name] == d.Ino {
			from = max(from, c.least[d.Name])
		}
		got := c.content(ctx, s, d.Ino)
		if !isOneOf(got, h.states[from:]) {
			c.Errorf("%s (inode %d): %d bytes are none of the %d contents it had since %d", d.Name, d.Ino, len(got), len(h.states)-from, from)
		}
	}
	for name, ino := range c.names {
		if h := c.files[ino]; !found[name] && h.synced > 0 && !c.maybe[name] {
			c.Errorf("%s is gone, though it was synced", name)
		}
	}
}

func isOneOf(p []byte, states [][]byte) bool {
	for _, s := range states {
		if bytes.Equal(p, s) {
			return true
		}
	}
	return false
}
