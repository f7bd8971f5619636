package node

import (
	"context"
	"fmt"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/local"
)

// preset translates a preset for people and scripts.
func preset(u local.PresetUse) control.Preset {
	p := control.Preset{
		Name: u.Name, Version: u.Version, FragmentSize: u.FragmentSize, Compression: u.Compression.String(),
		Encryption: u.Encryption.String(), Checksum: u.Checksum.String(), Policies: []string{}, Disks: []uint32{},
		Namespaces: u.Namespaces, Warnings: u.Unmet,
	}
	for _, q := range u.Policies {
		p.Policies = append(p.Policies, q.String())
	}
	for _, d := range u.Disks {
		p.Disks = append(p.Disks, uint32(d))
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	return p
}

// applyChange makes p what a change says.
func applyChange(c control.PresetChange, p *objstore.Preset) (err error) {
	bad := func(err error) error { return fmt.Errorf("%w: preset %s: %w", control.ErrBadRequest, c.Name, err) }
	if c.Policies != nil {
		p.Policies = nil
		for _, s := range c.Policies {
			q, err := objstore.ParsePolicy(s)
			if err != nil {
				return bad(err)
			}
			p.Policies = append(p.Policies, q)
		}
	}
	if c.FragmentSize != nil {
		p.FragmentSize = *c.FragmentSize
	}
	if c.Compression != nil {
		if p.Compression, err = objstore.ParseCompression(*c.Compression); err != nil {
			return bad(err)
		}
	}
	if c.Encryption != nil {
		if p.Encryption, err = objstore.ParseEncryption(*c.Encryption); err != nil {
			return bad(err)
		}
	}
	if c.Checksum != nil {
		if p.Checksum, err = objstore.ParseChecksum(*c.Checksum); err != nil {
			return bad(err)
		}
	}
	if c.Disks != nil {
		p.Disks = nil
		for _, d := range *c.Disks {
			p.Disks = append(p.Disks, objstore.DiskID(d))
		}
	}
	return nil
}

// Presets lists the presets by name.
func (n *Node) Presets(ctx context.Context) ([]control.Preset, error) {
	all, err := n.objects.Presets(ctx)
	out := []control.Preset{}
	for _, u := range all {
		out = append(out, preset(u))
	}
	return out, err
}

// CreatePreset makes a preset. Without policies it gets those that fit the disks.
func (n *Node) CreatePreset(ctx context.Context, c control.PresetChange) (control.Preset, error) {
	p := objstore.Preset{Name: c.Name, Compression: objstore.CompressS2}
	if err := applyChange(c, &p); err != nil {
		return control.Preset{}, err
	}
	if p.Policies == nil {
		disks := len(p.Disks)
		if disks == 0 {
			disks = len(n.objects.Disks())
		}
		p.Policies = objstore.DefaultPolicies(disks)
	}
	u, err := n.objects.CreatePreset(ctx, p)
	if err != nil {
		return control.Preset{}, err
	}
	return preset(u), nil
}

// UpdatePreset makes the next version of a preset.
func (n *Node) UpdatePreset(ctx context.Context, c control.PresetChange) (control.Preset, error) {
	u, err := n.objects.UpdatePreset(ctx, c.Name, func(p *objstore.Preset) error { return applyChange(c, p) })
	if err != nil {
		return control.Preset{}, err
	}
	return preset(u), nil
}

// AssignPreset makes a namespace follow a preset.
func (n *Node) AssignPreset(ctx context.Context, a control.PresetAssign) (control.Preset, error) {
	u, err := n.objects.AssignPreset(ctx, a.Namespace, a.Preset)
	if err != nil {
		return control.Preset{}, err
	}
	return preset(u), nil
}
