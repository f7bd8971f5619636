package nsm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Transfer brings the rows of a namespace from one namespace manager to another, while it is in use: Copy until
// little is missing, Freeze, and then the backend manager decides that it is at the other. Everything may be cut off
// at any point and done again, by whichever process.
type Transfer struct {
	From, To  *Host
	Namespace uint32
	// Progress is called with the number of rows that were copied, now and then; nil: it is not.
	Progress func(rows int64)
	// Batch is how many rows, or changes, one transaction brings over; 0 means 1024.
	Batch int

	rows int64
}

const (
	batch     = 1024
	pageBytes = 1 << 20
	// nearEnough is how many changes may be missing for a freeze to be short.
	nearEnough = 32
	// outrun is after how many steps that bring it no nearer the end of the changes Copy leaves the rest to Freeze.
	outrun = 16
)

// ErrOvertaken: another process moves the namespace at the same time, or it does not move any more.
var ErrOvertaken = errors.New("objstore: the move is in other hands")

// Copy brings over everything but the last few changes.
func (t *Transfer) Copy(ctx context.Context) error {
	err := t.begin(ctx)
	least, tries := uint64(copying), 0
	for left := least; err == nil && left > nearEnough && tries < outrun; {
		if left, err = t.step(ctx); left < least {
			least, tries = left, 0
		} else if left < copying {
			tries++
		}
	}
	return t.wrap("copy", err)
}

// Freeze stops all changes at the old namespace manager, and brings over what is missing. When it fails, Thaw.
func (t *Transfer) Freeze(ctx context.Context) error {
	err := t.turn(ctx, Moving, Frozen)
	for left := uint64(1); err == nil && left > 0; {
		left, err = t.step(ctx)
	}
	if err == nil {
		err = t.To.store.Sync(ctx)
	}
	return t.wrap("freeze", err)
}

// Thaw lets changes pass at the old namespace manager again, if it was frozen; the move is still under way.
func (t *Transfer) Thaw(ctx context.Context) error {
	return t.wrap("thaw", t.turn(ctx, Frozen, Moving))
}

func (t *Transfer) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("objstore: move namespace %d: %s: %w", t.Namespace, what, err)
}

// turn takes the namespace from a state to the next at the old namespace manager; being there already is fine.
func (t *Transfer) turn(ctx context.Context, from, to HomeState) error {
	return t.From.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		is, err := readHome(tx, t.Namespace)
		switch {
		case err != nil || is.state == to:
			return err
		case is.state != from:
			return fmt.Errorf("%w: it is %v", ErrOvertaken, is.state)
		}
		is.state = to
		tx.Put(ksHome, nsKey(t.Namespace), is.encode())
		return nil
	})
}

// begin has changes noted from now on, and the copy begin after the last before that.
func (t *Transfer) begin(ctx context.Context) error {
	var from home
	err := t.From.store.Update(ctx, kv.Durable, func(tx kv.Txn) (err error) {
		from, err = readHome(tx, t.Namespace)
		switch {
		case err != nil || from.state == Moving || from.state == Frozen:
			return err
		case from.state != Settled:
			return fmt.Errorf("%w: it is %v", ErrOvertaken, from.state)
		}
		from.state = Moving
		tx.Put(ksHome, nsKey(t.Namespace), from.encode())
		return nil
	})
	if err != nil {
		return err
	}
	return t.To.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		to, err := readHome(tx, t.Namespace)
		switch {
		case err != nil || to.part > 0:
			return err
		case to.state != Importing:
			return fmt.Errorf("%w: it is %v there", ErrOvertaken, to.state)
		}
		// What is copied is read later than from.seq was: it lacks nothing that came up to there.
		tx.Put(ksHome, nsKey(t.Namespace), home{state: Importing, seq: from.seq, part: 1}.encode())
		return nil
	})
}

// copying stands for all changes, while rows are copied.
const copying = math.MaxUint64

// step brings over one page of rows or changes, and returns how many changes are left.
func (t *Transfer) step(ctx context.Context) (left uint64, err error) {
	var is home
	err = t.To.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		is, err = readHome(r, t.Namespace)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case is.state != Importing || is.part == 0:
		return 0, fmt.Errorf("%w: it is %v there", ErrOvertaken, is.state)
	case int(is.part) <= len(parts):
		return copying, t.copyPage(ctx, is)
	}
	return t.catchUp(ctx, is)
}

// copyPage copies the next rows of a part.
func (t *Transfer) copyPage(ctx context.Context, is home) error {
	ks := parts[is.part-1]
	page, err := readPage(ctx, t.From.store, ks, t.Namespace, []byte(is.at), cmp.Or(t.Batch, batch))
	if err != nil {
		return err
	}
	next := is
	if next.at = string(page.last); !page.more {
		next.part, next.at = is.part+1, ""
	}
	err = t.write(ctx, is, next, func(tx kv.Txn) {
		for _, r := range page.rows {
			tx.Put(ks, []byte(r.key), bytes.Clone(r.value))
		}
	})
	if t.rows += int64(len(page.rows)); err == nil && t.Progress != nil {
		t.Progress(t.rows)
	}
	return err
}

// write changes rows at the new namespace manager, if the move there is still where it was.
func (t *Transfer) write(ctx context.Context, is, next home, fn func(kv.Txn)) error {
	// What was read must not be lost at the old one while the new one keeps it.
	if err := t.From.store.Sync(ctx); err != nil {
		return err
	}
	return t.To.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		now, err := readHome(tx, t.Namespace)
		if err != nil {
			return err
		}
		if now != is {
			return ErrOvertaken
		}
		fn(tx)
		tx.Put(ksHome, nsKey(t.Namespace), next.encode())
		return nil
	})
}

// catchUp brings the rows up to date that the next changes were about, and returns how many changes are left.
func (t *Transfer) catchUp(ctx context.Context, is home) (left uint64, err error) {
	values := make(map[row][]byte) // nil: there is no such row
	next := is
	var from home
	err = t.From.store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		clear(values)
		next = is
		if from, err = readHome(r, t.Namespace); err != nil {
			return err
		}
		if from.state != Moving && from.state != Frozen {
			return fmt.Errorf("%w: it is %v", ErrOvertaken, from.state)
		}
		var bad error
		size := 0
		after := kv.Prefix(nsKey(t.Namespace))
		after.From, after.Limit = changeKey(t.Namespace, is.seq+1), cmp.Or(t.Batch, batch)
		var keys []row
		err := r.Range(ksChange, after, func(key, value []byte) bool {
			if seq := binary.BigEndian.Uint64(key[4:]); seq != next.seq+1 {
				bad = fmt.Errorf("objstore: change %d of namespace %d after %d", seq, t.Namespace, next.seq)
				return false
			}
			next.seq++
			bad = decodeChanges(value, func(k row) { keys = append(keys, k) })
			size += len(value)
			return bad == nil && size < pageBytes
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
		for _, k := range keys {
			v, err := r.Get(parts[k.part], []byte(k.key))
			switch {
			case err == nil:
				values[k] = append([]byte{}, v...)
			case errors.Is(err, kv.ErrNotFound):
				values[k] = nil
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if left = from.seq - next.seq; next.seq == is.seq {
		return left, nil
	}
	err = t.write(ctx, is, next, func(tx kv.Txn) {
		for k, v := range values {
			if v == nil {
				tx.Delete(parts[k.part], []byte(k.key))
			} else {
				tx.Put(parts[k.part], []byte(k.key), v)
			}
		}
	})
	return left, err
}

// page is some rows of a keyspace of a namespace.
type page struct {
	rows []pageRow
	last []byte // the last key that was looked at
	more bool
}

type pageRow struct {
	key   string
	value []byte
}

// readPage reads rows after a key; nil, or "", is from the first.
func readPage(ctx context.Context, store kv.Store, ks kv.Keyspace, ns uint32, after []byte, limit int) (p page, err error) {
	// The keys of what is parked begin with the disk.
	var mine func(key []byte) bool
	r := kv.Prefix(nsKey(ns))
	if ks == ksParked {
		r = kv.Range{}
		mine = func(key []byte) bool { return parkedNamespace(key) == ns }
	}
	if len(after) > 0 {
		r.From = append(bytes.Clone(after), 0)
	}
	r.Limit = limit
	err = store.View(ctx, kv.Linearizable, func(v kv.Reader) error {
		p = page{last: after}
		looked, size := 0, 0
		err := v.Range(ks, r, func(key, value []byte) bool {
			looked++
			p.last = bytes.Clone(key)
			if mine == nil || mine(key) {
				p.rows = append(p.rows, pageRow{string(key), bytes.Clone(value)})
				size += len(key) + len(value)
			}
			return size < pageBytes
		})
		p.more = looked == limit || size >= pageBytes
		return err
	})
	return p, err
}

// parkedNamespace returns the namespace of a key of obj/parked.
func parkedNamespace(key []byte) uint32 {
	k, err := objstore.ParseFragmentKey(key[min(4, len(key)):])
	if err != nil {
		return 0
	}
	return k.Namespace
}
