package client

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Put implements objstore.Namespace.
func (s *Namespace) Put(ctx context.Context, name string, p []byte) (objstore.Info, error) {
	return s.put(ctx, name, &source{whole: p}, int64(len(p)))
}

// PutFrom implements objstore.Namespace.
func (s *Namespace) PutFrom(ctx context.Context, name string, r io.Reader, size int64) (objstore.Info, error) {
	if b, ok := r.(*bytes.Reader); ok && int64(b.Len()) == size && size <= 1<<20 {
		p := make([]byte, size)
		if _, err := io.ReadFull(b, p); err != nil {
			return objstore.Info{}, err
		}
		return s.Put(ctx, name, p)
	}
	return s.put(ctx, name, &source{r: r}, size)
}

// Stat implements objstore.Namespace.
func (s *Namespace) Stat(ctx context.Context, name string) (objstore.Info, error) {
	m, err := s.nsm.Lookup(ctx, name)
	if err != nil {
		return objstore.Info{}, err
	}
	return m.Info(name), nil
}

// Delete implements objstore.Namespace.
func (s *Namespace) Delete(ctx context.Context, names ...string) error {
	known := s.cachedOf(names)
	removed, err := s.nsm.Delete(ctx, names...)
	s.forget(known)
	if removed > 0 {
		s.c.o.Trouble.Obsolete(s.nsm)
	}
	return err
}

var _ objstore.Reclaimer = (*Namespace)(nil)

// Reclaim implements objstore.Reclaimer.
func (s *Namespace) Reclaim(ctx context.Context) error {
	if s.c.o.Reclaim == nil {
		return nil
	}
	return s.c.o.Reclaim(ctx)
}

// List implements objstore.Namespace.
func (s *Namespace) List(ctx context.Context, from, to string, fn func(objstore.Info) bool) error {
	return s.nsm.List(ctx, from, to, func(name string, m *manifest.Manifest) bool { return fn(m.Info(name)) })
}

func (s *Namespace) wrap(op, name string, err error) error {
	return fmt.Errorf("objstore: %s %s/%q: %w", op, s.nsm.Name(), name, err)
}

// Sync waits until every change of the namespace so far is durable.
func (s *Namespace) Sync(ctx context.Context) error { return s.nsm.Sync(ctx) }

// Usage returns what the namespace's objects take.
func (s *Namespace) Usage(ctx context.Context) (nsm.Usage, error) { return s.nsm.Usage(ctx) }
