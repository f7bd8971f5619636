package data

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func FuzzExtent(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{flagInline})
	e := extent{hasInline: true, pieces: []piece{{0, 10, 5, Hash{1}}, {20, BlockSize - 20, 0, Hash{2}}}}
	f.Add(e.encode())
	e.inline = 4096
	f.Add(e.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeExtent(b)
		if err != nil {
			return
		}
		again, err := decodeExtent(e.encode())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v encodes to something that decodes to %+v, %v", e, again, err)
		}
	})
}

func FuzzRows(f *testing.F) {
	b, p := blobRow{refs: 3, pack: 9, off: 100, n: 4096}, packRow{solo: true, blobs: 1, live: 7, total: 7}
	f.Add(b.encode())
	f.Add(p.encode())
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := decodeBlob(in); err == nil {
			if again, err := decodeBlob(b.encode()); err != nil || again != b {
				t.Fatalf("blob row %+v became %+v, %v", b, again, err)
			}
		}
		if p, err := decodePack(in); err == nil {
			if again, err := decodePack(p.encode()); err != nil || again != p {
				t.Fatalf("pack row %+v became %+v, %v", p, again, err)
			}
		}
	})
}

func FuzzPackIndex(f *testing.F) {
	b := packBuilder{pool: new(bufPool)}
	b.add(Hash{1}, []byte("one"))
	b.add(Hash{2}, []byte("second"))
	p := b.seal()
	f.Add(p[9:], int64(len(p)))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		index, err := decodePackIndex(b, size)
		if err != nil {
			return
		}
		for _, e := range index {
			if int64(e.off)+int64(e.n) > size-int64(len(b)) {
				t.Fatalf("entry %+v leaves a pack of %d bytes", e, size)
			}
		}
	})
}

func TestPack(t *testing.T) {
	b := packBuilder{pool: new(bufPool)}
	contents := [][]byte{[]byte("one"), bytes.Repeat([]byte("x"), 100000), []byte("z")}
	for i, c := range contents {
		if !b.room(len(c)) {
			t.Fatal("no room")
		}
		b.add(Hash{byte(i)}, c)
	}
	p := b.seal()
	n, err := packIndexSize(p[len(p)-packTail:], int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	index, err := decodePackIndex(p[len(p)-packTail-int(n):], int64(len(p)))
	if err != nil || len(index) != len(contents) {
		t.Fatal(index, err)
	}
	for i, e := range index {
		if e.hash != (Hash{byte(i)}) || !bytes.Equal(p[e.off:e.off+e.n], contents[i]) {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	for i := len(p) - packTail - int(n); i < len(p); i++ {
		p[i] ^= 0x40
		tail := p[len(p)-packTail-int(n):]
		if _, err := decodePackIndex(tail, int64(len(p))); err == nil {
			t.Errorf("a flipped bit in byte %d of %d is not noticed", i, len(p))
		}
		p[i] ^= 0x40
	}
}

// TestPackFull fills a pack to the last byte.
func TestPackFull(t *testing.T) {
	b := packBuilder{pool: new(bufPool)}
	for i := 0; b.room(1000 + i%7); i++ {
		b.add(Hash{byte(i), byte(i >> 8)}, make([]byte, 1000+i%7))
	}
	if p := b.seal(); len(p) > maxPack || len(p) < maxPack-2000 {
		t.Fatalf("a full pack has %d bytes", len(p))
	}
}

// TestExtentModel compares cut and lay with a block in which every byte knows its blob.
func TestExtentModel(t *testing.T) {
	type cell struct {
		h    byte
		boff uint32
	}
	const size = 64
	rapid.Check(t, func(t *rapid.T) {
		var model [size]*cell
		var e extent
		held := map[byte]int{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			from := rapid.Uint32Range(0, size-1).Draw(t, "from")
			to := rapid.Uint32Range(from+1, size).Draw(t, "to")
			refs := refDelta{}
			if rapid.Bool().Draw(t, "cut") {
				e.cut(from, to, refs)
				clear(model[from:to])
			} else {
				h, boff := byte(i%5), rapid.Uint32Range(0, 9).Draw(t, "boff")
				e.lay(piece{from, to - from, boff, Hash{h}}, refs)
				for x := from; x < to; x++ {
					model[x] = &cell{h, boff + x - from}
				}
			}
			for h, d := range refs {
				held[h[0]] += d
			}
			var got [size]*cell
			count := map[byte]int{}
			last := uint32(0)
			for _, p := range e.pieces {
				if p.off < last || p.n == 0 || p.end() > size {
					t.Fatalf("pieces %+v", e.pieces)
				}
				last = p.end()
				count[p.hash[0]]++
				for x := p.off; x < p.end(); x++ {
					got[x] = &cell{p.hash[0], p.boff + x - p.off}
				}
			}
			if !reflect.DeepEqual(got, model) {
				t.Fatalf("pieces %+v", e.pieces)
			}
			for h := range byte(5) {
				if held[h] != count[h] {
					t.Fatalf("blob %d: %d references were counted, there are %d pieces", h, held[h], count[h])
				}
			}
		}
	})
}

// TestDirtyModel compares a dirty block with an array, and what it says to hold with its buffers.
func TestDirtyModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 200
		var model [size]byte
		var dirty [size]bool
		var d dirtyBlock
		pool := new(bufPool)
		held := int64(0)
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			from := rapid.IntRange(0, size-1).Draw(t, "from")
			to := rapid.IntRange(from+1, size).Draw(t, "to")
			if rapid.IntRange(0, 3).Draw(t, "cut") == 0 {
				held += d.cut(uint32(from), uint32(to), pool)
				for x := from; x < to; x++ {
					dirty[x] = false
				}
			} else {
				p := bytes.Repeat([]byte{byte(i + 1)}, to-from)
				held += d.write(uint32(from), p, pool)
				copy(model[from:], p)
				for x := from; x < to; x++ {
					dirty[x] = true
				}
			}
			var got [size]byte
			holes := map[int]bool{}
			d.fill(0, got[:], func(from, to int) {
				for x := from; x < to; x++ {
					holes[x] = true
				}
			})
			sum := int64(0)
			for _, s := range d.spans {
				sum += int64(cap(s.b))
			}
			if sum > held {
				t.Fatalf("%d bytes are held, %d are accounted", sum, held)
			}
			for x := range model {
				if dirty[x] == holes[x] || dirty[x] && got[x] != model[x] {
					t.Fatalf("byte %d: dirty %v, hole %v, %d instead of %d", x, dirty[x], holes[x], got[x], model[x])
				}
			}
		}
	})
}
