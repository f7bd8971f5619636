package frames

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

func text(n int) []byte {
	return []byte(strings.Repeat("the quick brown fox jumps over the lazy dog 0123456789\n", n/55+1))[:n]
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(p)
	return p
}

func both(t *testing.T, fn func(t *testing.T, how objstore.Compression)) {
	for _, how := range []objstore.Compression{objstore.CompressS2, objstore.CompressZstd} {
		t.Run(fmt.Sprint("compression", how), func(t *testing.T) { fn(t, how) })
	}
}

var here = Place{Object: 7, Offset: 32 << 20}

func decodeAll(c *Codec, enc []byte, size int, table *Table, how objstore.Compression) ([]byte, error) {
	out := make([]byte, size)
	for i, l := range table.Lens {
		if err := c.DecodeSummed(out[i*Size:i*Size+DecodedLen(size, i)], enc[:l], here, i, how); err != nil {
			return nil, err
		}
		enc = enc[l:]
	}
	return out, nil
}

func TestRoundTrip(t *testing.T) {
	both(t, func(t *testing.T, how objstore.Compression) {
		var c Codec
		defer c.Close()
		mixed := append(noise(3*Size), text(4*Size)...)
		for _, src := range [][]byte{text(minChunk), text(Size), text(Size + 1), text(5*Size - 1), mixed} {
			dst := make([]byte, len(src))
			n, table, sum, err := c.Encode(dst, src, how, here)
			if err != nil || table == nil || n != table.Len() || n >= len(src) || sum != crc.Sum(src) {
				t.Fatalf("%d bytes: %d, %v, %v", len(src), n, table, err)
			}
			out, err := decodeAll(&c, dst[:n], len(src), table, how)
			if err != nil || !bytes.Equal(out, src) {
				t.Fatalf("%d bytes: %v", len(src), err)
			}
			if table.Sum(len(src), here, func(p []byte, off int) { copy(p, dst[off:n]) }) != crc.Sum(src) {
				t.Fatal("the table's sum is not the chunk's")
			}
		}
	})
}

// TestTablesWithSums are those of manifests of versions 1 and 2.
func TestTablesWithSums(t *testing.T) {
	both(t, func(t *testing.T, how objstore.Compression) {
		var c Codec
		defer c.Close()
		src := append(text(Size), noise(1000)...)
		var table Table
		out := make([]byte, len(src))
		for i := range Count(len(src)) {
			frame := src[i*Size:][:DecodedLen(len(src), i)]
			enc, err := c.shrink(make([]byte, maxEncoded), frame, how)
			if err != nil {
				t.Fatal(err)
			}
			table.Lens, table.Sums = append(table.Lens, uint32(len(enc))), append(table.Sums, crc.Sum(frame))
			if err := c.Decode(out[i*Size:][:len(frame)], enc, table.Sums[i], how); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out, src) || table.Sum(len(src), here, nil) != crc.Sum(src) {
			t.Fatal("not what was encoded")
		}
	})
}

func TestWhatDoesNotPayStaysRaw(t *testing.T) {
	both(t, func(t *testing.T, how objstore.Compression) {
		var c Codec
		defer c.Close()
		for _, src := range [][]byte{nil, text(100), noise(Size), noise(9 * Size)} {
			dst := make([]byte, len(src))
			n, table, _, err := c.Encode(dst, src, how, here)
			if err != nil || table != nil || !bytes.Equal(dst[:n], src) {
				t.Fatalf("%d bytes: %d, %v, %v", len(src), n, table, err)
			}
		}
	})
}

func TestDamageIsSeen(t *testing.T) {
	both(t, func(t *testing.T, how objstore.Compression) {
		var c Codec
		defer c.Close()
		src := text(Size)
		dst := make([]byte, len(src))
		n, _, _, err := c.Encode(dst, src, how, here)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, len(src))
		for i := range n {
			dst[i] ^= 0x10
			err := c.DecodeSummed(out, dst[:n], here, 0, how)
			// A flip may leave the content as it is (unused bits); a wrong content must never pass.
			if err == nil && !bytes.Equal(out, src) {
				t.Fatalf("byte %d flipped: wrong content decoded without an error", i)
			}
			var corrupt *objstore.CorruptError
			if err != nil && !errors.As(err, &corrupt) {
				t.Fatalf("byte %d: error %v has the wrong type", i, err)
			}
			dst[i] ^= 0x10
		}
		if err := c.DecodeSummed(out[:len(out)-1], dst[:n], here, 0, how); err == nil {
			t.Fatal("decoded to the wrong length")
		}
	})
}

// TestFramesStayWhereTheyBelong: a frame that is whole but from another place is refused.
func TestFramesStayWhereTheyBelong(t *testing.T) {
	var c Codec
	defer c.Close()
	src := text(2 * Size)
	copy(src[Size:], src[:Size]) // two frames of the same content
	dst := make([]byte, len(src))
	_, table, _, err := c.Encode(dst, src, objstore.CompressS2, here)
	if err != nil {
		t.Fatal(err)
	}
	enc, out := dst[:table.Lens[0]], make([]byte, Size)
	if err := c.DecodeSummed(out, enc, here, 0, objstore.CompressS2); err != nil {
		t.Fatal(err)
	}
	for _, at := range []Place{{Object: 8, Offset: here.Offset}, {Object: 7}} {
		if err := c.DecodeSummed(out, enc, at, 0, objstore.CompressS2); err == nil {
			t.Fatalf("decoded at %+v", at)
		}
	}
	var corrupt *objstore.CorruptError
	for _, enc := range [][]byte{enc, nil, enc[:SumLen]} {
		if err := c.DecodeSummed(out, enc, here, 1, objstore.CompressS2); !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var c Codec
	src := text(1000)
	for _, how := range []objstore.Compression{objstore.CompressS2, objstore.CompressZstd} {
		enc, err := c.encode(make([]byte, maxEncoded), src, how)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(enc), 1000, uint8(how))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, 1000, uint8(1))
	f.Fuzz(func(t *testing.T, enc []byte, size int, how uint8) {
		if size < 0 || size > Size {
			return
		}
		_ = c.Decode(make([]byte, size), enc, 0, objstore.Compression(how))
	})
}

func BenchmarkEncode(b *testing.B) {
	for name, src := range map[string][]byte{"text": text(4 << 20), "noise": noise(4 << 20)} {
		for _, how := range []objstore.Compression{objstore.CompressS2, objstore.CompressZstd} {
			b.Run(fmt.Sprintf("%s/%d", name, how), func(b *testing.B) {
				var c Codec
				defer c.Close()
				dst := make([]byte, len(src))
				b.SetBytes(int64(len(src)))
				for b.Loop() {
					if _, _, _, err := c.Encode(dst, src, how, here); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
