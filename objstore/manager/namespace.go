package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// NamespaceRecord is what is kept about a namespace.
type NamespaceRecord struct {
	V      int    `json:"v"`
	Name   string `json:"name"`
	Number uint32 `json:"number"`
	Preset string `json:"preset"`
}

// Namespace returns the record of a namespace, and creates it with that preset when there is none.
func (m *Manager) Namespace(ctx context.Context, name, preset string) (NamespaceRecord, error) {
	if len(name) < 1 || len(name) > objstore.MaxNamespace || strings.ContainsAny(name, "/\x00") {
		return NamespaceRecord{}, fmt.Errorf("namespace %q: its name must have 1 to %d bytes and no slash", name, objstore.MaxNamespace)
	}
	var r NamespaceRecord
	if err := m.load(ctx, ksNamespace, name, &r); err == nil || !errors.Is(err, objstore.ErrNotFound) {
		return r, err
	}
	if _, err := m.Preset(ctx, preset); err != nil {
		return NamespaceRecord{}, err
	}
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		if b, err := tx.Get(ksNamespace, []byte(name)); err == nil {
			return decode(b, &r)
		}
		n, err := next(tx, "ns")
		if err != nil {
			return err
		}
		r = NamespaceRecord{V: recordVersion, Name: name, Number: n, Preset: preset}
		tx.Put(ksNamespace, []byte(name), encode(r))
		return nil
	})
	return r, err
}

// Namespaces returns all namespaces by name.
func (m *Manager) Namespaces(ctx context.Context) ([]NamespaceRecord, error) {
	var out []NamespaceRecord
	err := each(ctx, m.store, ksNamespace, func(r NamespaceRecord) { out = append(out, r) })
	return out, err
}

// AssignPreset makes new objects of a namespace follow another preset, of the same encryption.
func (m *Manager) AssignPreset(ctx context.Context, name, preset string) (NamespaceRecord, error) {
	var r NamespaceRecord
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		var old, now presetRecord
		b, err := tx.Get(ksNamespace, []byte(name))
		if err == nil {
			err = decode(b, &r)
		}
		if err != nil {
			return notFound("namespace", name, err)
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
		tx.Put(ksNamespace, []byte(name), encode(r))
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
