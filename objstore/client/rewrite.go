package client

import (
	"context"
	"io"

	"github.com/gabionfs/gabion/objstore/manifest"
)

// rewrite codes an object anew by the first policy that the usable disks meet in full, if that is safer.
func (s *Namespace) rewrite(ctx context.Context, name string, m *manifest.Manifest, o HealOptions, h *Healed) error {
	index := -1
	preset := s.Preset()
	for i, p := range preset.Policies {
		one := preset
		one.Policies = preset.Policies[i : i+1]
		at, err := s.c.place(ctx, &one, 0, nil, m.ID)
		if err == nil && p.M > 0 && at.disks[len(at.disks)-1] != nil {
			index = i
			break
		}
	}
	if index < 0 {
		return nil
	}
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
	if err := r.s.readObject(r.ctx, r.name, r.m, off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
