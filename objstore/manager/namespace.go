package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// NamespaceRecord is what is kept about a namespace.
type NamespaceRecord struct {
	V      int    `json:"v"`
	Name   string `json:"name"`
	Number uint32 `json:"number"`
	Preset string `json:"preset"`
	Host   string `json:"manager,omitempty"` // the namespace manager that it is at; "": there are none yet
	To     string `json:"to,omitempty"`      // the one that it is being moved to; "": it stays
}

// awayVersion is of records of namespaces that are not, or not only, in the backend manager's own store. Programs
// that know of no other must not touch these.
const awayVersion = 2

func (r NamespaceRecord) encode() []byte {
	r.V = recordVersion
	if r.Host != "" && r.Host != MainHost || r.To != "" {
		r.V = awayVersion
	}
	return encode(r)
}

func decodeNamespace(b []byte, r *NamespaceRecord) error {
	*r = NamespaceRecord{}
	err := json.Unmarshal(b, r)
	if err == nil && (r.V < recordVersion || r.V > awayVersion) {
		err = fmt.Errorf("version %d, this program knows up to %d", r.V, awayVersion)
	}
	if err != nil {
		return &objstore.CorruptError{What: "record of a namespace", Err: err}
	}
	return nil
}

func readNamespace(r kv.Reader, name string) (n NamespaceRecord, err error) {
	b, err := r.Get(ksNamespace, []byte(name))
	if err != nil {
		return n, notFound("namespace", name, err)
	}
	return n, decodeNamespace(b, &n)
}

func readNamespaces(r kv.Reader) ([]NamespaceRecord, error) {
	return collect(r, ksNamespace, decodeNamespace)
}

// Namespace returns the record of a namespace, and creates it with that preset when there is none, at the namespace
// manager that has the fewest; Deliver tells that.
func (m *Manager) Namespace(ctx context.Context, name, preset string) (NamespaceRecord, error) {
	if len(name) < 1 || len(name) > objstore.MaxNamespace || strings.ContainsAny(name, "/\x00") {
		return NamespaceRecord{}, fmt.Errorf("namespace %q: its name must have 1 to %d bytes and no slash", name, objstore.MaxNamespace)
	}
	r, err := m.Existing(ctx, name)
	if err == nil || !errors.Is(err, objstore.ErrNotFound) {
		return r, err
	}
	if _, err := m.Preset(ctx, preset); err != nil {
		return NamespaceRecord{}, err
	}
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		var err error
		if r, err = readNamespace(tx, name); err == nil || !errors.Is(err, objstore.ErrNotFound) {
			return err
		}
		n, err := next(tx, "ns")
		if err != nil {
			return err
		}
		r = NamespaceRecord{Name: name, Number: n, Preset: preset}
		return settle(tx, &r)
	})
	return r, err
}

// settle writes the record of a namespace that is at no namespace manager yet, and gives it one.
func settle(tx kv.Txn, r *NamespaceRecord) (err error) {
	if r.Host, err = leastLoaded(tx); err != nil {
		return err
	}
	if r.Host != "" {
		if _, err := post(tx, r.Host, envelope{Kind: nsm.KindCreate, Namespace: r.Number}); err != nil {
			return err
		}
	}
	tx.Put(ksNamespace, []byte(r.Name), r.encode())
	return nil
}

// SettleOld gives the main namespace manager the namespaces that were made before there were any, whose rows are
// there. It returns how many they were.
func (m *Manager) SettleOld(ctx context.Context) (count int, err error) {
	all, err := m.Namespaces(ctx)
	if err != nil || !slices.ContainsFunc(all, func(r NamespaceRecord) bool { return r.Host == "" }) {
		return 0, err
	}
	err = m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		count = 0
		all, err := readNamespaces(tx)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Host != "" {
				continue
			}
			r.Host = MainHost
			if _, err := post(tx, MainHost, envelope{Kind: nsm.KindCreate, Namespace: r.Number}); err != nil {
				return err
			}
			tx.Put(ksNamespace, []byte(r.Name), r.encode())
			count++
		}
		return nil
	})
	return count, err
}

// Existing returns the record of a namespace, or an error that matches objstore.ErrNotFound.
func (m *Manager) Existing(ctx context.Context, name string) (r NamespaceRecord, err error) {
	err = m.store.View(ctx, kv.Pending, func(v kv.Reader) error {
		r, err = readNamespace(v, name)
		return err
	})
	return r, err
}

// Namespaces returns all namespaces by name.
func (m *Manager) Namespaces(ctx context.Context) ([]NamespaceRecord, error) {
	var out []NamespaceRecord
	err := m.store.View(ctx, kv.Linearizable, func(r kv.Reader) (err error) {
		out, err = readNamespaces(r)
		return err
	})
	return out, err
}

// AssignPreset makes new objects of a namespace follow another preset, of the same encryption.
func (m *Manager) AssignPreset(ctx context.Context, name, preset string) (NamespaceRecord, error) {
	var r NamespaceRecord
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		var old, now presetRecord
		var err error
		if r, err = readNamespace(tx, name); err != nil {
			return err
		}
		for preset, into := range map[string]*presetRecord{r.Preset: &old, preset: &now} {
			b, err := tx.Get(ksPreset, []byte(preset))
			if err == nil {
				err = into.decode(b)
			}
			if err != nil {
				return notFound("preset", preset, err)
			}
		}
		if preset != r.Preset && old.Encryption != now.Encryption {
			return fmt.Errorf("namespace %q: its encryption is %v for ever, that of preset %s is %v", name, old.Encryption, preset, now.Encryption)
		}
		r.Preset = preset
		tx.Put(ksNamespace, []byte(name), r.encode())
		return nil
	})
	return r, err
}

func notFound(what, name string, err error) error {
	if errors.Is(err, kv.ErrNotFound) {
		err = objstore.ErrNotFound
	}
	return fmt.Errorf("%s %q: %w", what, name, err)
}
