package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/gabionfs/gabion/kv"
)

// VersionError reports a backup that a newer release has written.
type VersionError struct{ Found, Known uint32 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("backup: format version %d, this release knows up to %d: use a newer release", e.Found, e.Known)
}

// Read reads a backup and calls fn with each pair, in order; fn may be nil, and must not keep the slices.
// Only when Read returns without an error was everything there: whoever loads a backup into a store that
// is in use reads it twice. Damage is a *kv.CorruptError; an error of fn is returned as it is.
func Read(ctx context.Context, r io.Reader, fn func(ks kv.Keyspace, key, value []byte) error) (Info, error) {
	d := decoder{r: r, fn: fn, digest: kv.NewDigest()}
	if err := d.header(); err != nil {
		return d.info, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return d.info, err
		}
		if ended, err := d.block(); ended || err != nil {
			return d.info, err
		}
	}
}

type decoder struct {
	r        io.Reader
	fn       func(ks kv.Keyspace, key, value []byte) error
	info     Info
	at       int64 // offset in the file
	buf      []byte
	keyspace kv.Keyspace
	key      []byte
	digest   *kv.Digest
}

func (d *decoder) corrupt(format string, args ...any) error {
	return &kv.CorruptError{What: "the backup", Err: fmt.Errorf("offset %d: "+format, append([]any{d.at}, args...)...)}
}

// read fills b.
func (d *decoder) read(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return d.corrupt("it ends after %d of %d bytes", n, len(b))
	}
	return err
}

func (d *decoder) header() error {
	var b [headerSize]byte
	if err := d.read(b[:]); err != nil {
		return err
	}
	if string(b[:8]) != magic {
		return d.corrupt("it does not begin like a backup")
	}
	if crc32.Checksum(b[:20], castagnoli) != binary.LittleEndian.Uint32(b[20:]) {
		return d.corrupt("the header does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return &VersionError{Found: v, Known: version}
	}
	d.info.Index = binary.LittleEndian.Uint64(b[12:])
	d.at = headerSize
	return nil
}

// block reads one block; ended says that it was the last one.
func (d *decoder) block() (ended bool, err error) {
	d.buf = append(d.buf[:0], make([]byte, blockHead)...)
	if err := d.read(d.buf); err != nil {
		return false, err
	}
	n := binary.LittleEndian.Uint32(d.buf)
	if n > maxPayload {
		return false, d.corrupt("a block of %d bytes", n)
	}
	if d.buf, err = d.grow(int(n)); err != nil {
		return false, err
	}
	if blockSum(d.buf) != binary.LittleEndian.Uint32(d.buf[5:]) {
		return false, d.corrupt("a block does not match its checksum")
	}
	switch kind := d.buf[4]; kind {
	case kindPairs:
		if err := d.pairs(d.buf[blockHead:]); err != nil {
			return false, err
		}
	case kindEnd:
		return true, d.end(d.buf[blockHead:])
	default:
		return false, d.corrupt("a block of kind %d", kind)
	}
	d.at += int64(len(d.buf))
	return false, nil
}

// grow reads n more bytes behind what is in buf, in pieces: memory is only taken for what is there.
func (d *decoder) grow(n int) ([]byte, error) {
	b := d.buf
	for n > 0 {
		piece := min(n, 1<<20)
		b = append(b, make([]byte, piece)...)
		if err := d.read(b[len(b)-piece:]); err != nil {
			return b, err
		}
		n -= piece
	}
	return b, nil
}

func (d *decoder) pairs(b []byte) error {
	for len(b) > 0 {
		n := int(b[0])
		if len(b) < 1+n {
			return d.corrupt("a keyspace is longer than its block")
		}
		ks := kv.Keyspace(b[1 : 1+n])
		var key, value []byte
		var ok bool
		if key, b, ok = field(b[1+n:]); ok {
			value, b, ok = field(b)
		}
		if !ok {
			return d.corrupt("a pair is longer than its block")
		}
		if err := kv.CheckPut(ks, key, value); err != nil {
			return d.corrupt("%w", err)
		}
		if ks < d.keyspace || ks == d.keyspace && string(key) <= string(d.key) {
			return d.corrupt("%w: %s/%.32q", ErrOrder, ks, key)
		}
		if ks != d.keyspace {
			d.keyspace = ks
			d.digest.AddKeyspace(ks)
		}
		d.key = append(d.key[:0], key...)
		d.digest.Add(key, value)
		if d.fn != nil {
			if err := d.fn(ks, key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// field takes a length and as many bytes off b.
func field(b []byte) (f, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, b, false
	}
	n := int(binary.LittleEndian.Uint32(b))
	if b = b[4:]; n > len(b) {
		return nil, b, false
	}
	return b[:n:n], b[n:], true
}

func (d *decoder) end(b []byte) error {
	if len(b) != endSize {
		return d.corrupt("an end of %d bytes", len(b))
	}
	d.info.Pairs = binary.LittleEndian.Uint64(b)
	d.info.Bytes = binary.LittleEndian.Uint64(b[8:])
	copy(d.info.Sum[:], b[16:])
	if d.info.Pairs != d.digest.Pairs || d.info.Bytes != d.digest.Bytes || d.info.Sum != d.digest.Sum() {
		return d.corrupt("it has %d pairs with %d bytes, which are not the %d with %d that it should have",
			d.digest.Pairs, d.digest.Bytes, d.info.Pairs, d.info.Bytes)
	}
	return nil
}
