package nsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// A namespace is at one namespace manager. In its store, the row of obj/home says so:
//
//	"GH" 01   magic and version
//	u8        HomeState
//	u64       number of the last change, big endian; while Importing, of the last that has come over
//	u8        while Importing: 1 + index in parts of the keyspace that is being copied, len(parts)+1: all are
//	...       while Importing: the last key that was copied
//
// Every transaction on the namespace reads it: what the row does not allow fails, whichever process asks and
// whatever it believes. While the namespace is moved away, each transaction also notes the keys that it changes
// in obj/change, under numbers that rise: what was copied before is brought up to date from these.
const (
	ksHome   kv.Keyspace = "obj/home"
	ksChange kv.Keyspace = "obj/change"
)

// parts are the keyspaces of a namespace's rows. Their indexes are in stored rows: only append.
var parts = []kv.Keyspace{ksManifest, ksCount, ksDegraded, ksObsolete, ksParked, ksAlloc, ksLease, ksHold}

// HomeState says whether a namespace is at a namespace manager.
type HomeState uint8

const (
	// Absent: it is not here.
	Absent HomeState = iota
	// Settled: it is here.
	Settled
	// Importing: it is moving here; it can be neither read nor changed here yet.
	Importing
	// Moving: it is here, and being copied to another; changes are noted.
	Moving
	// Frozen: it is here to be read, and about to be at another: nothing changes.
	Frozen
	// Dropping: it is not here any more; the rows that it left are being removed.
	Dropping
)

func (s HomeState) String() string {
	return [...]string{"absent", "settled", "importing", "moving", "frozen", "dropping"}[s]
}

// home is the value of obj/home.
type home struct {
	state HomeState
	seq   uint64
	part  uint8
	at    string
}

const homeMagic = "GH\x01"

func (h home) encode() []byte {
	b := append(make([]byte, 0, 13+len(h.at)), homeMagic...)
	b = binary.BigEndian.AppendUint64(append(b, byte(h.state)), h.seq)
	return append(append(b, h.part), h.at...)
}

func decodeHome(b []byte) (home, error) {
	if len(b) < 13 || string(b[:3]) != homeMagic {
		return home{}, &objstore.CorruptError{What: "home of a namespace", Err: errors.New("not of version 1")}
	}
	h := home{state: HomeState(b[3]), seq: binary.BigEndian.Uint64(b[4:]), part: b[12], at: string(b[13:])}
	if h.state == Absent || h.state > Dropping || int(h.part) > len(parts)+1 || len(h.at) > kv.MaxKey {
		return home{}, &objstore.CorruptError{What: "home of a namespace", Err: fmt.Errorf("state %d, part %d", h.state, h.part)}
	}
	return h, nil
}

func nsKey(ns uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 0, 12), ns) }

func changeKey(ns uint32, seq uint64) []byte { return binary.BigEndian.AppendUint64(nsKey(ns), seq) }

// readHome returns where a namespace stands in a store. A store that no backend manager has claimed holds
// whatever is in it.
func readHome(r kv.Reader, ns uint32) (home, error) {
	b, err := r.Get(ksHome, nsKey(ns))
	if err == nil {
		return decodeHome(b)
	}
	if !errors.Is(err, kv.ErrNotFound) {
		return home{}, err
	}
	switch _, err := r.Get(ksInbox, inboxKey); {
	case err == nil:
		return home{}, nil
	case errors.Is(err, kv.ErrNotFound):
		return home{state: Settled}, nil
	default:
		return home{}, err
	}
}

// IsSettled tells whether a namespace is in a store and stays there.
func IsSettled(r kv.Reader, ns uint32) (bool, error) {
	h, err := readHome(r, ns)
	return h.state == Settled, err
}

// errAway: the namespace is not to be had in this store, now or any more.
var errAway = errors.New("objstore: the namespace is at another namespace manager")

// place is a store that a namespace is believed to be in.
type place struct {
	store   kv.Store
	changed chan struct{} // closed when it is worth to look again
}

// Store returns the store that the namespace was found in last.
func (n *Manager) Store() kv.Store { return n.place.Load().store }

// Moved says that the namespace may be to be had again, here or elsewhere: whoever waits looks again.
func (n *Manager) Moved() {
	p := n.place.Load()
	if n.place.CompareAndSwap(p, &place{p.store, make(chan struct{})}) {
		close(p.changed)
	}
}

// Deleted says that the namespace is no more.
func (n *Manager) Deleted() {
	n.gone.Store(true)
	n.Moved()
}

// IsDeleted tells whether Deleted was called.
func (n *Manager) IsDeleted() bool { return n.gone.Load() }

const (
	// patience is how long a call waits for a namespace that is being moved.
	patience = 30 * time.Second
	// askAgain is how soon it looks again when another process moves it, who cannot say when it is done.
	askAgain = 20 * time.Millisecond
)

// settled calls do with the store that the namespace is in, and again when it has moved meanwhile.
func (n *Manager) settled(ctx context.Context, do func(kv.Store) error) error {
	var until time.Time
	for {
		p := n.place.Load()
		err := do(p.store)
		if !errors.Is(err, errAway) {
			return err
		}
		if n.o.Home == nil {
			return fmt.Errorf("namespace %s: %w", n.o.Name, err)
		}
		if until.IsZero() {
			until = time.Now().Add(patience)
		}
		if err := n.follow(ctx, p, until); err != nil {
			return fmt.Errorf("namespace %s: %w", n.o.Name, err)
		}
	}
}

// follow returns when it is worth to try again after p was found to be wrong.
func (n *Manager) follow(ctx context.Context, p *place, until time.Time) error {
	store, err := n.o.Home(ctx)
	if err != nil {
		return err
	}
	if store != p.store {
		if n.place.CompareAndSwap(p, &place{store, make(chan struct{})}) {
			close(p.changed)
		}
		return nil
	}
	if !time.Now().Before(until) {
		return objstore.ErrMoving
	}
	t := time.NewTimer(askAgain)
	defer t.Stop()
	select {
	case <-p.changed:
	case <-t.C:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", objstore.ErrMoving, ctx.Err())
	}
	return nil
}

// update runs a transaction on the namespace. An Ordered one that has begun is not cut off by ctx: its outcome
// would be unknown.
func (n *Manager) update(ctx context.Context, c kv.Commit, fn func(kv.Txn) error) error {
	within := ctx
	if c == kv.Ordered {
		within = context.WithoutCancel(ctx)
	}
	return n.settled(ctx, func(s kv.Store) error {
		return s.Update(within, c, func(tx kv.Txn) error {
			h, err := readHome(tx, n.o.Number)
			switch {
			case err != nil:
				return err
			case h.state == Settled:
				return fn(tx)
			case h.state == Moving:
				return noted(tx, n.o.Number, h, fn)
			}
			return errAway
		})
	})
}

// view reads the namespace as it was sequenced.
func (n *Manager) view(ctx context.Context, fn func(kv.Reader) error) error {
	return n.settled(ctx, func(s kv.Store) error {
		return s.View(ctx, kv.Pending, func(r kv.Reader) error {
			h, err := readHome(r, n.o.Number)
			switch {
			case err != nil:
				return err
			case h.state == Settled || h.state == Moving || h.state == Frozen:
				return fn(r)
			}
			return errAway
		})
	})
}

// noting is a transaction that notes the keys it changes. The value of obj/change is a list of
//
//	u8 index in parts, uvarint length, key
type noting struct {
	kv.Txn
	keys []byte
}

func (t *noting) note(ks kv.Keyspace, key []byte) {
	for i, p := range parts {
		if p == ks {
			t.keys = binary.AppendUvarint(append(t.keys, byte(i)), uint64(len(key)))
			t.keys = append(t.keys, key...)
			return
		}
	}
	// An assertion: what is not noted would be lost by a move.
	panic(fmt.Sprintf("objstore: keyspace %s is not among the parts of a namespace", ks))
}

func (t *noting) Put(ks kv.Keyspace, key, value []byte) {
	t.note(ks, key)
	t.Txn.Put(ks, key, value)
}

func (t *noting) Delete(ks kv.Keyspace, key []byte) {
	t.note(ks, key)
	t.Txn.Delete(ks, key)
}

// noted runs fn and notes what it changes of a namespace that is being moved.
func noted(tx kv.Txn, ns uint32, h home, fn func(kv.Txn) error) error {
	t := &noting{Txn: tx}
	if err := fn(t); err != nil || len(t.keys) == 0 {
		return err
	}
	h.seq++
	tx.Put(ksChange, changeKey(ns, h.seq), t.keys)
	tx.Put(ksHome, nsKey(ns), h.encode())
	return nil
}

// row is a key of a part of a namespace.
type row struct {
	part uint8
	key  string
}

// decodeChanges calls fn with each key that was noted.
func decodeChanges(b []byte, fn func(row)) error {
	for len(b) > 0 {
		part := b[0]
		size, l := binary.Uvarint(b[1:])
		if int(part) >= len(parts) || l <= 0 || size > uint64(len(b)-1-l) {
			return &objstore.CorruptError{What: "list of changes of a namespace", Err: fmt.Errorf("%x", b[:min(len(b), 16)])}
		}
		b = b[1+l:]
		fn(row{part, string(b[:size])})
		b = b[size:]
	}
	return nil
}
