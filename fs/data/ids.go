package data

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/gabionfs/gabion/kv"
)

// idRange is how many ids are reserved at a time. A crash skips what is left of a range.
const idRange = 4096

// freshContent is set in the content ids handed out here; those of new files are inode numbers.
const freshContent = 1 << 63

// ids hands out numbers for packs and contents. None is ever used twice.
type ids struct {
	s *Store

	mu          sync.Mutex
	next, limit uint64
}

// take returns a new id. When pin is set it is pinned before anybody can see that it is taken.
func (x *ids) take(ctx context.Context, pin bool) (uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.next == x.limit {
		var from uint64
		err := x.s.kv.Update(ctx, kv.Ordered, func(t kv.Txn) (err error) {
			if from, err = getU64(t, keyNext); err != nil {
				return err
			}
			t.Put(ksData, keyNext, u64key(from+idRange))
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("reserve ids: %w", err)
		}
		x.next, x.limit = from, from+idRange
	}
	id := x.next
	x.next++
	if pin {
		x.s.pins.pin(id)
	}
	return id, nil
}

// settled returns the id below which every pack has its row, or is dead.
func (x *ids) settled() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.s.pins.lowest(x.next)
}

// getU64 reads a number of ksData; 0 when it was never written.
func getU64(r kv.Reader, key []byte) (uint64, error) {
	v, err := r.Get(ksData, key)
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, &DamageError{fmt.Sprintf("row %q", key), errShort}
	}
	return binary.BigEndian.Uint64(v), nil
}
