package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// ReadAt implements objstore.Namespace.
func (s *Namespace) ReadAt(ctx context.Context, name string, off int64, p []byte) error {
	return s.readAt(ctx, name, off, p, nil)
}

// readAt is ReadAt with what was read in advance.
func (s *Namespace) readAt(ctx context.Context, name string, off int64, p []byte, have *supply) error {
	m, err := s.nsm.Lookup(ctx, name)
	if err != nil {
		return err
	}
	// A cached manifest may be older than a repair or a deletion: then its fragments are gone. The
	// manifest tells; each round needs a new one, so there are not many.
	for range 4 {
		if err = s.readObject(ctx, name, m, off, p, have); err == nil {
			return nil
		}
		var lost *objstore.LostError
		if !errors.As(err, &lost) {
			break
		}
		now, ferr := s.nsm.Fetch(ctx, name)
		if ferr != nil {
			return ferr
		}
		if same(m, now) {
			break
		}
		m = now
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return s.wrap("read", name, err)
}

// same tells whether two manifests of one name lead to the same fragments.
func same(a, b *manifest.Manifest) bool {
	if a.ID != b.ID || len(a.Chunks) != len(b.Chunks) {
		return false
	}
	for i := range a.Chunks {
		for j, f := range a.Chunks[i].Fragments {
			if f != b.Chunks[i].Fragments[j] {
				return false
			}
		}
	}
	return true
}

func (s *Namespace) readObject(ctx context.Context, name string, m *manifest.Manifest, off int64, p []byte, have *supply) error {
	if off < 0 {
		return fmt.Errorf("negative offset %d", off)
	}
	if off > m.Size || int64(len(p)) > m.Size-off {
		return io.ErrUnexpectedEOF
	}
	open, err := s.opener(m)
	if err != nil {
		return err
	}
	var start int64
	for i := range m.Chunks {
		if len(p) == 0 {
			break
		}
		c := &m.Chunks[i]
		end := start + int64(c.Size)
		if off < end {
			n := int(min(int64(len(p)), end-off))
			g := gatherer{s: s, name: name, m: m, index: i, c: c, open: open, offset: start, supply: have}
			if err := g.readChunk(ctx, int(off-start), p[:n]); err != nil {
				return err
			}
			p, off = p[n:], off+int64(n)
		}
		start = end
	}
	return nil
}

// readChunk reads p from offset off of the chunk as the user gave it.
func (g *gatherer) readChunk(ctx context.Context, off int, p []byte) error {
	if g.c.Frames != nil {
		return g.readFrames(ctx, off, p)
	}
	if err := g.read(ctx, off, p); err != nil {
		return err
	}
	return g.checkDigest(p)
}

// checkDigest compares the chunk's digest, if it has one, with p, if that is all of the chunk as it is stored.
func (g *gatherer) checkDigest(p []byte) error {
	if g.c.Digest == nil || len(p) != g.c.Stored() {
		return nil
	}
	if got := digest(p); *got != *g.c.Digest {
		return &objstore.CorruptError{What: fmt.Sprintf("chunk %d", g.index), Err: fmt.Errorf("digest %x, the manifest says %x", got[:8], g.c.Digest[:8])}
	}
	return nil
}

// readFrames reads and decodes the frames that hold p.
func (g *gatherer) readFrames(ctx context.Context, off int, p []byte) error {
	t := g.c.Frames
	first, last := off/frames.Size, (off+len(p)-1)/frames.Size
	// A frame that is read only in part is likely to be read again: those are cached.
	if first == last && g.fromCache(first, off, p) {
		return nil
	}
	at := 0
	for _, l := range t.Lens[:first] {
		at += int(l)
	}
	n := 0
	for _, l := range t.Lens[first : last+1] {
		n += int(l)
	}
	buf := g.s.c.pool.Get(n)
	defer buf.Release()
	if err := g.read(ctx, at, buf.B); err != nil {
		return err
	}
	if err := g.checkDigest(buf.B); err != nil {
		return err
	}
	enc := buf.B
	for i := first; i <= last; i++ {
		l := int(t.Lens[i])
		if err := g.decodeFrame(i, enc[:l], off, p); err != nil {
			return err
		}
		enc = enc[l:]
	}
	return nil
}

func (g *gatherer) frameKey(i int) frameKey {
	return frameKey{g.s.nsm.Number(), g.m.ID, uint32(g.index), uint32(i)}
}

// fromCache copies the part of p that lies in frame i.
func (g *gatherer) fromCache(i, off int, p []byte) bool {
	data := g.s.c.cache.get(g.frameKey(i))
	if data == nil {
		return false
	}
	g.copyFrame(i, data, off, p)
	return true
}

// copyFrame copies what frame i, decoded, has of the range at off into p.
func (g *gatherer) copyFrame(i int, data []byte, off int, p []byte) {
	start := i * frames.Size
	if start < off {
		copy(p, data[off-start:])
	} else {
		copy(p[start-off:], data)
	}
}

// decodeFrame decodes frame i into its place in p, or into the cache when p has only a part of it.
func (g *gatherer) decodeFrame(i int, enc []byte, off int, p []byte) error {
	start, size := i*frames.Size, frames.DecodedLen(g.c.Size, i)
	if start >= off && start+size <= off+len(p) {
		return g.decode(i, p[start-off:][:size:size], enc)
	}
	data := make([]byte, size)
	if err := g.decode(i, data, enc); err != nil {
		return err
	}
	g.copyFrame(i, data, off, p)
	g.s.c.cache.put(g.frameKey(i), data)
	return nil
}

// decode decodes frame i into dst, which has its length, and verifies it. enc may be used up.
func (g *gatherer) decode(i int, dst, enc []byte) error {
	if g.open != nil {
		return g.openFrame(i, dst, enc)
	}
	if t := g.c.Frames; !t.Summed {
		return g.s.c.codec.Decode(dst, enc, t.Sums[i], g.m.Compression)
	}
	return g.s.c.codec.DecodeSummed(dst, enc, frames.Place{Object: g.m.ID, Offset: g.offset}, i, g.m.Compression)
}
