package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

const (
	magic  = "GM"
	plain  = 1 // version
	sealed = 2 // version: encryption, digests
	summed = 3 // version: sums behind frames

	flagSameCode = 1
	flagFramed   = 2
	flagNumbered = 4
	flagSealed   = 8
	flagWhole    = 16 // sealed, frames as long as can be
	flagDigest   = 32
	flagSummed   = 64

	plainFlags  = flagSameCode | flagFramed | flagNumbered
	sealedFlags = plainFlags | flagSealed | flagWhole | flagDigest
	summedFlags = sealedFlags | flagSummed
)

// versionOf returns the oldest version that can say what an object has.
func versionOf(seal *crypt.Wrapped, chunks ...Chunk) byte {
	if slices.ContainsFunc(chunks, func(c Chunk) bool { return c.Frames != nil && c.Frames.Summed }) {
		return summed
	}
	if seal != nil || slices.ContainsFunc(chunks, func(c Chunk) bool { return c.Digest != nil }) {
		return sealed
	}
	return plain
}

// appendSeal appends what version 2 and later say of encryption.
func appendSeal(b []byte, w *crypt.Wrapped) []byte {
	if w == nil {
		return append(b, byte(objstore.EncryptNone))
	}
	b = append(b, byte(objstore.EncryptAES))
	b = binary.AppendUvarint(b, uint64(w.Key))
	return append(b, w.Box[:]...)
}

// Encode appends the manifest's bytes to b.
func (m *Manifest) Encode(b []byte) []byte {
	start := len(b)
	v := versionOf(m.Seal, m.Chunks...)
	b = append(b, magic...)
	b = append(b, v)
	b = binary.AppendUvarint(b, m.ID)
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.LittleEndian.AppendUint32(b, m.Sum)
	b = append(b, byte(m.Compression))
	if v >= sealed {
		b = appendSeal(b, m.Seal)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Chunks)))
	var k, mm int
	for i := range m.Chunks {
		c := &m.Chunks[i]
		b = c.encodeShape(b, c.K == k && c.M == mm, i, m.Seal != nil)
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
func (c *Chunk) encodeShape(b []byte, sameCode bool, at int, isSealed bool) []byte {
	var flags byte
	if sameCode {
		flags |= flagSameCode
	}
	switch {
	case isSealed && c.whole():
		flags |= flagWhole
	case isSealed:
		flags |= flagSealed
	case c.Frames != nil && c.Frames.Summed:
		flags |= flagSummed
	case c.Frames != nil:
		flags |= flagFramed
	}
	if c.Digest != nil {
		flags |= flagDigest
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
	if isSealed {
		b = binary.AppendUvarint(b, uint64(c.Encoding))
	}
	if flags&flagSummed != 0 {
		b = packLens(b, c.Frames.Lens)
	}
	if flags&(flagFramed|flagSealed) != 0 {
		for i, l := range c.Frames.Lens {
			b = binary.AppendUvarint(b, uint64(l))
			if !isSealed {
				b = binary.LittleEndian.AppendUint32(b, c.Frames.Sums[i])
			}
		}
	}
	if c.Digest != nil {
		b = append(b, c.Digest[:]...)
	}
	return b
}

// whole tells whether no frame of a sealed chunk is compressed.
func (c *Chunk) whole() bool { return c.Frames.Len() == frames.SealedLen(c.Size) }

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
	m.Seal = r.seal()
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
		if total += int64(c.Size); total > m.Size {
			return nil, fmt.Errorf("chunks of more than %d bytes", m.Size)
		}
		if r.fragments(c); r.err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, r.err)
		}
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case len(r.b) != 0:
		return nil, fmt.Errorf("%d bytes too many", len(r.b))
	case versionOf(m.Seal, m.Chunks...) != r.version:
		return nil, fmt.Errorf("version %d for what needs none", r.version)
	case total != m.Size:
		return nil, fmt.Errorf("chunks of %d bytes in an object of %d", total, m.Size)
	}
	return m, nil
}

// reader takes an encoding apart; the first error sticks.
type reader struct {
	version byte
	sealed  bool // there is a data key
	b       []byte
	err     error
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
	v := b[len(magic)]
	if v < plain || v > summed {
		return nil, fmt.Errorf("version %d, this program knows up to %d", v, summed)
	}
	return &reader{version: v, b: body[len(magic)+1:]}, nil
}

// seal reads what version 2 and later say of encryption.
func (r *reader) seal() *crypt.Wrapped {
	if r.version == plain {
		return nil
	}
	switch e := objstore.Encryption(r.u8()); {
	case r.err != nil || e == objstore.EncryptNone:
		return nil
	case e != objstore.EncryptAES:
		r.fail(fmt.Errorf("encryption %d", e))
		return nil
	}
	w := &crypt.Wrapped{}
	key := r.uvarint()
	if key < 1 || key > 1<<32-1 {
		r.fail(fmt.Errorf("key %d", key))
	}
	w.Key = uint32(key)
	r.bytes(w.Box[:])
	r.sealed = true
	return w
}

func (r *reader) bytes(p []byte) {
	if len(r.b) < len(p) {
		r.fail(errShort)
		return
	}
	r.b = r.b[copy(p, r.b):]
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
	if err := r.checkFlags(flags); err != nil {
		return err
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
	if r.sealed {
		encoding := r.uvarint()
		if encoding > 1<<32-1 {
			return fmt.Errorf("encoding %d", encoding)
		}
		c.Encoding = uint32(encoding)
	}
	switch {
	case flags&flagSummed != 0:
		r.summedFrames(c)
	case flags&flagFramed != 0:
		r.frames(c)
	case flags&(flagSealed|flagWhole) != 0:
		r.sealedFrames(c, flags&flagWhole != 0)
	}
	if flags&flagDigest != 0 {
		c.Digest = new(Digest)
		r.bytes(c.Digest[:])
	}
	return r.err
}

// checkFlags refuses flags that the version does not have, or that contradict each other or the data key.
func (r *reader) checkFlags(flags byte) error {
	known := [...]byte{plain: plainFlags, sealed: sealedFlags, summed: summedFlags}[r.version]
	how := 0 // ways in which the frames are said to be
	for _, f := range []byte{flagFramed, flagSealed, flagWhole, flagSummed} {
		if flags&f != 0 {
			how++
		}
	}
	switch isSealed := flags&(flagSealed|flagWhole) != 0; {
	case r.err != nil:
		return r.err
	case flags&^known != 0, how > 1, isSealed != r.sealed:
		return fmt.Errorf("flags %x", flags)
	}
	return nil
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

// sealedFrames reads the lengths of sealed frames, or derives them when none is compressed.
func (r *reader) sealedFrames(c *Chunk, whole bool) {
	count := frames.Count(c.Size)
	if !whole && count > len(r.b) {
		r.fail(errShort)
		return
	}
	t := &frames.Table{Lens: make([]uint32, count)}
	for i := range t.Lens {
		most := uint64(frames.DecodedLen(c.Size, i) + frames.Overhead)
		l := most
		if !whole {
			l = r.uvarint()
		}
		if r.err == nil && (l <= frames.Overhead || l > most) {
			r.fail(fmt.Errorf("sealed frame %d of %d bytes", i, l))
		}
		t.Lens[i] = uint32(l)
	}
	if c.Frames = t; r.err == nil && !whole && c.whole() {
		r.fail(errors.New("sealed frames that are whole, and do not say so"))
	}
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
