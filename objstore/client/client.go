// Package client puts, reads and deletes objects: it implements objstore.Namespace over disks.
//
// A put cuts the object into chunks, compresses, seals, codes and checksums each, writes the fragments to
// different disks in parallel, and registers the manifest once c fragments of every chunk are durable.
// A fragment whose disk fails is written to another; when too few disks are left for the policy, the
// chunk is coded again by the next one. Fragments that are still being written when the object is
// acknowledged are noted as unconfirmed, and confirmed in the background.
//
// A read touches only data fragments, and only the part of them that is asked for. When one is
// missing, damaged, or late, the same part of other fragments is read and the missing part computed.
//
// It assumes that a Disk verifies what it returns. Memory is bounded: what is being written holds
// shares of a budget, buffers are pooled, caches have limits.
package client

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Trouble is told what the client notices and maintenance should look after. Its methods must not
// block.
type Trouble interface {
	// Degraded: the object was written with fewer fragments than its policy wants. Fragments
	// that are merely late do not count until they fail.
	Degraded(ns *nsm.Manager, name string)
	// Bad: a fragment that the manifest refers to could not be read, and not because its disk is down.
	Bad(ns *nsm.Manager, name string, key objstore.FragmentKey, disk objstore.DiskID, err error)
	// Obsolete: the namespace's queue of obsolete fragments has grown.
	Obsolete(ns *nsm.Manager)
}

// Options for New. Disks must be set.
type Options struct {
	Disks   *manager.Manager
	Trouble Trouble // nil: nobody is told
	Logger  *slog.Logger
	// Reclaim deletes the fragments of everything that was deleted so far; nil: they go when they go.
	Reclaim func(context.Context) error

	// Fragments keeps parts of fragments near; nil: nothing does. It is closed after the client, by whoever opened it.
	Fragments *fragcache.Cache
	// CacheReads and CacheWrites say what is kept there: what is read of fragments, and the data fragments that
	// are written. Without a folder it keeps only those of remote disks: the others are in the page cache.
	CacheReads, CacheWrites bool

	WriteMemory int // bytes of chunks being written; 0 means 64 MiB
	HealMemory  int // bytes of chunks being healed; 0 means 48 MiB
	PoolMemory  int // bytes of idle buffers kept; 0 means 64 MiB
	FrameCache  int // bytes of decoded frames; 0 means 16 MiB, negative none
	// HedgeMin is the least time that a read waits before it asks other disks; 0 means 15 ms.
	HedgeMin time.Duration
	// Grace is the least time that a put waits for fragments that are late when enough are durable; 0 means 20 ms.
	Grace time.Duration
	// WriteTimeout is how long a put waits for disks before it tries with others; 0 means 30 s.
	WriteTimeout time.Duration
}

// Client is the way to the disks that all namespaces share. Safe for concurrent use.
type Client struct {
	o      Options
	log    *slog.Logger
	codes  erasure.Cache
	codec  frames.Codec
	pool   *bufpool.Pool
	budget *semaphore.Weighted
	heals  *semaphore.Weighted // as budget, for Heal
	cache  *frameCache
	hedge  atomic.Pointer[hedge]
	ops    *workers

	lateMu sync.Mutex
	late   map[objstore.FragmentKey]bool // being written although their object was acknowledged

	ctx    context.Context // ends when the client is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup // background work of puts
	closed atomic.Bool
	gate   sync.RWMutex // held shared while background work is added, exclusively by Close
}

type noTrouble struct{}

func (noTrouble) Degraded(*nsm.Manager, string)                                          {}
func (noTrouble) Bad(*nsm.Manager, string, objstore.FragmentKey, objstore.DiskID, error) {}
func (noTrouble) Obsolete(*nsm.Manager)                                                  {}

// New returns a client. Close it.
func New(o Options) *Client {
	if o.WriteMemory == 0 {
		o.WriteMemory = 64 << 20
	}
	if o.HealMemory == 0 {
		o.HealMemory = 48 << 20
	}
	if o.PoolMemory == 0 {
		o.PoolMemory = 64 << 20
	}
	if o.FrameCache == 0 {
		o.FrameCache = 16 << 20
	}
	if o.HedgeMin == 0 {
		o.HedgeMin = 15 * time.Millisecond
	}
	if o.Grace == 0 {
		o.Grace = graceMin
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 30 * time.Second
	}
	if o.Trouble == nil {
		o.Trouble = noTrouble{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, log: o.Logger, pool: bufpool.New(o.PoolMemory), budget: semaphore.NewWeighted(int64(o.WriteMemory)), heals: semaphore.NewWeighted(int64(o.HealMemory)),
		cache: newFrameCache(max(0, o.FrameCache)), late: make(map[objstore.FragmentKey]bool)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.ops = newWorkers(c.ctx)
	return c
}

// Close ends background work: what is being written is finished, not waited for by anyone. Calls of
// namespaces must have returned.
func (c *Client) Close() {
	c.gate.Lock()
	c.closed.Store(true)
	c.gate.Unlock()
	c.cancel()
	c.wg.Wait()
	c.codec.Close()
}

// background runs fn so that Close waits for it. It reports false when the client is closed.
func (c *Client) background(fn func()) bool {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.closed.Load() {
		return false
	}
	c.wg.Go(fn)
	return true
}

// isLate tells whether a fragment is still being written.
func (c *Client) isLate(k objstore.FragmentKey) bool {
	c.lateMu.Lock()
	defer c.lateMu.Unlock()
	return c.late[k]
}

// setLate notes that fragments are being written, or no longer.
func (c *Client) setLate(at []nsm.Location, late bool) {
	c.lateMu.Lock()
	defer c.lateMu.Unlock()
	for _, l := range at {
		if late {
			c.late[l.Key] = true
		} else {
			delete(c.late, l.Key)
		}
	}
}

// Namespace is one namespace of a client; it implements objstore.Namespace.
type Namespace struct {
	c    *Client
	nsm  *nsm.Manager
	keys atomic.Pointer[crypt.NamespaceKeys]
}

var _ objstore.Namespace = (*Namespace)(nil)

// Namespace returns the objects of n, written by preset until SetPreset.
func (c *Client) Namespace(n *nsm.Manager, preset objstore.Preset) *Namespace {
	s := &Namespace{c: c, nsm: n}
	s.SetPreset(preset)
	return s
}

// NSM returns the namespace's manager.
func (s *Namespace) NSM() *nsm.Manager { return s.nsm }

// Preset returns the preset that new objects are written by.
func (s *Namespace) Preset() objstore.Preset { return s.nsm.Preset() }

// SetPreset puts another version of the preset, or another preset, in force: for objects whose put begins from
// now on.
func (s *Namespace) SetPreset(p objstore.Preset) {
	if p.FragmentSize == 0 {
		p.FragmentSize = manager.DefaultFragmentSize
	}
	s.nsm.SetPreset(p)
}
