package nsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Upload is the right to register one manifest: an id of its own, and the epoch in which it began.
type Upload struct{ ID, Epoch uint64 }

// ErrExpired: the upload began in an epoch that has expired. Its fragments may be gone already; the
// object must be written again, as a new upload.
var ErrExpired = errors.New("objstore: the upload's epoch has expired")

// rangeLen is how many ids one durable update fetches. Ids left over when the process ends are never
// used, which costs nothing but a few bits.
const rangeLen = 1 << 16

type idRange struct {
	next, end uint64
	epoch     uint64
}

// alloc is the value of obj/alloc.
type alloc struct {
	next  uint64 // first id that was given to nobody
	epoch uint64 // of uploads that begin now
	min   uint64 // oldest epoch whose uploads are still accepted
}

var errAlloc = &objstore.CorruptError{What: "allocation record", Err: errors.New("not 27 bytes of version 1")}

func (n *Manager) alloc(r kv.Reader) (alloc, error) {
	b, err := r.Get(ksAlloc, n.prefix(0))
	if errors.Is(err, kv.ErrNotFound) {
		return alloc{next: 1, epoch: 1, min: 1}, nil
	}
	if err != nil {
		return alloc{}, err
	}
	if len(b) != 27 || string(b[:3]) != "GA\x01" {
		return alloc{}, errAlloc
	}
	u := binary.BigEndian.Uint64
	return alloc{u(b[3:]), u(b[11:]), u(b[19:])}, nil
}

func (n *Manager) putAlloc(tx kv.Txn, a alloc) {
	b := append(make([]byte, 0, 27), "GA\x01"...)
	b = binary.BigEndian.AppendUint64(b, a.next)
	b = binary.BigEndian.AppendUint64(b, a.epoch)
	b = binary.BigEndian.AppendUint64(b, a.min)
	tx.Put(ksAlloc, n.prefix(0), b)
}

// updateAlloc changes the allocation record, durably: what it hands out is never handed out again.
func (n *Manager) updateAlloc(ctx context.Context, change func(*alloc)) (before, after alloc, err error) {
	err = n.update(ctx, kv.Durable, func(tx kv.Txn) (err error) {
		if before, err = n.alloc(tx); err != nil {
			return err
		}
		after = before
		change(&after)
		n.putAlloc(tx, after)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("objstore: ids of namespace %s: %w", n.o.Name, err)
	}
	return before, after, err
}

// Begin starts an upload; End it. It takes some nanoseconds but once in 65536 times.
func (n *Manager) Begin(ctx context.Context) (Upload, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids.next == n.ids.end {
		if err := n.guard(ctx); err != nil {
			return Upload{}, err
		}
		before, after, err := n.updateAlloc(ctx, func(a *alloc) { a.next += rangeLen })
		if err != nil {
			return Upload{}, err
		}
		n.ids = idRange{before.next, after.next, after.epoch}
	}
	u := Upload{ID: n.ids.next, Epoch: n.ids.epoch}
	n.ids.next++
	n.presets.began = n.ids.next
	n.under.Lock()
	n.uploads[u.Epoch]++
	n.under.Unlock()
	return u, nil
}

// End says that an upload is over: registered or not, it will do nothing any more.
func (n *Manager) End(u Upload) {
	n.under.Lock()
	defer n.under.Unlock()
	if n.uploads[u.Epoch]--; n.uploads[u.Epoch] == 0 {
		delete(n.uploads, u.Epoch)
	}
	close(n.finished)
	n.finished = make(chan struct{})
}

// Quiesce waits until no upload through this value is under way that began before e, or ctx ends.
func (n *Manager) Quiesce(ctx context.Context, e Epoch) error {
	for {
		n.under.Lock()
		old := false
		for epoch := range n.uploads {
			old = old || epoch < e.Number
		}
		wait := n.finished
		n.under.Unlock()
		if !old {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Epoch is a boundary between uploads: those of earlier epochs have ids below Below.
type Epoch struct{ Number, Below uint64 }

// Advance begins a new epoch. Uploads that began before keep their right until Expire.
func (n *Manager) Advance(ctx context.Context) (Epoch, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, a, err := n.updateAlloc(ctx, func(a *alloc) { a.epoch++ })
	if err != nil {
		return Epoch{}, err
	}
	n.ids = idRange{}
	return Epoch{Number: a.epoch, Below: a.next}, nil
}

// Expire ends all epochs before e. When it returns, no manifest with an id below e.Below that is not
// registered yet ever will be.
func (n *Manager) Expire(ctx context.Context, e Epoch) error {
	_, _, err := n.updateAlloc(ctx, func(a *alloc) { a.min = max(a.min, e.Number) })
	return err
}
