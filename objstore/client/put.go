package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/erasure"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// source is where an object's bytes come from: one slice, or a stream.
type source struct {
	whole []byte
	r     io.Reader
}

// upload is one put under way.
type upload struct {
	s      *Namespace
	id     nsm.Upload
	preset objstore.Preset // as it was when the upload began, whatever becomes of it meanwhile
	name   string
	size   int64
	chunks int // planned
	first  int // index of the first policy to try

	nextNumber atomic.Uint32 // for chunks beyond the plan

	sealer    *crypt.Object  // nil: it is not encrypted
	wrapped   *crypt.Wrapped // the key of sealer
	encodings atomic.Uint32  // of chunks, so far

	mu    sync.Mutex
	parts []part
	gone  []nsm.Location // fragments of attempts that were given up

	// over is closed when it is settled what becomes of the upload.
	over chan struct{}
	fate fate
}

// fate is what became of an upload.
type fate uint8

const (
	dropped fate = iota // no manifest names its fragments, or ever will
	kept                // its manifest is registered
	unknown             // the store was cut off: it may be
)

func fateOf(err error) fate {
	switch {
	case err == nil:
		return kept
	case errors.Is(err, kv.ErrUnknownOutcome), errors.Is(err, kv.ErrClosed):
		return unknown
	}
	return dropped
}

// part is a chunk that is written, or several when it was coded again in smaller ones.
type part struct {
	offset int64
	chunk  manifest.Chunk
	sum    uint32
}

// chunkParallel is how many chunks of one object are written at a time.
const chunkParallel = 4

func (s *Namespace) put(ctx context.Context, name string, src *source, size int64) (objstore.Info, error) {
	m, err := s.tryPut(ctx, name, src, size)
	if errors.Is(err, nsm.ErrExpired) && src.r == nil {
		m, err = s.tryPut(ctx, name, src, size) // it took so long that its epoch is over: once more
	}
	if err != nil {
		return objstore.Info{}, s.wrap("put", name, err)
	}
	return m.Info(name), nil
}

func (s *Namespace) tryPut(ctx context.Context, name string, src *source, size int64) (*manifest.Manifest, error) {
	if size < 0 || size > objstore.MaxObject {
		return nil, fmt.Errorf("size %d, allowed are 0 to %d", size, int64(objstore.MaxObject))
	}
	if taken, err := s.nsm.Exists(ctx, name); err != nil || taken {
		return nil, errors.Join(err, existsIf(taken))
	}
	id, err := s.nsm.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.nsm.End(id)
	u := s.newUpload(id, name, size)
	err = u.writeAll(ctx, src)
	var m *manifest.Manifest
	if err == nil {
		m = u.manifest()
		err = s.nsm.Register(ctx, id, name, m)
	}
	u.settle(m, err)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// newUpload returns an upload that follows the preset of now; id began before.
func (s *Namespace) newUpload(id nsm.Upload, name string, size int64) *upload {
	return &upload{s: s, id: id, preset: s.Preset(), name: name, size: size, over: make(chan struct{})}
}

func existsIf(taken bool) error {
	if taken {
		return objstore.ErrExists
	}
	return nil
}

// writeAll cuts the source into chunks and writes them, a few at a time.
func (u *upload) writeAll(ctx context.Context, src *source) error {
	if u.size == 0 {
		return nil
	}
	if err := u.seal(); err != nil {
		return err
	}
	p, err := u.s.c.place(ctx, &u.preset, u.first, nil, u.id.ID)
	if err != nil {
		return err
	}
	count, length := erasure.Chunks(u.size, p.policy.K, u.preset.FragmentSize, objstore.FrameSize)
	u.chunks = int(count)
	u.nextNumber.Store(uint32(count))
	if count == 1 && src.r == nil {
		return u.writeChunk(ctx, 0, 0, src.whole, nil)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(chunkParallel)
	for i := range count {
		off := i * length
		n := int(min(length, u.size-off))
		if src.r == nil {
			g.Go(func() error { return u.writeChunk(ctx, uint32(i), off, src.whole[off:off+int64(n)], nil) })
			continue
		}
		raw, err := u.read(ctx, src.r, n, p.policy)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		g.Go(func() error { return u.writeChunk(ctx, uint32(i), off, raw.B, raw) })
	}
	return g.Wait()
}

// read takes the next n bytes of a stream into a buffer. It acquires the memory for coding them as
// well: with one after the other, streams that hold the first could wait for the second for ever.
func (u *upload) read(ctx context.Context, r io.Reader, n int, p objstore.Policy) (*held, error) {
	share, err := u.s.c.acquire(ctx, n+n*(p.K+p.M)/p.K)
	if err != nil {
		return nil, err
	}
	h := &held{Buf: u.s.c.pool.Get(n), share: share}
	if _, err := io.ReadFull(r, h.B); err != nil {
		h.done()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read the source: %w", err)
	}
	return h, nil
}

// held is a buffer together with its share of the memory for writes.
type held struct {
	*bufpool.Buf
	share share
}

func (h *held) done() {
	h.Release()
	h.share.release()
}

// share is a part of the memory for writes.
type share struct {
	c *Client
	n int64
}

// acquire waits for memory to write n bytes.
func (c *Client) acquire(ctx context.Context, n int) (share, error) {
	// One chunk may always go, however large, or it never could.
	size := min(int64(n), int64(c.o.WriteMemory))
	if err := c.budget.Acquire(ctx, size); err != nil {
		return share{}, err
	}
	return share{c, size}, nil
}

func (s share) release() {
	if s.n > 0 {
		s.c.budget.Release(s.n)
	}
}

// manifest puts the chunks that were written together.
func (u *upload) manifest() *manifest.Manifest {
	m := &manifest.Manifest{ID: u.id.ID, Size: u.size, Compression: u.preset.Compression, Seal: u.wrapped}
	for _, p := range u.sorted() {
		if u.sealer == nil {
			m.Sum = crc.Combine(m.Sum, p.sum, int64(p.chunk.Size))
		}
		m.Chunks = append(m.Chunks, p.chunk)
	}
	return m
}

// settle tells everyone what became of the upload, and queues what it leaves behind.
func (u *upload) settle(m *manifest.Manifest, err error) {
	c := u.s.c
	u.fate = fateOf(err)
	close(u.over)
	u.mu.Lock()
	gone := u.gone
	if u.fate == dropped {
		for _, p := range u.parts {
			one := &manifest.Manifest{ID: u.id.ID, Chunks: []manifest.Chunk{p.chunk}}
			for _, l := range nsm.Locations(u.s.nsm.Number(), one) {
				if !p.chunk.Fragments[l.Key.Fragment].Unconfirmed { // who writes it looks after it
					gone = append(gone, l)
				}
			}
		}
	}
	u.mu.Unlock()
	u.abandon(gone)
	if m != nil && err == nil && lacks(m) {
		c.o.Trouble.Degraded(u.s.nsm, u.name)
	}
}

// lacks tells whether a fragment is neither written nor being written.
func lacks(m *manifest.Manifest) bool {
	for i := range m.Chunks {
		for _, f := range m.Chunks[i].Fragments {
			if f.Disk == 0 {
				return true
			}
		}
	}
	return false
}

// abandon queues fragments that no manifest will refer to. Whatever is not queued because that fails
// is garbage that maintenance finds.
func (u *upload) abandon(at []nsm.Location) {
	if len(at) == 0 {
		return
	}
	if err := u.s.nsm.Abandon(u.s.c.ctx, u.id, at); err != nil {
		u.s.c.log.Warn("fragments are left to the collector", "object", u.name, "fragments", len(at), "error", err)
		return
	}
	u.s.c.o.Trouble.Obsolete(u.s.nsm)
}
