// Package stacked makes a disk of a namespace of another backend, so that a global backend can be laid over
// local ones: its fragments are objects there, coded once more by a policy of their own.
//
// It is the same code on both levels. A Disk is an objstore.Disk like any other: the manager, the client and the
// maintenance of the global backend run over it as they are, and know nothing of what is below. A backend below heals
// what it can by itself; what it has lost for good the global one sees as damaged fragments, or as a lost disk, and
// rebuilds elsewhere.
//
// It promises what objstore.Disk asks for:
//
//   - A put returns once the object below is durable there, its manifest included.
//   - What is read was verified by the backend below; blocks that are read whole are verified against the
//     checksums that were put as well, so that nothing between the two is taken on trust.
//   - A namespace is claimed by one owner, atomically, and cannot be claimed twice.
//
// It assumes that nobody else writes to the namespace, and that the backend below compresses and seals nothing: the
// one above has done that. Reads of a fragment of which too little is left below are a *objstore.CorruptError, also
// while disks are only away: the backend above heals around it, at the price of one fragment.
//
// An object is the fragment and what belongs to it, integers little endian:
//
//	data
//	recovery information
//	u32 each   CRC32C of the blocks of 64 KiB of data
//	zeroes     as many as make the name another than that of an object in whose place this one is
//	"GS" 01    magic and version
//	u32        length of the recovery information
//	22 bytes   the fragment's key
//	u32        CRC32C of all after the data
//
// Its name says whose it is and how much comes after the data, so that walks read no object: namespace, object and
// chunk as ordered numbers (see number), the fragment as a byte, its version and that length as ordered numbers. Names sort
// as keys do. Should two objects be of one fragment, because two processes put it at once, the one of the
// later upload counts. Names from 0xfe are the claim (claim.go).
package stacked

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Namespace is what a disk is made of; *client.Namespace is one.
type Namespace interface {
	objstore.Namespace
	ApplySequence(ctx context.Context, steps []client.Step) ([]objstore.Info, error)
	// Sync waits until every change so far is durable.
	Sync(ctx context.Context) error
	// Usage returns what the namespace's objects take.
	Usage(ctx context.Context) (nsm.Usage, error)
}

// Lower is a namespace together with what a disk needs to know of its backend.
type Lower struct {
	Namespace Namespace
	// Backend names the backend: disks of one are on one node, and share what it has free.
	Backend string
	// Room returns the room of the backend in bytes of user data, or an error when it cannot serve.
	Room func(ctx context.Context) (objstore.Capacity, error)
}

// Disk is a namespace as a disk. Safe for concurrent use.
type Disk struct {
	low   Lower
	id    asd.ID
	known tails
	locks [1024]sync.Mutex // of keys, by hash: held by a put from the look for older objects until its own is there

	mu     sync.RWMutex // held for reading by every operation
	closed bool
}

var _ objstore.Disk = (*Disk)(nil)

// Open returns the disk that owner has claimed. An error is a *asd.OpenError or a *asd.ClaimedError.
func Open(ctx context.Context, low Lower, owner asd.ID) (*Disk, error) {
	c, err := findClaim(ctx, low)
	switch {
	case err != nil:
		return nil, err
	case c.owner != owner:
		return nil, &asd.ClaimedError{Dir: low.Backend, ASD: c.id, Owner: c.owner}
	}
	d := &Disk{low: low, id: c.id}
	if err := d.Probe(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// ID returns the id that the disk got when it was claimed.
func (d *Disk) ID() asd.ID { return d.id }

// Node returns the node that the disk is on: its backend.
func (d *Disk) Node() string { return d.low.Backend }

// use begins an operation; the function ends it.
func (d *Disk) use(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.RLock()
	if d.closed {
		d.mu.RUnlock()
		return nil, objstore.ErrClosed
	}
	return d.mu.RUnlock, nil
}

// HasFragments implements objstore.Disk.
func (d *Disk) HasFragments(ctx context.Context, keys []objstore.FragmentKey) ([]bool, error) {
	done, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	out := make([]bool, len(keys))
	for i, k := range keys {
		switch _, err := d.find(ctx, k); {
		case err == nil:
			out[i] = true
		case !errors.Is(err, objstore.ErrNoFragment):
			return nil, err
		}
	}
	return out, nil
}

// DeleteFragments implements objstore.Disk.
func (d *Disk) DeleteFragments(ctx context.Context, keys []objstore.FragmentKey) error {
	done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	var names []string
	for _, k := range keys {
		all, err := d.objects(ctx, k)
		if err != nil {
			return err
		}
		for _, o := range all {
			names = append(names, o.name)
		}
		d.known.drop(k)
	}
	if len(names) == 0 {
		return nil
	}
	return d.low.Namespace.Delete(ctx, names...)
}

// Range implements objstore.Disk.
func (d *Disk) Range(ctx context.Context, from, to objstore.FragmentKey, fn func(objstore.FragmentInfo) bool) error {
	done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	if from.Compare(to) >= 0 {
		return nil
	}
	var last object // not told yet: another of the same fragment may follow
	stop := false
	tell := func() {
		if last.name != "" && !stop {
			stop = !fn(objstore.FragmentInfo{Key: last.key, Size: last.size})
		}
	}
	var bad error
	err = d.low.Namespace.List(ctx, string(appendKey(nil, from)), string(appendKey(nil, to)), func(i objstore.Info) bool {
		o, err := parseObject(i)
		if err != nil {
			bad = err
			return false
		}
		if last.name != "" && last.key == o.key {
			last = later(last, o)
			return true
		}
		tell()
		last = o
		return !stop
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	tell()
	return nil
}

// Stat implements objstore.Disk.
func (d *Disk) Stat(ctx context.Context) (objstore.DiskStat, error) {
	done, err := d.use(ctx)
	if err != nil {
		return objstore.DiskStat{}, err
	}
	defer done()
	u, err := d.low.Namespace.Usage(ctx)
	if err != nil {
		return objstore.DiskStat{}, err
	}
	room, err := d.low.Room(ctx)
	if err != nil {
		return objstore.DiskStat{}, err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(d.low.Backend))
	return objstore.DiskStat{Total: u.Bytes + room.Free, Used: u.Bytes, Free: room.Free, Fragments: max(0, u.Objects-claimObjects),
		Full: room.Free < fullBelow, Device: h.Sum64() | 1<<63}, nil
}

// fullBelow is how little room makes a disk be left alone, before it refuses.
const fullBelow = 1 << 20

// Probe implements objstore.Disk.
func (d *Disk) Probe(ctx context.Context) error {
	done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	c, err := findClaim(ctx, d.low)
	if err != nil {
		return err
	}
	if c.id != d.id {
		return &asd.OpenError{Dir: d.low.Backend, Err: asd.ErrForeign, Hint: fmt.Sprintf("it is disk %s now", c.id)}
	}
	_, err = d.low.Room(ctx)
	return err
}

// Close implements objstore.Disk. The backend below stays open.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.low.Namespace.Sync(context.Background())
}

// translate turns an error of the namespace about a fragment into the vocabulary of objstore.Disk.
func translate(k objstore.FragmentKey, err error) error {
	var lost *objstore.LostError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, objstore.ErrNotFound):
		return objstore.ErrNoFragment
	case errors.As(err, &lost):
		return &objstore.CorruptError{What: "fragment " + k.String(), Err: err}
	}
	return err
}
