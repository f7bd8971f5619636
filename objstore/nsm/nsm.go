// Package nsm is the namespace manager: the manifests of one namespace, in keyspaces of a kv.Store.
//
// It promises:
//
//   - An object is there whole or not at all: its manifest, its share of the counters and the queues
//     below change in one transaction.
//   - No manifest breaks the rules of its policy, whatever a writer asks: at least c confirmed
//     fragments per chunk, no two fragments of a chunk on one disk, at most x on one node, none on an
//     unknown or retired disk. Versions of fragments only rise.
//   - Ids of uploads are unique in the namespace for ever.
//   - A manifest whose upload began in an expired epoch is refused, so that fragments without a
//     manifest can be told from those whose manifest is still to come.
//
// It assumes that the store orders its updates (kv.Ordered): all changes but those of ids and epochs
// are sequenced, not synced, and become durable in order.
//
// Keyspaces, keys and values; ns is the namespace's number, integers in keys are big endian:
//
//	obj/manifest   ns(4) name                  manifest (see package manifest)
//	obj/count      ns(4) spare+128(1) m(1)     uvarint objects, bytes, stored bytes
//	obj/degraded   ns(4) id(8)                 name of an object that lacks fragments
//	obj/obsolete   ns(4) id(8)                 fragments to delete (see locations.go)
//	obj/parked     disk(4) fragment key(22)    empty: to delete when the disk is back
//	obj/alloc      ns(4)                       "GA" 01, next id, epoch, oldest valid epoch (8 each)
//	obj/lease      ns(4)                       who maintains it: a LeaseRecord as JSON
//	obj/hold       ns(4)                       from, to (8 each): ids on disks that the store does not know of
//	obj/home       ns(4)                       whether the namespace is here (see home.go)
//	obj/change     ns(4) number(8)             keys that were changed while it moves away (see home.go)
//	obj/inbox      "inbox"                     whose the store is, and which messages were obeyed: an Inbox as JSON
//
// A Host is all namespaces in one store: it obeys the backend manager's messages, and namespaces are moved from
// one Host to another by a Transfer while they are in use.
package nsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

const (
	ksManifest kv.Keyspace = "obj/manifest"
	ksCount    kv.Keyspace = "obj/count"
	ksDegraded kv.Keyspace = "obj/degraded"
	ksObsolete kv.Keyspace = "obj/obsolete"
	ksParked   kv.Keyspace = "obj/parked"
	ksAlloc    kv.Keyspace = "obj/alloc"
	ksHold     kv.Keyspace = "obj/hold"
)

// Disks is what the rules need to know of disks.
type Disks interface {
	// Node returns the node that a disk is on, and false for one that is unknown or retired.
	Node(objstore.DiskID) (node string, ok bool)
}

// Options for Open.
type Options struct {
	Name     string            // of the namespace, for errors
	Number   uint32            // of the namespace, never reused
	Policies []objstore.Policy // of its preset, until SetPreset
	Disks    Disks
	// Highest returns the highest id of an upload of the namespace of which a disk holds a fragment, if it is
	// from or above, and else 0. It is asked once, before the first upload; disks that do not answer are left
	// out. nil: nobody looks.
	Highest func(ctx context.Context, ns uint32, from uint64) (uint64, error)
	// Home returns the store of the namespace manager that hosts the namespace, the same value as long as that is
	// the same, or objstore.ErrNotFound when the namespace was deleted. It is asked when the namespace is not
	// where it was. nil: it never moves.
	Home func(context.Context) (kv.Store, error)
	// CacheBytes bounds the memory of decoded manifests; 0 means 16 MiB.
	CacheBytes int
}

// Manager keeps the manifests of one namespace. Safe for concurrent use.
type Manager struct {
	o     Options
	place atomic.Pointer[place]
	gone  atomic.Bool // the namespace was deleted
	cache *cache
	// mutations counts changes of manifests through this value, so that a scan can tell whether it
	// saw a still picture.
	mutations atomic.Uint64

	mu      sync.Mutex // guards ids, and changes of presets; held during the update that fetches a range
	ids     idRange
	presets presets
	guarded bool // the disks were compared with the store

	under    sync.Mutex     // guards uploads; may be taken under mu
	uploads  map[uint64]int // under way, by epoch
	finished chan struct{}  // replaced when an upload ends
}

// Open returns the manager of a namespace. It reads nothing yet.
func Open(store kv.Store, o Options) *Manager {
	if o.CacheBytes == 0 {
		o.CacheBytes = 16 << 20
	}
	n := &Manager{o: o, cache: newCache(o.CacheBytes), uploads: make(map[uint64]int), finished: make(chan struct{})}
	n.place.Store(&place{store: store, changed: make(chan struct{})})
	n.presets.versions.Store(&[]presetVersion{{preset: objstore.Preset{Policies: o.Policies}}})
	return n
}

// Number returns the namespace's number.
func (n *Manager) Number() uint32 { return n.o.Number }

// Name returns the namespace's name.
func (n *Manager) Name() string { return n.o.Name }

// prefix returns the key of the namespace, with room for more.
func (n *Manager) prefix(room int) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, 4+room), n.o.Number)
}

func (n *Manager) nameKey(name string) []byte { return append(n.prefix(len(name)), name...) }

func (n *Manager) idKey(id uint64) []byte { return binary.BigEndian.AppendUint64(n.prefix(8), id) }

func checkName(name string) error {
	if len(name) < 1 || len(name) > objstore.MaxName {
		return fmt.Errorf("objstore: object name of %d bytes, allowed are 1 to %d", len(name), objstore.MaxName)
	}
	return nil
}

// Lookup returns the manifest of an object, or an error that matches objstore.ErrNotFound. It sees
// everything that was sequenced. The manifest must not be changed.
func (n *Manager) Lookup(ctx context.Context, name string) (*manifest.Manifest, error) {
	if n.gone.Load() {
		return nil, n.notFound(name)
	}
	if m := n.cache.get(name); m != nil {
		return m, nil
	}
	return n.Fetch(ctx, name)
}

// Fetch is Lookup past the cache.
func (n *Manager) Fetch(ctx context.Context, name string) (*manifest.Manifest, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	stamp := n.cache.stamp(name)
	var m *manifest.Manifest
	err := n.view(ctx, func(r kv.Reader) (err error) {
		m, err = n.get(r, name)
		return err
	})
	if errors.Is(err, objstore.ErrNotFound) {
		n.cache.absent(name, stamp)
	}
	if err != nil {
		return nil, err
	}
	n.cache.put(name, m, stamp)
	return m, nil
}

// Known is Lookup when that costs nothing; else it returns nil.
func (n *Manager) Known(name string) *manifest.Manifest { return n.cache.get(name) }

// Exists tells whether the name is taken.
func (n *Manager) Exists(ctx context.Context, name string) (bool, error) {
	switch _, err := n.Lookup(ctx, name); {
	case err == nil:
		return true, nil
	case errors.Is(err, objstore.ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

func (n *Manager) get(r kv.Reader, name string) (*manifest.Manifest, error) {
	b, err := r.Get(ksManifest, n.nameKey(name))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, n.notFound(name)
	}
	if err != nil {
		return nil, fmt.Errorf("objstore: manifest of %s/%q: %w", n.o.Name, name, err)
	}
	m, err := manifest.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("objstore: %s/%q: %w", n.o.Name, name, err)
	}
	return m, nil
}

func (n *Manager) notFound(name string) error {
	return fmt.Errorf("object %s/%q: %w", n.o.Name, name, objstore.ErrNotFound)
}

// List calls fn with the objects from <= name < to in order until fn returns false; "" is no bound.
// Objects that come or go meanwhile may or may not be seen.
func (n *Manager) List(ctx context.Context, from, to string, fn func(name string, m *manifest.Manifest) bool) error {
	const page = 256
	r := kv.Prefix(n.prefix(0))
	if from != "" {
		r.From = n.nameKey(from)
	}
	if to != "" {
		r.To = n.nameKey(to)
	}
	for {
		type item struct {
			name string
			m    *manifest.Manifest
		}
		items := make([]item, 0, page)
		r.Limit = page
		var bad error
		err := n.view(ctx, func(v kv.Reader) error {
			items = items[:0]
			return v.Range(ksManifest, r, func(key, value []byte) bool {
				m, err := manifest.Decode(value)
				if err != nil {
					bad = fmt.Errorf("objstore: %s/%q: %w", n.o.Name, key[4:], err)
					return false
				}
				items = append(items, item{string(key[4:]), m})
				return true
			})
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return err
		}
		for _, it := range items {
			if !fn(it.name, it.m) {
				return nil
			}
		}
		if len(items) < page {
			return nil
		}
		r.From = append(n.nameKey(items[len(items)-1].name), 0)
	}
}

// Mutations returns a number that changes with every change of a manifest through this value.
func (n *Manager) Mutations() uint64 { return n.mutations.Load() }

// Sync waits until every change so far is durable.
func (n *Manager) Sync(ctx context.Context) error { return n.place.Load().store.Sync(ctx) }
