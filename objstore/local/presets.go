package local

import (
	"context"
	"errors"
	"slices"

	"github.com/gabionfs/gabion/objstore"
)

// PresetUse is a preset, who uses it, and what the present disks cannot satisfy of it.
type PresetUse struct {
	objstore.Preset
	Namespaces []string
	Unmet      []string
}

// Presets returns all presets by name.
func (b *Backend) Presets(ctx context.Context) ([]PresetUse, error) {
	all, err := b.disks.Presets(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]PresetUse, 0, len(all))
	for _, p := range all {
		u, err := b.use(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func (b *Backend) use(ctx context.Context, p objstore.Preset) (PresetUse, error) {
	u := PresetUse{Preset: p, Namespaces: []string{}, Unmet: b.disks.Unmet(p)}
	all, err := b.disks.Namespaces(ctx)
	for _, r := range all {
		if r.Preset == p.Name {
			u.Namespaces = append(u.Namespaces, r.Name)
		}
	}
	slices.Sort(u.Namespaces)
	return u, err
}

// CreatePreset stores a new preset. One that is invalid is refused; one that the present disks cannot satisfy is
// not, but the answer says so.
func (b *Backend) CreatePreset(ctx context.Context, p objstore.Preset) (PresetUse, error) {
	p, err := b.disks.CreatePreset(ctx, p)
	if err != nil {
		return PresetUse{}, err
	}
	return b.use(ctx, p)
}

// UpdatePreset stores the next version of a preset. Objects that are put from now on in the namespaces that use
// it follow it; those that are there stay as they are.
func (b *Backend) UpdatePreset(ctx context.Context, name string, change func(*objstore.Preset) error) (PresetUse, error) {
	p, err := b.disks.UpdatePreset(ctx, name, change)
	if err != nil {
		return PresetUse{}, err
	}
	u, err := b.use(ctx, p)
	if err != nil {
		return u, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range u.Namespaces {
		if ns := b.namespaces[name]; ns != nil {
			ns.SetPreset(p)
		}
	}
	return u, nil
}

// AssignPreset makes a namespace follow a preset: another one of the same encryption, or, when there is no such
// namespace, a new one is made.
func (b *Backend) AssignPreset(ctx context.Context, namespace, preset string) (PresetUse, error) {
	p, err := b.disks.Preset(ctx, preset)
	if err != nil {
		return PresetUse{}, err
	}
	if _, err := b.Existing(namespace); errors.Is(err, objstore.ErrNotFound) {
		if _, err := b.namespace(ctx, namespace, preset); err != nil {
			return PresetUse{}, err
		}
	}
	if _, err := b.disks.AssignPreset(ctx, namespace, preset); err != nil {
		return PresetUse{}, err
	}
	b.mu.Lock()
	if ns := b.namespaces[namespace]; ns != nil {
		ns.SetPreset(p)
	}
	b.mu.Unlock()
	return b.use(ctx, p)
}
