package fragcache

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// MinSize is the smallest folder in bytes.
const MinSize = 16 << 20

// Options for Open. The zero value is a cache that keeps nothing.
type Options struct {
	// Memory bounds the bytes kept in memory; 0 means none.
	Memory int64
	// Dir is the folder, made when it is missing; "" means none. Nobody else must use it.
	Dir string
	// Size bounds the bytes of the folder, at least MinSize.
	Size int64
	// Owner is whose fragments these are: keys of one owner mean nothing to another one.
	Owner [16]byte
	// Patience is how long Get waits for the folder's disk; 0 means 250 ms.
	Patience time.Duration
	// Queue bounds the bytes that wait to be written to the folder; 0 means 32 MiB. What is too much is not kept.
	Queue int64
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

// Cache keeps pages of fragments. Safe for concurrent use.
type Cache struct {
	mem    *memory // nil: none
	folder *folder // nil: none
	pool   *bufpool.Pool

	hits, misses, hitBytes atomic.Int64
}

// Open returns a cache. What the folder holds from before serves as soon as it is looked through, in the background.
// Errors are about the folder: it cannot be made or locked, or another process has it (ErrInUse).
func Open(o Options) (*Cache, error) {
	if o.Patience == 0 {
		o.Patience = 250 * time.Millisecond
	}
	if o.Queue == 0 {
		o.Queue = 32 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cache{pool: bufpool.New(8 << 20)}
	if o.Memory > 0 {
		c.mem = newMemory(o.Memory)
	}
	if o.Dir == "" {
		return c, nil
	}
	if o.Size < MinSize {
		return nil, fmt.Errorf("fragcache: %d bytes are too few, it takes at least %d", o.Size, MinSize)
	}
	f, err := openFolder(o, c.pool)
	if err != nil {
		return nil, fmt.Errorf("fragcache: %w", err)
	}
	c.folder = f
	return c, nil
}

// Close writes out what is queued and lets go of the folder. Other calls must have returned.
func (c *Cache) Close() error {
	if c.folder == nil {
		return nil
	}
	return c.folder.close()
}

// Sync waits until everything that was put is where it can be found, or was given up.
func (c *Cache) Sync(ctx context.Context) error {
	if c.folder == nil {
		return nil
	}
	return c.folder.sync(ctx)
}

// Ready fills p from offset off of a fragment if that needs no I/O. Otherwise it reports false, and p is undefined.
func (c *Cache) Ready(k Key, off int64, p []byte) bool {
	if len(p) == 0 || off < 0 || off+int64(len(p)) > maxPages*PageSize {
		return false
	}
	if c.mem != nil && c.mem.get(k, off, p) || c.folder != nil && c.folder.ready(k, off, p) {
		c.hit(len(p))
		return true
	}
	return false
}

// Get is Ready that also reads from the folder's disk, and waits for it, but not for long.
func (c *Cache) Get(ctx context.Context, k Key, off int64, p []byte) bool {
	if c.Ready(k, off, p) {
		return true
	}
	if len(p) > 0 && off >= 0 && c.folder != nil && c.folder.get(ctx, k, off, p) {
		c.hit(len(p))
		return true
	}
	c.misses.Add(1)
	return false
}

func (c *Cache) hit(n int) {
	c.hits.Add(1)
	c.hitBytes.Add(int64(n))
}

// Has tells whether Get would look for the range of n bytes at off with success, as far as that can be told without I/O.
func (c *Cache) Has(k Key, off int64, n int) bool {
	if n <= 0 || off < 0 || off+int64(n) > maxPages*PageSize {
		return false
	}
	return c.mem != nil && c.mem.has(k, off, n) || c.folder != nil && c.folder.has(k, off, n)
}

// Put keeps the pages of a fragment of size bytes that lie whole in p, which has its bytes from off on. sums are
// the CRC32Cs of the pages, when off is at the beginning of one and they are known; nil otherwise. It does not wait, and does
// not keep p.
func (c *Cache) Put(k Key, size int, off int64, p []byte, sums []uint32) {
	first := (off + PageSize - 1) / PageSize
	if off < 0 || size > maxPages*PageSize || first*PageSize-off > int64(len(p)) {
		return
	}
	if off%PageSize != 0 {
		sums = nil
	}
	p = p[first*PageSize-off:]
	var pages []page
	for i := first; len(p) > 0; i++ {
		n := min(PageSize, size-int(i)*PageSize)
		if n <= 0 || n > len(p) {
			break
		}
		x := page{key: pageKey{k, uint32(i)}, p: p[:n]}
		if j := int(i - first); j < len(sums) {
			x.sum, x.summed = sums[j], true
		}
		pages = append(pages, x)
		p = p[n:]
	}
	if len(pages) == 0 {
		return
	}
	if c.mem != nil {
		c.mem.put(pages)
	}
	if c.folder != nil {
		c.folder.put(pages)
	}
}

// page is one that is to be kept. p is the caller's.
type page struct {
	key    pageKey
	p      []byte
	sum    uint32
	summed bool
}

func (x *page) checksum() uint32 {
	if !x.summed {
		x.sum, x.summed = crc.Sum(x.p), true
	}
	return x.sum
}

// Drop forgets a fragment of size bytes: nobody will ask for it any more. The room in the folder comes back when its segment
// goes.
func (c *Cache) Drop(k Key, size int) {
	n := (size + PageSize - 1) / PageSize
	if n > maxPages {
		return
	}
	if c.mem != nil {
		c.mem.drop(k, n)
	}
	if c.folder != nil {
		c.folder.drop(k, n)
	}
}

// Stat is what a cache holds and did. Sizes are bytes.
type Stat struct {
	Hits, Misses int64 // reads
	HitBytes     int64

	MemoryUsed, MemorySize int64

	Dir         string
	Used, Size  int64 // of the folder
	Pages       int64 // in the folder
	Written     int64 // bytes written to the folder, those that moved included
	Evicted     int64 // pages that had to go from the folder
	Skipped     int64 // pages that were not kept because the folder's disk was behind or out of order
	Damaged     int64 // segments that were removed because something in them was wrong
	Late        int64 // reads that were not waited for
	WriteErrors int64
	Loading     bool   // it is still looked through
	LastError   string // of the folder
}

// Stat returns what the cache holds and did.
func (c *Cache) Stat() Stat {
	s := Stat{Hits: c.hits.Load(), Misses: c.misses.Load(), HitBytes: c.hitBytes.Load()}
	if c.mem != nil {
		s.MemoryUsed, s.MemorySize = c.mem.used()
	}
	if c.folder != nil {
		c.folder.stat(&s)
	}
	return s
}

// HasFolder tells whether the cache is more than memory.
func (c *Cache) HasFolder() bool { return c.folder != nil }
