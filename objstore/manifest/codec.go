package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

const (
	magic   = "GM"
	version = 1

	flagSameCode = 1
	flagFramed   = 2
	flagNumbered = 4
)

// Encode appends the manifest's bytes to b.
func (m *Manifest) Encode(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, version)
	b = binary.AppendUvarint(b, m.ID)
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.LittleEndian.AppendUint32(b, m.Sum)
	b = append(b, byte(m.Compression))
	b = binary.AppendUvarint(b, uint64(len(m.Chunks)))
	var k, mm int
	for i := range m.Chunks {
		c := &m.Chunks[i]
		b = c.encodeShape(b, c.K == k && c.M == mm, i)
		k, mm = c.K, c.M
		for _, f := range c.Fragments {
			at := uint64(f.Disk) << 1
			if f.Unconfirmed {
				at |= 1
			}
			b = binary.AppendUvarint(b, at)
			b = binary.AppendUvarint(b, uint64(f.Version))
			b = binary.LittleEndian.AppendUint32(b, f.Sum)
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc.Sum(b[start:]))
}

// encodeShape appends all of a chunk but its fragments; at is its place in the object.
func (c *Chunk) encodeShape(b []byte, sameCode bool, at int) []byte {
	var flags byte
	if sameCode {
		flags |= flagSameCode
	}
	if c.Frames != nil {
		flags |= flagFramed
	}
	if int64(c.Number) != int64(at) {
		flags |= flagNumbered
	}
	b = append(b, flags)
	if !sameCode {
		b = append(b, byte(c.K), byte(c.M))
	}
	if flags&flagNumbered != 0 {
		b = binary.AppendUvarint(b, uint64(c.Number))
	}
	b = binary.AppendUvarint(b, uint64(c.Size))
	if c.Frames != nil {
		for i, l := range c.Frames.Lens {
			b = binary.AppendUvarint(b, uint64(l))
			b = binary.LittleEndian.AppendUint32(b, c.Frames.Sums[i])
		}
	}
	return b
}

// Decode reads an encoded manifest. Damage is a *objstore.CorruptError.
func Decode(b []byte) (*Manifest, error) {
	m, err := decode(b)
	if err != nil {
		return nil, &objstore.CorruptError{What: "manifest", Err: err}
	}
	return m, nil
}

func decode(b []byte) (*Manifest, error) {
	r, err := open(b, magic)
	if err != nil {
		return nil, err
	}
	m := &Manifest{ID: r.uvarint(), Size: int64(r.uvarint()), Sum: r.u32(), Compression: objstore.Compression(r.u8())}
	if m.Size < 0 || m.Size > objstore.MaxObject {
		return nil, fmt.Errorf("size %d", m.Size)
	}
	count := r.uvarint()
	// The smallest chunk takes its flags, a size and one fragment of 6 bytes.
	if count > uint64(len(r.b))/8 {
		return nil, fmt.Errorf("%d chunks in %d bytes", count, len(r.b))
	}
	m.Chunks = make([]Chunk, count)
	var total int64
	var k, mm int
	for i := range m.Chunks {
		c := &m.Chunks[i]
		if err := r.shape(c, k, mm, i); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
		k, mm = c.K, c.M
		total += int64(c.Size)
		if r.fragments(c); r.err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, r.err)
		}
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case len(r.b) != 0:
		return nil, fmt.Errorf("%d bytes too many", len(r.b))
	case total != m.Size:
		return nil, fmt.Errorf("chunks of %d bytes in an object of %d", total, m.Size)
	}
	return m, nil
}

// reader takes an encoding apart; the first error sticks.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("it ends too early")

// open checks the magic, the version and the checksum at the end, and returns what is between.
func open(b []byte, magic string) (*reader, error) {
	if len(b) < len(magic)+1+4 || string(b[:len(magic)]) != magic {
		return nil, errors.New("no magic")
	}
	body, tail := b[:len(b)-4], b[len(b)-4:]
	if got, want := crc.Sum(body), binary.LittleEndian.Uint32(tail); got != want {
		return nil, fmt.Errorf("checksum %08x, expected %08x", got, want)
	}
	if v := b[len(magic)]; v != version {
		return nil, fmt.Errorf("version %d, this program knows %d", v, version)
	}
	return &reader{b: body[len(magic)+1:]}, nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) u32() uint32 {
	if len(r.b) < 4 {
		r.fail(errShort)
		return 0
	}
	v := binary.LittleEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) u8() byte {
	if len(r.b) < 1 {
		r.fail(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// shape reads all of a chunk but its fragments; k and m are those of the chunk before, at its place.
func (r *reader) shape(c *Chunk, k, m, at int) error {
	flags := r.u8()
	if flags&^(flagSameCode|flagFramed|flagNumbered) != 0 {
		return fmt.Errorf("flags %x", flags)
	}
	if flags&flagSameCode == 0 {
		k, m = int(r.u8()), int(r.u8())
	}
	if k < 1 || m < 0 || k+m > objstore.MaxFragments {
		return fmt.Errorf("code (%d,%d)", k, m)
	}
	c.K, c.M, c.Number = k, m, uint32(at)
	if flags&flagNumbered != 0 {
		number := r.uvarint()
		if number > 1<<32-1 {
			return fmt.Errorf("number %d", number)
		}
		c.Number = uint32(number)
	}
	size := r.uvarint()
	if size < 1 || size > MaxChunk {
		return fmt.Errorf("%d bytes", size)
	}
	c.Size = int(size)
	if flags&flagFramed != 0 {
		r.frames(c)
	}
	return r.err
}

// MaxChunk is the largest chunk that is accepted, in bytes.
const MaxChunk = 1 << 30

func (r *reader) frames(c *Chunk) {
	count := frames.Count(c.Size)
	if count > len(r.b)/5 {
		r.fail(errShort)
		return
	}
	t := &frames.Table{Lens: make([]uint32, count), Sums: make([]uint32, count)}
	for i := range t.Lens {
		l := r.uvarint()
		if r.err == nil && (l < 1 || l > uint64(frames.DecodedLen(c.Size, i))) {
			r.fail(fmt.Errorf("frame %d of %d bytes", i, l))
		}
		t.Lens[i], t.Sums[i] = uint32(l), r.u32()
	}
	c.Frames = t
}

func (r *reader) fragments(c *Chunk) {
	if c.K+c.M > len(r.b)/6 {
		r.fail(errShort)
		return
	}
	c.Fragments = make([]Fragment, c.K+c.M)
	for i := range c.Fragments {
		at, v := r.uvarint(), r.uvarint()
		if at>>1 > 1<<32-1 || v > 1<<32-1 || at == 1 {
			r.fail(fmt.Errorf("fragment %d on disk %d, version %d", i, at>>1, v))
		}
		c.Fragments[i] = Fragment{Disk: objstore.DiskID(at >> 1), Unconfirmed: at&1 == 1, Version: uint32(v), Sum: r.u32()}
	}
}
