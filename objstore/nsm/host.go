package nsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// ksInbox has under inboxKey the Inbox of a store that belongs to a backend manager.
const ksInbox kv.Keyspace = "obj/inbox"

var inboxKey = []byte("inbox")

// Inbox is whose namespace manager a store is, and which of the messages to it were obeyed.
type Inbox struct {
	V       int    `json:"v"`
	Owner   string `json:"owner"`   // the secret name under which the backend manager knows it
	Applied uint64 `json:"applied"` // number of the last message
}

// Kind of a message.
type Kind string

const (
	// KindCreate: the namespace is here from now on.
	KindCreate Kind = "create"
	// KindImport: rows of the namespace will come from another namespace manager.
	KindImport Kind = "import"
	// KindOpen: they have all come: the namespace is here from now on.
	KindOpen Kind = "open"
	// KindKeep: the namespace stays here, although it was to be moved.
	KindKeep Kind = "keep"
	// KindDrop: the namespace is not here any more: it is at another namespace manager, or was deleted.
	KindDrop Kind = "drop"
)

// Message is what the backend manager tells a namespace manager. Those to one have numbers from 1 without gaps; each
// takes effect once, in the transaction that counts it, however often it is delivered.
type Message struct {
	Number    uint64
	Kind      Kind
	Namespace uint32
}

// Errors of a Host.
var (
	// ErrClaimed: the store is that of another backend manager, or holds other things.
	ErrClaimed = errors.New("objstore: the store is not free to be a namespace manager's")
	// ErrLost: the store was a namespace manager's, and is empty now.
	ErrLost = errors.New("objstore: the store has lost what the namespace manager kept in it")
	// ErrOrder: a message came before the one before it.
	ErrOrder = errors.New("objstore: a message to a namespace manager is missing")
	// ErrBusy: the message must wait for rows of an earlier stay of the namespace to be removed: Sweep.
	ErrBusy = errors.New("objstore: the namespace manager is not rid of the namespace yet")
)

// Host is a namespace manager: all namespaces whose rows are in one store. Safe for concurrent use, also by
// several processes.
type Host struct{ store kv.Store }

// NewHost returns the namespace manager with that store.
func NewHost(store kv.Store) *Host { return &Host{store} }

// Store returns its store.
func (h *Host) Store() kv.Store { return h.store }

// Claim makes the store a namespace manager's if it is nobody's and makeIt, and returns how many messages it has
// obeyed. own is of the store that the backend manager itself is in, which may hold everything.
func (h *Host) Claim(ctx context.Context, owner string, makeIt, own bool) (applied uint64, err error) {
	err = h.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		in, ok, err := readInbox(tx)
		switch {
		case err != nil:
			return err
		case ok && in.Owner != owner:
			return ErrClaimed
		case ok:
			applied = in.Applied
			return nil
		case !makeIt:
			return ErrLost
		}
		for _, ks := range append(Keyspaces(), "obj/disk", "obj/namespace", "inode") {
			one := kv.Range{Limit: 1}
			some := false
			if err := tx.Range(ks, one, func(_, _ []byte) bool { some = true; return false }); err != nil {
				return err
			}
			if some && !own {
				return fmt.Errorf("%w: there is something in keyspace %s", ErrClaimed, ks)
			}
		}
		applied = 0
		return writeInbox(tx, Inbox{Owner: owner})
	})
	return applied, err
}

// Release gives up a store in which no namespace is left.
func (h *Host) Release(ctx context.Context, owner string) error {
	return h.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		in, ok, err := readInbox(tx)
		if err != nil || !ok {
			return err
		}
		if in.Owner != owner {
			return ErrClaimed
		}
		some := false
		if err := tx.Range(ksHome, kv.Range{Limit: 1}, func(_, _ []byte) bool { some = true; return false }); err != nil {
			return err
		}
		if some {
			return ErrBusy
		}
		tx.Delete(ksInbox, inboxKey)
		return nil
	})
}

func readInbox(r kv.Reader) (in Inbox, ok bool, err error) {
	b, err := r.Get(ksInbox, inboxKey)
	if errors.Is(err, kv.ErrNotFound) {
		return in, false, nil
	}
	if err != nil {
		return in, false, err
	}
	if err := json.Unmarshal(b, &in); err != nil || in.V != 1 {
		return in, false, &objstore.CorruptError{What: "inbox of a namespace manager", Err: fmt.Errorf("%q: %w", bytes.Clone(b), err)}
	}
	return in, true, nil
}

func writeInbox(tx kv.Txn, in Inbox) error {
	in.V = 1
	b, err := json.Marshal(in)
	if err == nil {
		tx.Put(ksInbox, inboxKey, b)
	}
	return err
}

// Obey does what a message says, durably, if that was not done before.
func (h *Host) Obey(ctx context.Context, m Message) error {
	err := h.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		in, ok, err := readInbox(tx)
		switch {
		case err != nil:
			return err
		case !ok:
			return ErrLost
		case m.Number <= in.Applied:
			return nil
		case m.Number != in.Applied+1:
			return fmt.Errorf("%w: number %d after %d", ErrOrder, m.Number, in.Applied)
		}
		is, err := readHome(tx, m.Namespace)
		if err != nil {
			return err
		}
		if err := m.obey(tx, is); err != nil {
			return err
		}
		in.Applied = m.Number
		return writeInbox(tx, in)
	})
	if err != nil {
		return fmt.Errorf("objstore: message %d, %s namespace %d: %w", m.Number, m.Kind, m.Namespace, err)
	}
	return nil
}

// obey takes a namespace to its next state.
func (m Message) obey(tx kv.Txn, is home) error {
	key := nsKey(m.Namespace)
	switch {
	case is.state == Dropping && (m.Kind == KindCreate || m.Kind == KindImport):
		return ErrBusy
	case m.Kind == KindCreate && (is.state == Absent || is.state == Settled):
		is.state = Settled
	case m.Kind == KindImport && is.state == Absent:
		is = home{state: Importing}
	case m.Kind == KindOpen && is.state == Importing && int(is.part) == len(parts)+1:
		is = home{state: Settled, seq: is.seq}
	case m.Kind == KindKeep && (is.state == Settled || is.state == Moving || is.state == Frozen):
		is.state = Settled
	case m.Kind == KindDrop && is.state == Absent:
		return nil
	case m.Kind == KindDrop:
		is = home{state: Dropping}
	default:
		// An assertion: the backend manager knows what it has told us.
		return &objstore.CorruptError{What: "home of a namespace", Err: fmt.Errorf("message %s while it is %v", m.Kind, is.state)}
	}
	tx.Put(ksHome, key, is.encode())
	return nil
}

// State tells where a namespace stands here.
func (h *Host) State(ctx context.Context, ns uint32) (s HomeState, err error) {
	err = h.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		is, err := readHome(r, ns)
		s = is.state
		return err
	})
	return s, err
}

// sweepBatch is how many rows one transaction removes.
const sweepBatch = 1024

// Sweep removes the rows that are left of namespaces that are not here any more, and notes of changes that no move
// needs any more. It may be cut off at any point and run again.
func (h *Host) Sweep(ctx context.Context) error {
	var dropping, settled []uint32
	err := h.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		dropping, settled = nil, nil
		var bad error
		err := r.Range(ksHome, kv.Range{}, func(key, value []byte) bool {
			var is home
			if is, bad = decodeHome(value); bad != nil || len(key) != 4 {
				bad = errors.Join(bad, fmt.Errorf("objstore: home %x", key))
				return false
			}
			switch ns := binary.BigEndian.Uint32(key); is.state {
			case Dropping:
				dropping = append(dropping, ns)
			case Settled:
				settled = append(settled, ns)
			}
			return true
		})
		return errors.Join(err, bad)
	})
	for _, ns := range dropping {
		if err == nil {
			err = h.sweep(ctx, ns, Dropping, append(parts, ksChange))
		}
	}
	for _, ns := range settled {
		if err == nil {
			err = h.sweep(ctx, ns, Settled, []kv.Keyspace{ksChange})
		}
	}
	return err
}

// sweep removes the rows of a namespace from keyspaces while it is in a state, and when it was Dropping, its home.
func (h *Host) sweep(ctx context.Context, ns uint32, while HomeState, from []kv.Keyspace) error {
	for _, ks := range from {
		var after []byte
		for more := true; more; {
			page, err := readPage(ctx, h.store, ks, ns, after, sweepBatch)
			if err != nil {
				return err
			}
			if more = page.more; len(page.rows) > 0 {
				err = h.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
					if is, err := readHome(tx, ns); err != nil || is.state != while {
						return err
					}
					for _, r := range page.rows {
						tx.Delete(ks, []byte(r.key))
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			after = page.last
		}
	}
	if while != Dropping {
		return nil
	}
	return h.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if is, err := readHome(tx, ns); err != nil || is.state != Dropping {
			return err
		}
		tx.Delete(ksHome, nsKey(ns))
		return nil
	})
}
