package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// presetRecord is a Preset with the version of its record.
type presetRecord struct {
	V int `json:"v"`
	objstore.Preset
}

// DefaultFragmentSize is the largest fragment of a preset that does not say, in bytes.
const DefaultFragmentSize = 4 << 20

// Bounds of a preset.
const (
	minFragmentSize = 4 << 10
	maxFragmentSize = 32 << 20
	maxPolicies     = 16
	maxPresetDisks  = 4096
)

// CheckPreset reports what is wrong with p, whatever disks there are.
func CheckPreset(p objstore.Preset) error {
	switch {
	case len(p.Name) < 1 || len(p.Name) > objstore.MaxNamespace || strings.ContainsAny(p.Name, "/\x00"):
		return fmt.Errorf("preset %q: its name must have 1 to %d bytes and no slash", p.Name, objstore.MaxNamespace)
	case len(p.Policies) == 0:
		return fmt.Errorf("preset %s: no policies", p.Name)
	case len(p.Policies) > maxPolicies:
		return fmt.Errorf("preset %s: %d policies, at most %d are allowed", p.Name, len(p.Policies), maxPolicies)
	case p.FragmentSize != 0 && (p.FragmentSize < minFragmentSize || p.FragmentSize > maxFragmentSize):
		return fmt.Errorf("preset %s: fragment size %d, allowed are 4 KiB to 32 MiB", p.Name, p.FragmentSize)
	case p.Compression > objstore.CompressZstd:
		return fmt.Errorf("preset %s: unknown compression %d", p.Name, p.Compression)
	case p.Encryption > objstore.EncryptAES:
		return fmt.Errorf("preset %s: unknown encryption %d", p.Name, p.Encryption)
	case p.Checksum > objstore.ChecksumBLAKE3:
		return fmt.Errorf("preset %s: unknown checksum %d", p.Name, p.Checksum)
	case len(p.Disks) > maxPresetDisks:
		return fmt.Errorf("preset %s: %d disks, at most %d are allowed", p.Name, len(p.Disks), maxPresetDisks)
	}
	seen := make(map[[2]int]bool)
	for _, q := range p.Policies {
		if err := q.Validate(); err != nil {
			return fmt.Errorf("preset %s: %w", p.Name, err)
		}
		if seen[[2]int{q.K, q.M}] {
			return fmt.Errorf("preset %s: two policies with k=%d and m=%d", p.Name, q.K, q.M)
		}
		seen[[2]int{q.K, q.M}] = true
	}
	listed := make(map[objstore.DiskID]bool)
	for _, d := range p.Disks {
		if d == 0 || listed[d] {
			return fmt.Errorf("preset %s: disk %d is not a disk, or is listed twice", p.Name, d)
		}
		listed[d] = true
	}
	return nil
}

// checkKnown refuses a preset that lists disks that there are not.
func (m *Manager) checkKnown(p objstore.Preset) error {
	for _, d := range p.Disks {
		if m.Disk(d) == nil {
			return fmt.Errorf("preset %s: disk %d: %w", p.Name, d, objstore.ErrNotFound)
		}
	}
	return nil
}

// CreatePreset stores a new preset as version 1. A name that is taken is objstore.ErrExists.
func (m *Manager) CreatePreset(ctx context.Context, p objstore.Preset) (objstore.Preset, error) {
	return m.changePreset(ctx, p.Name, func(old *objstore.Preset) (objstore.Preset, error) {
		if old != nil {
			return p, fmt.Errorf("preset %q: %w", p.Name, objstore.ErrExists)
		}
		return p, nil
	})
}

// UpdatePreset changes a preset, whose version rises by one. change gets it as it is, may be called more than
// once, and must depend on nothing else. Its encryption never changes: that is for the life of a namespace.
func (m *Manager) UpdatePreset(ctx context.Context, name string, change func(*objstore.Preset) error) (objstore.Preset, error) {
	return m.changePreset(ctx, name, func(old *objstore.Preset) (objstore.Preset, error) {
		if old == nil {
			return objstore.Preset{}, fmt.Errorf("preset %q: %w", name, objstore.ErrNotFound)
		}
		p := *old
		p.Policies, p.Disks = slices.Clone(p.Policies), slices.Clone(p.Disks)
		err := change(&p)
		return p, err
	})
}

// PutPreset creates a preset, or replaces it with the next version.
func (m *Manager) PutPreset(ctx context.Context, p objstore.Preset) error {
	_, err := m.changePreset(ctx, p.Name, func(*objstore.Preset) (objstore.Preset, error) { return p, nil })
	return err
}

// EncryptUnused makes a preset encrypt that no namespace uses.
func (m *Manager) EncryptUnused(ctx context.Context, name string) error {
	return m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		var r presetRecord
		b, err := tx.Get(ksPreset, []byte(name))
		if err == nil {
			err = r.decode(b)
		}
		if err != nil {
			return notFound("preset", name, err)
		}
		used, bad := false, error(nil)
		err = tx.Range(ksNamespace, kv.Range{}, func(_, value []byte) bool {
			var n NamespaceRecord
			bad = decode(value, &n)
			used = used || n.Preset == name
			return bad == nil && !used
		})
		if err = errors.Join(err, bad); err != nil || used {
			return err
		}
		r.Preset.Encryption = objstore.EncryptAES
		tx.Put(ksPreset, []byte(name), encode(r))
		return nil
	})
}

// changePreset writes what change makes of a preset, nil for none, as the version after it.
func (m *Manager) changePreset(ctx context.Context, name string, change func(*objstore.Preset) (objstore.Preset, error)) (objstore.Preset, error) {
	var p objstore.Preset
	err := m.store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		var old *objstore.Preset
		var r presetRecord
		b, err := tx.Get(ksPreset, []byte(name))
		switch {
		case err == nil:
			if err := r.decode(b); err != nil {
				return err
			}
			old = &r.Preset
		case !errors.Is(err, kv.ErrNotFound):
			return err
		}
		if p, err = change(old); err != nil {
			return err
		}
		p.Name, p.Version = name, 1
		if old != nil {
			p.Version = old.Version + 1
		}
		if err := errors.Join(CheckPreset(p), m.checkKnown(p)); err != nil {
			return err
		}
		if old != nil && old.Encryption != p.Encryption {
			return fmt.Errorf("preset %s: its encryption is %v for ever: make another preset", name, old.Encryption)
		}
		tx.Put(ksPreset, []byte(name), encode(presetRecord{recordVersion, p}))
		return nil
	})
	if err != nil {
		return objstore.Preset{}, err
	}
	m.log.Info("preset changed", "preset", name, "version", p.Version)
	return defaults(p), nil
}

// decode reads a record. One from before there were versions is version 1.
func (r *presetRecord) decode(b []byte) error {
	if err := decode(b, r); err != nil {
		return err
	}
	r.Version = max(r.Version, 1)
	return nil
}

func defaults(p objstore.Preset) objstore.Preset {
	if p.FragmentSize == 0 {
		p.FragmentSize = DefaultFragmentSize
	}
	p.Version = max(p.Version, 1)
	return p
}

// Preset returns the preset of that name, or objstore.ErrNotFound.
func (m *Manager) Preset(ctx context.Context, name string) (objstore.Preset, error) {
	var r presetRecord
	err := m.load(ctx, ksPreset, name, &r)
	return defaults(r.Preset), err
}

// Presets returns all presets by name.
func (m *Manager) Presets(ctx context.Context) ([]objstore.Preset, error) {
	var out []objstore.Preset
	err := each(ctx, m.store, ksPreset, func(r presetRecord) { out = append(out, defaults(r.Preset)) })
	return out, err
}

// Unmet says what of a preset the present disks cannot satisfy, for a person; nothing when they can write all
// k+m fragments of the first policy. Disks that are down count, for they may come back.
func (m *Manager) Unmet(p objstore.Preset) []string {
	perNode := make(map[string]int)
	disks := 0
	for _, d := range m.Disks() {
		if r := d.Record(); r.Admin == Active && p.Has(r.ID) {
			perNode[r.Node]++
			disks++
		}
	}
	var out []string
	met := false
	for i, q := range p.Policies {
		n := 0
		for _, c := range perNode {
			n += min(c, q.X)
		}
		switch {
		case n < q.C:
			out = append(out, fmt.Sprintf("policy %v: a write needs %d disks, at most %d on a node; there are %d on %d nodes", q, q.C, q.X, disks, len(perNode)))
			continue
		case n < q.K+q.M && !met:
			out = append(out, fmt.Sprintf("policy %v: every write is degraded: %d of %d fragments have a place", q, n, q.K+q.M))
		}
		if i == 0 && n >= q.K+q.M {
			return nil
		}
		met = true
	}
	if !met {
		out = append(out, "no policy can be met: writes fail until there are more disks")
	}
	return out
}
