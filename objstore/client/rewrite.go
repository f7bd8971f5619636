package client

import (
	"context"
	"io"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// Rewrite codes an object anew if it is not as the preset has it: by the first policy that the usable disks meet
// in full, with the preset's compression and fragment size. The new coding takes the place of the old one in one
// transaction. Objects that are gone are no error.
func (s *Namespace) Rewrite(ctx context.Context, name string, o HealOptions) (Healed, error) {
	var h Healed
	m, err := s.nsm.Fetch(ctx, name)
	if err != nil {
		return h, ignoreNotFound(err)
	}
	if o.Spend == nil {
		o.Spend = func(context.Context, int) error { return nil }
	}
	preset := s.Preset()
	index := s.inFull(ctx, preset, 0, m.ID)
	if index < 0 || conforms(m, preset, preset.Policies[index]) {
		return h, nil
	}
	if err := s.rewriteBy(ctx, name, m, preset, index, o, &h); err != nil {
		return h, s.wrap("rewrite", name, err)
	}
	return h, nil
}

// conforms tells whether an object is laid out as a preset would by one of its policies.
func conforms(m *manifest.Manifest, p objstore.Preset, by objstore.Policy) bool {
	count, length := erasure.Chunks(m.Size, by.K, p.FragmentSize, objstore.FrameSize)
	if m.Compression != p.Compression || int64(len(m.Chunks)) != count {
		return false
	}
	for i := range m.Chunks {
		c := &m.Chunks[i]
		if c.K != by.K || c.M != by.M || int64(c.Size) > length {
			return false
		}
	}
	return true
}

// inFull returns the first policy with at least m parity fragments that the usable disks meet in full, or -1.
func (s *Namespace) inFull(ctx context.Context, preset objstore.Preset, m int, seed uint64) int {
	for i, p := range preset.Policies {
		one := preset
		one.Policies = preset.Policies[i : i+1]
		at, err := s.c.place(ctx, &one, 0, nil, seed)
		if err == nil && p.M >= m && at.disks[len(at.disks)-1] != nil {
			return i
		}
	}
	return -1
}

// rewrite codes an object anew by the first policy that the usable disks meet in full, if that is safer.
func (s *Namespace) rewrite(ctx context.Context, name string, m *manifest.Manifest, o HealOptions, h *Healed) error {
	preset := s.Preset()
	index := s.inFull(ctx, preset, 1, m.ID)
	if index < 0 {
		return nil
	}
	return s.rewriteBy(ctx, name, m, preset, index, o, h)
}

// rewriteBy codes an object anew by one policy of a preset.
func (s *Namespace) rewriteBy(ctx context.Context, name string, m *manifest.Manifest, preset objstore.Preset, index int, o HealOptions, h *Healed) error {
	if err := o.Spend(ctx, int(m.Size)); err != nil {
		return err
	}
	id, err := s.nsm.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.nsm.End(id)
	u := s.newUpload(id, name, m.Size)
	u.preset, u.first = preset, index
	r := io.NewSectionReader(objectReader{ctx, s, name, m}, 0, m.Size)
	err = u.writeAll(ctx, &source{r: r})
	var now *manifest.Manifest
	if err == nil {
		now = u.manifest()
		err = s.nsm.Replace(ctx, id, name, m.ID, now)
	}
	u.settle(now, err)
	if err != nil {
		return ignoreNotFound(err)
	}
	h.Rewritten = true
	h.Bytes += now.Stored()
	h.Spare = s.spare(now)
	s.c.o.Trouble.Obsolete(s.nsm)
	return nil
}

// objectReader reads the object of one manifest.
type objectReader struct {
	ctx  context.Context
	s    *Namespace
	name string
	m    *manifest.Manifest
}

func (r objectReader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.s.readObject(r.ctx, r.name, r.m, off, p, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}
