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

func decodeAll(c *Codec, enc []byte, size int, table *Table, how objstore.Compression) ([]byte, error) {
	out := make([]byte, size)
	for i, l := range table.Lens {
		if err := c.Decode(out[i*Size:i*Size+DecodedLen(size, i)], enc[:l], table.Sums[i], how); err != nil {
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
			n, table, err := c.Encode(dst, src, how)
			if err != nil || table == nil || n != table.Len() || n >= len(src) {
				t.Fatalf("%d bytes: %d, %v, %v", len(src), n, table, err)
			}
			out, err := decodeAll(&c, dst[:n], len(src), table, how)
			if err != nil || !bytes.Equal(out, src) {
				t.Fatalf("%d bytes: %v", len(src), err)
			}
			if table.Sum(len(src)) != crc.Sum(src) {
				t.Fatal("the table's sum is not the chunk's")
			}
		}
	})
}

func TestWhatDoesNotPayStaysRaw(t *testing.T) {
	both(t, func(t *testing.T, how objstore.Compression) {
		var c Codec
		defer c.Close()
		for _, src := range [][]byte{nil, text(100), noise(Size), noise(9 * Size)} {
			dst := make([]byte, len(src))
			n, table, err := c.Encode(dst, src, how)
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
		n, table, err := c.Encode(dst, src, how)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, len(src))
		for i := range n {
			dst[i] ^= 0x10
			err := c.Decode(out, dst[:n], table.Sums[0], how)
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
		if err := c.Decode(out[:len(out)-1], dst[:n], table.Sums[0], how); err == nil {
			t.Fatal("decoded to the wrong length")
		}
	})
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
					if _, _, err := c.Encode(dst, src, how); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
