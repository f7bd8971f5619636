package manager

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Label is what the disks are told about a namespace, so that they alone are enough to bring it back: its
// number is in the keys of its fragments, its name and how its objects are laid out are not. Encoded it is
// JSON.
type Label struct {
	V         int             `json:"v"`
	Number    uint32          `json:"number"`
	Name      string          `json:"name"`
	Namespace json.RawMessage `json:"namespace"` // its record
	Preset    json.RawMessage `json:"preset"`    // the record of its preset
}

// Labels returns the labels of all namespaces, by number.
func (m *Manager) Labels(ctx context.Context) ([]Label, error) {
	var out []Label
	err := m.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		out = nil
		var bad error
		err := r.Range(ksNamespace, kv.Range{}, func(_, value []byte) bool {
			var n NamespaceRecord
			if bad = decodeNamespace(value, &n); bad != nil {
				return false
			}
			n.Host, n.To = "", "" // who hosts it is not for ever
			l := Label{V: recordVersion, Number: n.Number, Name: n.Name, Namespace: n.encode()}
			out = append(out, l)
			return true
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
		for i := range out {
			var n NamespaceRecord
			if err := decodeNamespace(out[i].Namespace, &n); err != nil {
				return err
			}
			b, err := r.Get(ksPreset, []byte(n.Preset))
			if err != nil {
				return notFound("preset", n.Preset, err)
			}
			out[i].Preset = slices.Clone(b)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Label) int { return int(int64(a.Number) - int64(b.Number)) })
	return out, err
}

// ParseLabel is the inverse of encoding a label as JSON.
func ParseLabel(b []byte) (Label, error) {
	var l Label
	if err := decode(b, &l); err != nil {
		return Label{}, err
	}
	if n := len(l.Name); l.Number == 0 || n < 1 || n > objstore.MaxNamespace {
		return Label{}, &objstore.CorruptError{What: "label of a namespace", Err: fmt.Errorf("number %d, name of %d bytes", l.Number, n)}
	}
	return l, nil
}

// Adopt makes namespaces exist whose labels were found on disks, unless the store knows their numbers
// already, and presets that it does not know; it is one transaction. A label without records is given preset.
// When the name of one is taken by another number, it gets its number as a suffix; rename, unless nil,
// chooses names before that. No number up to highest is given out from then on. It returns the names by
// number.
func (m *Manager) Adopt(ctx context.Context, labels []Label, highest uint32, preset string, rename func(string) string) (map[uint32]string, error) {
	var out map[uint32]string
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		out = make(map[uint32]string)
		var bad error
		err := tx.Range(ksNamespace, kv.Range{}, func(_, value []byte) bool {
			var r NamespaceRecord
			if bad = decodeNamespace(value, &r); bad == nil {
				out[r.Number] = r.Name
			}
			return bad == nil
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
		for _, l := range labels {
			highest = max(highest, l.Number)
			deleted, err := purging(tx, l.Number)
			if err != nil {
				return err
			}
			if deleted || out[l.Number] != "" {
				continue // of one that was deleted some are left on disks that were away
			}
			name, err := adopt(tx, l, preset, rename)
			if err != nil {
				return err
			}
			out[l.Number] = name
		}
		return atLeast(tx, "ns", highest)
	})
	return out, err
}

func adopt(tx kv.Txn, l Label, preset string, rename func(string) string) (string, error) {
	r := NamespaceRecord{Name: l.Name, Number: l.Number, Preset: preset}
	if len(l.Namespace) > 0 {
		if err := decodeNamespace(l.Namespace, &r); err != nil {
			return "", err
		}
	}
	if rename != nil {
		r.Name = rename(r.Name)
	}
	if _, err := tx.Get(ksNamespace, []byte(r.Name)); err == nil {
		r.Name = fmt.Sprintf("%.48s-%d", r.Name, r.Number)
	}
	if _, err := tx.Get(ksPreset, []byte(r.Preset)); errors.Is(err, kv.ErrNotFound) {
		var p presetRecord
		if err := decode(l.Preset, &p); err != nil {
			return "", fmt.Errorf("preset %q of namespace %q: %w", r.Preset, r.Name, err)
		}
		p.Disks = nil // their numbers are others now
		tx.Put(ksPreset, []byte(r.Preset), encode(p))
	}
	return r.Name, settle(tx, &r)
}

// atLeast sees to it that next returns only numbers above n.
func atLeast(tx kv.Txn, what string, n uint32) error {
	now, err := next(tx, what)
	if err != nil {
		return err
	}
	tx.Put(ksSeq, []byte(what), binary.BigEndian.AppendUint32(nil, max(now, n+1)))
	return nil
}
