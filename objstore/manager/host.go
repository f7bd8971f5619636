package manager

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// MainHost is the name of the namespace manager that is in the backend manager's own store.
const MainHost = "main"

// MaxHosts is the largest number of namespace managers.
const MaxHosts = 64

// HostRecord is what is kept about a namespace manager.
type HostRecord struct {
	V      int    `json:"v"`
	Name   string `json:"name"`
	Number uint32 `json:"number"` // never given to another
	Place  string `json:"place"`  // where its store is, in the words of whoever opens it
	Owner  string `json:"owner"`  // what its store has to say it belongs to
	Ready  bool   `json:"ready"`  // its store was claimed
	Next   uint64 `json:"next"`   // number of the next message to it
	Added  int64  `json:"added"`  // Unix seconds
}

// HostStatus is a namespace manager, and how many namespaces and undelivered messages it has.
type HostStatus struct {
	HostRecord
	Namespaces int
	Messages   int
}

// AddHost records a namespace manager, or returns the record of the one of that name in that place. It gets
// namespaces once it is Ready.
func (m *Manager) AddHost(ctx context.Context, name, place string) (HostRecord, error) {
	if n := len(name); n < 1 || n > objstore.MaxNamespace || strings.ContainsAny(name, "/\\\x00 ") || name[0] == '.' || name[0] == '-' {
		return HostRecord{}, fmt.Errorf("namespace manager %q: its name must have 1 to %d bytes, no slash or space, and not begin with a dot or dash", name, objstore.MaxNamespace)
	}
	var secret [16]byte
	rand.Read(secret[:]) // never fails
	var r HostRecord
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		old, err := readHost(tx, name)
		if err == nil && old.Place != place {
			return fmt.Errorf("namespace manager %q in %q: %w", name, old.Place, objstore.ErrExists)
		}
		if r = old; err == nil || !errors.Is(err, objstore.ErrNotFound) {
			return err
		}
		all, err := readHosts(tx)
		if err == nil && len(all) >= MaxHosts {
			err = fmt.Errorf("there are %d namespace managers, more are not allowed", len(all))
		}
		if err != nil {
			return err
		}
		n, err := next(tx, "manager")
		if err != nil {
			return err
		}
		r = HostRecord{V: recordVersion, Name: name, Number: n, Place: place, Owner: hex.EncodeToString(secret[:]), Next: 1, Added: time.Now().Unix()}
		putHost(tx, r)
		return nil
	})
	return r, err
}

// Join claims the store of a namespace manager, the first time, or sees that it is the right one, and makes it
// Ready. With anew, a store that is empty although it was claimed before is claimed again: the namespaces in it
// are there with nothing in them.
func (m *Manager) Join(ctx context.Context, name string, h *nsm.Host, anew bool) error {
	r, err := m.Host(ctx, name)
	if err != nil {
		return err
	}
	applied, err := h.Claim(ctx, r.Owner, !r.Ready, h.Store() == m.store)
	lost := errors.Is(err, nsm.ErrLost)
	if lost && anew {
		applied, err = h.Claim(ctx, r.Owner, true, h.Store() == m.store)
	}
	if err != nil {
		return fmt.Errorf("namespace manager %q: %w", name, err)
	}
	return m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		r, err := readHost(tx, name)
		if err != nil {
			return err
		}
		if lost {
			if err := resend(tx, &r); err != nil {
				return err
			}
		}
		// Our own store may come from a backup that is older than the other: numbers go on after the last that
		// was obeyed.
		ready, ahead := r.Ready, applied >= r.Next
		if r.Ready = true; ahead {
			r.Next = applied + 1
		}
		if !ready || ahead || lost {
			putHost(tx, r)
		}
		return nil
	})
}

// resend makes the messages to a namespace manager that has forgotten everything those that create all its namespaces.
func resend(tx kv.Txn, r *HostRecord) error {
	old, err := readMessages(tx)
	if err != nil {
		return err
	}
	for _, e := range old {
		if e.host == r.Number {
			tx.Delete(ksMessage, e.key())
		}
	}
	r.Next = 1
	putHost(tx, *r)
	all, err := readNamespaces(tx)
	if err != nil {
		return err
	}
	for _, n := range all {
		first, kind, to := "", nsm.KindCreate, r.Name
		switch {
		case n.Host == r.Name:
			first = n.To // has a part of what is lost; the disks have all of it
		case n.To == r.Name:
			kind, to = nsm.KindKeep, n.Host
		default:
			continue
		}
		if first != "" {
			if _, err := post(tx, first, envelope{Kind: nsm.KindDrop, Namespace: n.Number}); err != nil {
				return err
			}
		}
		n.To = ""
		tx.Put(ksNamespace, []byte(n.Name), n.encode())
		if _, err := post(tx, to, envelope{Kind: kind, Namespace: n.Number}); err != nil {
			return err
		}
	}
	*r, err = readHost(tx, r.Name)
	return err
}

// RemoveHost forgets a namespace manager without namespaces, and returns its record, whose store is to be released.
func (m *Manager) RemoveHost(ctx context.Context, name string) (r HostRecord, err error) {
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if name == MainHost {
			return fmt.Errorf("namespace manager %q cannot be removed", name)
		}
		all, err := readHosts(tx)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.Name != name {
				continue
			}
			if s.Namespaces+s.Messages > 0 {
				return fmt.Errorf("namespace manager %q has %d namespaces and %d messages to come: move them first", name, s.Namespaces, s.Messages)
			}
			r = s.HostRecord
			tx.Delete(ksHost, []byte(name))
			return nil
		}
		return notFound("namespace manager", name, objstore.ErrNotFound)
	})
	return r, err
}

// Host returns the record of a namespace manager, or an error that matches objstore.ErrNotFound.
func (m *Manager) Host(ctx context.Context, name string) (r HostRecord, err error) {
	err = m.store.View(ctx, kv.Pending, func(v kv.Reader) error {
		r, err = readHost(v, name)
		return err
	})
	return r, err
}

// Hosts returns all namespace managers by number.
func (m *Manager) Hosts(ctx context.Context) (out []HostStatus, err error) {
	err = m.store.View(ctx, kv.Pending, func(v kv.Reader) error {
		out, err = readHosts(v)
		return err
	})
	return out, err
}

func readHost(r kv.Reader, name string) (h HostRecord, err error) {
	b, err := r.Get(ksHost, []byte(name))
	if err != nil {
		return h, notFound("namespace manager", name, err)
	}
	return h, decode(b, &h)
}

func putHost(tx kv.Txn, r HostRecord) { tx.Put(ksHost, []byte(r.Name), encode(r)) }

// collect decodes all records of a keyspace in one view.
func collect[T any](r kv.Reader, ks kv.Keyspace, dec func([]byte, *T) error) ([]T, error) {
	var out []T
	var bad error
	err := r.Range(ks, kv.Range{}, func(_, value []byte) bool {
		var v T
		if bad = dec(value, &v); bad == nil {
			out = append(out, v)
		}
		return bad == nil
	})
	return out, errors.Join(err, bad)
}

func readHosts(r kv.Reader) ([]HostStatus, error) {
	records, err := collect(r, ksHost, func(b []byte, h *HostRecord) error { return decode(b, h) })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(records, func(a, b HostRecord) int { return int(int64(a.Number) - int64(b.Number)) })
	namespaces, err := readNamespaces(r)
	if err != nil {
		return nil, err
	}
	messages, err := readMessages(r)
	if err != nil {
		return nil, err
	}
	var out []HostStatus
	for _, h := range records {
		s := HostStatus{HostRecord: h}
		for _, n := range namespaces {
			if n.Host == h.Name || n.To == h.Name {
				s.Namespaces++
			}
		}
		for _, e := range messages {
			if e.host == h.Number {
				s.Messages++
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// leastLoaded returns the name of the namespace manager that a new namespace goes to, "" when there is none at all.
func leastLoaded(r kv.Reader) (string, error) {
	all, err := readHosts(r)
	best := -1
	for i, h := range all {
		if h.Ready && (best < 0 || h.Namespaces < all[best].Namespaces) {
			best = i
		}
	}
	if err != nil || best < 0 {
		return "", err
	}
	return all[best].Name, nil
}

// Messages are kept until they were obeyed. The key is the number of the namespace manager (4) and of the message (8).
type envelope struct {
	V         int      `json:"v"`
	Kind      nsm.Kind `json:"kind"`
	Namespace uint32   `json:"namespace"`
	// AfterHost and AfterNumber are of a message, to another namespace manager, that must be obeyed before.
	AfterHost   uint32 `json:"after_host,omitempty"`
	AfterNumber uint64 `json:"after_number,omitempty"`

	host   uint32
	number uint64
}

func messageKey(host uint32, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, host), number)
}

func (e envelope) key() []byte { return messageKey(e.host, e.number) }

// post writes the next message to a namespace manager.
func post(tx kv.Txn, host string, e envelope) (envelope, error) {
	r, err := readHost(tx, host)
	if err != nil {
		return e, err
	}
	e.V, e.host, e.number = recordVersion, r.Number, r.Next
	r.Next++
	putHost(tx, r)
	tx.Put(ksMessage, e.key(), encode(e))
	return e, nil
}

// readMessages returns all messages, by namespace manager and number.
func readMessages(r kv.Reader) ([]envelope, error) {
	var out []envelope
	var bad error
	err := r.Range(ksMessage, kv.Range{}, func(key, value []byte) bool {
		var e envelope
		if bad = decode(value, &e); bad == nil && len(key) != 12 {
			bad = &objstore.CorruptError{What: "message", Err: fmt.Errorf("key %x", key)}
		}
		if bad == nil {
			e.host, e.number = binary.BigEndian.Uint32(key), binary.BigEndian.Uint64(key[4:])
			out = append(out, e)
		}
		return bad == nil
	})
	return out, errors.Join(err, bad)
}

// Deliver sends the messages that wait to the namespace managers that host knows, those to one in order, and forgets
// what was obeyed. What cannot be delivered stays, and its error is returned; it may be called again, and by
// several at a time.
func (m *Manager) Deliver(ctx context.Context, host func(name string) (*nsm.Host, error)) error {
	for {
		var waiting []envelope
		names := make(map[uint32]string)
		err := m.store.View(ctx, kv.Linearizable, func(r kv.Reader) (err error) {
			clear(names)
			all, err := readHosts(r)
			for _, h := range all {
				names[h.Number] = h.Name
			}
			if err == nil {
				waiting, err = readMessages(r)
			}
			return err
		})
		if err != nil || len(waiting) == 0 {
			return err
		}
		sent := 0
		var errs []error
		stuck := make(map[uint32]bool)
		for _, e := range waiting {
			first := slices.ContainsFunc(waiting, func(o envelope) bool { return o.host == e.AfterHost && o.number == e.AfterNumber })
			if stuck[e.host] = stuck[e.host] || first; stuck[e.host] {
				continue
			}
			h, err := host(names[e.host])
			if err == nil {
				err = h.Obey(ctx, nsm.Message{Number: e.number, Kind: e.Kind, Namespace: e.Namespace})
			}
			if err == nil {
				err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
					tx.Delete(ksMessage, e.key())
					return nil
				})
			}
			if err != nil {
				errs, stuck[e.host] = append(errs, err), true
				continue
			}
			sent++
		}
		if err := errors.Join(errs...); err != nil || sent == 0 {
			return err
		}
	}
}
