package manager

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// BeginMove begins to move a namespace to another namespace manager, which is told to expect it. To the one that it is
// at, it ends a move that is under way.
func (m *Manager) BeginMove(ctx context.Context, name, to string) (r NamespaceRecord, err error) {
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if r, err = readNamespace(tx, name); err != nil {
			return err
		}
		h, err := readHost(tx, to)
		switch {
		case err != nil:
			return err
		case !h.Ready:
			return fmt.Errorf("namespace manager %q is not ready", to)
		case to == r.To || to == r.Host && r.To == "":
			return nil
		case to != r.Host && r.To != "":
			return fmt.Errorf("namespace %q is being moved to %q", name, r.To)
		case to == r.Host:
			if _, err := post(tx, r.To, envelope{Kind: nsm.KindDrop, Namespace: r.Number}); err != nil {
				return err
			}
			_, err = post(tx, r.Host, envelope{Kind: nsm.KindKeep, Namespace: r.Number})
			r.To = ""
		default:
			_, err = post(tx, to, envelope{Kind: nsm.KindImport, Namespace: r.Number})
			r.To = to
		}
		tx.Put(ksNamespace, []byte(name), r.encode())
		return err
	})
	return r, err
}

// FinishMove decides that a namespace is at the namespace manager that it is being moved to. All its rows are there,
// and nothing changes at the old one. That is told to give it up; after that the new one is told to open it.
func (m *Manager) FinishMove(ctx context.Context, was NamespaceRecord) (r NamespaceRecord, err error) {
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if r, err = readNamespace(tx, was.Name); err != nil {
			return err
		}
		if r.Number != was.Number || r.To == "" || r.To != was.To || r.Host != was.Host {
			return nsm.ErrOvertaken
		}
		drop, err := post(tx, r.Host, envelope{Kind: nsm.KindDrop, Namespace: r.Number})
		if err != nil {
			return err
		}
		if _, err := post(tx, r.To, envelope{Kind: nsm.KindOpen, Namespace: r.Number, AfterHost: drop.host, AfterNumber: drop.number}); err != nil {
			return err
		}
		r.Host, r.To = r.To, ""
		tx.Put(ksNamespace, []byte(r.Name), r.encode())
		return nil
	})
	return r, err
}

// Restore has namespaces made again at namespace managers that have lost that they are there, for what is recovered
// of them.
func (m *Manager) Restore(ctx context.Context, host func(name string) (*nsm.Host, error)) error {
	if err := m.Deliver(ctx, host); err != nil {
		return err
	}
	all, err := m.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		h, err := host(r.Host)
		if err != nil {
			return err
		}
		if s, err := h.State(ctx, r.Number); err != nil || s != nsm.Absent {
			if err != nil {
				return err
			}
			continue
		}
		err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
			_, err := post(tx, r.Host, envelope{Kind: nsm.KindCreate, Namespace: r.Number})
			return err
		})
		if err != nil {
			return err
		}
	}
	return m.Deliver(ctx, host)
}

// PurgeRecord says that what a disk holds of a namespace is to be deleted.
type PurgeRecord struct {
	V         int             `json:"v"`
	Namespace uint32          `json:"namespace"`
	Disk      objstore.DiskID `json:"disk"`
	Since     int64           `json:"since"` // Unix seconds
}

func purgeKey(ns uint32, disk objstore.DiskID) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, ns), uint32(disk))
}

// Delete decides that a namespace is no more: its name is free, its namespace managers are told to drop it, and its
// fragments are to be purged from all disks.
func (m *Manager) Delete(ctx context.Context, name string) (r NamespaceRecord, err error) {
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if r, err = readNamespace(tx, name); err != nil {
			return err
		}
		for _, host := range []string{r.Host, r.To} {
			if host == "" {
				continue
			}
			if _, err := post(tx, host, envelope{Kind: nsm.KindDrop, Namespace: r.Number}); err != nil {
				return err
			}
		}
		disks, err := collect(tx, ksDisk, func(b []byte, d *DiskRecord) error { return decode(b, d) })
		if err != nil {
			return err
		}
		for _, d := range disks {
			p := PurgeRecord{V: recordVersion, Namespace: r.Number, Disk: d.ID, Since: time.Now().Unix()}
			tx.Put(ksPurge, purgeKey(p.Namespace, p.Disk), encode(p))
		}
		tx.Delete(ksNamespace, []byte(name))
		return nil
	})
	return r, err
}

// Purges returns what is to be purged from disks.
func (m *Manager) Purges(ctx context.Context) (out []PurgeRecord, err error) {
	err = m.store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		out, err = collect(r, ksPurge, func(b []byte, p *PurgeRecord) error { return decode(b, p) })
		return err
	})
	return out, err
}

// Purged says that a purge is done, for ever.
func (m *Manager) Purged(ctx context.Context, p PurgeRecord) error {
	return m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Delete(ksPurge, purgeKey(p.Namespace, p.Disk))
		return nil
	})
}

// purging tells whether a namespace was deleted of which disks may hold something.
func purging(r kv.Reader, ns uint32) (bool, error) {
	one := kv.Prefix(binary.BigEndian.AppendUint32(nil, ns))
	one.Limit = 1
	some := false
	err := r.Range(ksPurge, one, func(_, _ []byte) bool { some = true; return false })
	return some, err
}

// HostOf returns the name of the namespace manager that a namespace is at, or an error that matches
// objstore.ErrNotFound when the one of that number was deleted.
func (m *Manager) HostOf(ctx context.Context, name string, number uint32) (string, error) {
	r, err := m.Existing(ctx, name)
	if err == nil && r.Number != number {
		err = notFound("namespace", name, objstore.ErrNotFound)
	}
	if errors.Is(err, objstore.ErrNotFound) {
		return "", fmt.Errorf("%w: it was deleted", err)
	}
	return r.Host, err
}
