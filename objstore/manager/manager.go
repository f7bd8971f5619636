// Package manager is the backend manager: which disks there are and in what state, the presets, the
// namespaces, and which namespace manager hosts which.
//
// It promises:
//
//   - A disk is known by the id that is written on it, not by its folder. It keeps its number for ever; a
//     number is never given to another disk, so a new disk in an old folder is never mistaken for the
//     one that was lost there.
//   - A namespace is at exactly one namespace manager, whatever is cut off when it is made, moved or deleted: the
//     records here decide, and namespace managers are told by messages with numbers, which take effect once.
//   - A disk that is missing, damaged or failing changes state and is avoided; it never stops the others.
//
// What is decided by people (disks known, disabled, retired; presets; namespaces) is in keyspaces of a
// kv.Store; what is observed (up, missing, slow, full) is in memory. Records are JSON with a version,
// so that they can be read with `gabion kv get`:
//
//	obj/disk        disk number(4)     DiskRecord
//	obj/preset      name               objstore.Preset
//	obj/namespace   name               NamespaceRecord
//	obj/manager     name               HostRecord: the namespace managers
//	obj/message     manager(4) no.(8)  envelope: what they are to be told
//	obj/purge       ns(4) disk(4)      PurgeRecord: fragments of deleted namespaces
//	obj/seq         "disk" | "ns" ...  next number, 4 bytes big endian
//	obj/key         "keyring"          see package crypt
package manager

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

const (
	ksDisk      kv.Keyspace = "obj/disk"
	ksPreset    kv.Keyspace = "obj/preset"
	ksNamespace kv.Keyspace = "obj/namespace"
	ksSeq       kv.Keyspace = "obj/seq"
	ksHost      kv.Keyspace = "obj/manager"
	ksMessage   kv.Keyspace = "obj/message"
	ksPurge     kv.Keyspace = "obj/purge"

	recordVersion = 1
)

// Admin is what people decided about a disk.
type Admin string

const (
	Active   Admin = "active"
	Disabled Admin = "disabled" // takes no new fragments; maintenance moves what it holds
	Draining Admin = "draining" // like disabled, and retired when it is empty
	Retired  Admin = "retired"  // gone for ever
)

// DiskRecord is what is kept about a disk.
type DiskRecord struct {
	V     int             `json:"v"`
	ID    objstore.DiskID `json:"id"`
	ASD   string          `json:"asd"` // the id that is written on the disk
	Dir   string          `json:"dir"` // where it was last seen; on disk relative to the base when below it
	Node  string          `json:"node"`
	Admin Admin           `json:"admin"`
	Added int64           `json:"added"` // Unix seconds
}

// Manager knows disks, presets and namespaces. Safe for concurrent use.
type Manager struct {
	store kv.Store
	base  string
	log   *slog.Logger

	mu     sync.Mutex // guards changes of the table; taken before a Disk's own lock
	table  atomic.Pointer[table]
	events chan struct{}

	keys keys // its lock is taken alone
}

// table is an immutable picture of all disks.
type table struct {
	byID map[objstore.DiskID]*Disk
	list []*Disk // by number
}

// Open is OpenIn without a base.
func Open(ctx context.Context, store kv.Store, log *slog.Logger) (*Manager, error) {
	return OpenIn(ctx, store, "", log)
}

// OpenIn reads the records. Disks are in state Missing until they are attached. Folders below base, an
// absolute path, are recorded relative to it, so that all of it can be moved or copied to another place.
// A nil logger discards.
func OpenIn(ctx context.Context, store kv.Store, base string, log *slog.Logger) (*Manager, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{store: store, base: base, log: log, events: make(chan struct{}, 1)}
	var records []DiskRecord
	err := each(ctx, store, ksDisk, func(r DiskRecord) { records = append(records, r) })
	if err != nil {
		return nil, fmt.Errorf("objstore: read the list of disks: %w", err)
	}
	t := &table{byID: make(map[objstore.DiskID]*Disk)}
	for _, r := range records {
		if base != "" && filepath.IsLocal(r.Dir) && !strings.Contains(r.Dir, "://") { // not the address of a remote disk
			r.Dir = filepath.Join(base, r.Dir)
		}
		t.add(newDisk(r))
	}
	m.table.Store(t)
	return m, nil
}

func (t *table) add(d *Disk) {
	t.byID[d.ID()] = d
	t.list = append(t.list, d)
	slices.SortFunc(t.list, func(a, b *Disk) int { return int(a.ID()) - int(b.ID()) })
}

// each decodes all records of a keyspace.
func each[T any](ctx context.Context, store kv.Store, ks kv.Keyspace, fn func(T)) error {
	var all [][]byte
	err := store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		all = nil
		return r.Range(ks, kv.Range{}, func(_, value []byte) bool {
			all = append(all, slices.Clone(value))
			return true
		})
	})
	if err != nil {
		return err
	}
	for _, b := range all {
		var v T
		if err := decode(b, &v); err != nil {
			return fmt.Errorf("%s: %w", ks, err)
		}
		fn(v)
	}
	return nil
}

func decode(b []byte, v any) error {
	var version struct {
		V int `json:"v"`
	}
	err := json.Unmarshal(b, &version)
	if err == nil && version.V != recordVersion {
		err = fmt.Errorf("version %d, this program knows %d", version.V, recordVersion)
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return &objstore.CorruptError{What: "record", Err: err}
	}
	return nil
}

// encode encodes a disk's record.
func (m *Manager) encode(r DiskRecord) []byte {
	if rel, err := filepath.Rel(m.base, r.Dir); m.base != "" && err == nil && filepath.IsLocal(rel) {
		r.Dir = rel
	}
	return encode(r)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("objstore: a record does not encode: %v", err)) // plain structs always do
	}
	return b
}

// next returns a number that was never returned before, from 1.
func next(tx kv.Txn, what string) (uint32, error) {
	b, err := tx.Get(ksSeq, []byte(what))
	n := uint32(1)
	switch {
	case err == nil && len(b) == 4:
		n = binary.BigEndian.Uint32(b)
	case err == nil:
		return 0, &objstore.CorruptError{What: "sequence " + what, Err: fmt.Errorf("%x", b)}
	case !errors.Is(err, kv.ErrNotFound):
		return 0, err
	}
	tx.Put(ksSeq, []byte(what), binary.BigEndian.AppendUint32(nil, n+1))
	return n, nil
}

// Disks returns all disks that are not retired, by number.
func (m *Manager) Disks() []*Disk { return m.table.Load().list }

// Disk returns the disk of that number, or nil.
func (m *Manager) Disk(id objstore.DiskID) *Disk { return m.table.Load().byID[id] }

// Node returns the node that a disk is on, and false for one that is unknown or retired.
func (m *Manager) Node(id objstore.DiskID) (string, bool) {
	d := m.Disk(id)
	if d == nil {
		return "", false
	}
	return d.Node(), true
}

// Events delivers after disks have changed state: look at Disks again.
func (m *Manager) Events() <-chan struct{} { return m.events }

func (m *Manager) wake() {
	select {
	case m.events <- struct{}{}:
	default:
	}
}

// Find returns the disk with that id written on it, or nil.
func (m *Manager) Find(asd string) *Disk {
	for _, d := range m.Disks() {
		if d.ASD() == asd {
			return d
		}
	}
	return nil
}

// Attach makes a disk that was opened in dir usable: the one with that id written on it, or a new one.
// A disk that was retired is refused.
func (m *Manager) Attach(ctx context.Context, asd, dir, node string, dev objstore.Disk) (*Disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.Find(asd)
	if d == nil || d.Dir() != dir || d.Node() != node {
		var err error
		if d, err = m.record(ctx, d, asd, dir, node); err != nil {
			return nil, err
		}
	}
	if !d.attach(dev) {
		return nil, fmt.Errorf("objstore: disk %s is attached already", asd)
	}
	m.log.Info("disk is up", "disk", d.ID(), "asd", asd, "dir", dir)
	m.wake()
	return d, nil
}

// record writes a new disk's record, or an old one's new place.
func (m *Manager) record(ctx context.Context, d *Disk, asd, dir, node string) (*Disk, error) {
	var r DiskRecord
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if d != nil {
			r = d.Record()
			r.Dir, r.Node = dir, node
		} else {
			n, err := next(tx, "disk")
			if err != nil {
				return err
			}
			if known, err := retired(tx, asd); err != nil || known {
				return errors.Join(err, fmt.Errorf("disk %s was retired: empty its folder to use it as a new one", asd))
			}
			r = DiskRecord{V: recordVersion, ID: objstore.DiskID(n), ASD: asd, Dir: dir, Node: node, Admin: Active, Added: time.Now().Unix()}
		}
		tx.Put(ksDisk, diskKey(r.ID), m.encode(r))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("objstore: record disk in %s: %w", dir, err)
	}
	if d != nil {
		d.setRecord(r)
		return d, nil
	}
	d = newDisk(r)
	m.change(func(t *table) { t.add(d) })
	return d, nil
}

func diskKey(id objstore.DiskID) []byte { return binary.BigEndian.AppendUint32(nil, uint32(id)) }

func retiredKey(asd string) []byte { return []byte("retired/" + asd) }

func retired(r kv.Reader, asd string) (bool, error) {
	_, err := r.Get(ksSeq, retiredKey(asd))
	if errors.Is(err, kv.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// change replaces the table; m.mu is held.
func (m *Manager) change(fn func(*table)) {
	old := m.table.Load()
	t := &table{byID: make(map[objstore.DiskID]*Disk, len(old.byID)), list: slices.Clone(old.list)}
	for id, d := range old.byID {
		t.byID[id] = d
	}
	fn(t)
	m.table.Store(t)
}

// SetAdmin records what people decided about a disk. Retiring forgets it: its number and the id on it
// are never used again. The caller has seen to it that no manifest needs it.
func (m *Manager) SetAdmin(ctx context.Context, id objstore.DiskID, a Admin) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.Disk(id)
	if d == nil {
		return fmt.Errorf("disk %d: %w", id, objstore.ErrNotFound)
	}
	r := d.Record()
	r.Admin = a
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if a == Retired {
			tx.Delete(ksDisk, diskKey(id))
			tx.Put(ksSeq, retiredKey(r.ASD), []byte{})
			return nil
		}
		tx.Put(ksDisk, diskKey(id), m.encode(r))
		return nil
	})
	if err != nil {
		return fmt.Errorf("objstore: disk %d: %w", id, err)
	}
	d.setRecord(r)
	if a == Retired {
		m.change(func(t *table) {
			delete(t.byID, id)
			t.list = slices.DeleteFunc(t.list, func(o *Disk) bool { return o == d })
		})
		d.detach(Missing, errors.New("retired"))
	}
	m.log.Info("disk changed", "disk", id, "admin", a)
	m.wake()
	return nil
}

// Detach takes a disk out of use because of err, and closes it in the background once nobody uses it.
func (m *Manager) Detach(d *Disk, state State, err error) {
	if d.detach(state, err) {
		m.log.Warn("disk is out of use", "disk", d.ID(), "dir", d.Dir(), "state", state, "error", err)
	}
	m.wake()
}

func (m *Manager) load(ctx context.Context, ks kv.Keyspace, name string, v any) error {
	err := m.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		b, err := r.Get(ks, []byte(name))
		if err != nil {
			return err
		}
		return decode(b, v)
	})
	if errors.Is(err, kv.ErrNotFound) {
		err = objstore.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", ks, name, err)
	}
	return nil
}
