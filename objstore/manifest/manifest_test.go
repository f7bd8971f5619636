package manifest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

func genChunk(t *rapid.T) Chunk {
	c := Chunk{K: rapid.IntRange(1, 16).Draw(t, "k"), M: rapid.IntRange(0, 8).Draw(t, "m"), Number: rapid.Uint32().Draw(t, "number"),
		Size: rapid.IntRange(1, 600<<10).Draw(t, "size")}
	if rapid.Bool().Draw(t, "framed") {
		c.Frames = &frames.Table{}
		for i := range frames.Count(c.Size) {
			c.Frames.Lens = append(c.Frames.Lens, rapid.Uint32Range(1, uint32(frames.DecodedLen(c.Size, i))).Draw(t, "len"))
			c.Frames.Sums = append(c.Frames.Sums, rapid.Uint32().Draw(t, "sum"))
		}
	}
	for range c.K + c.M {
		f := Fragment{Disk: objstore.DiskID(rapid.Uint32().Draw(t, "disk")), Version: rapid.Uint32().Draw(t, "version"), Sum: rapid.Uint32().Draw(t, "fsum")}
		f.Unconfirmed = f.Disk != 0 && rapid.Bool().Draw(t, "unconfirmed")
		c.Fragments = append(c.Fragments, f)
	}
	return c
}

func genManifest(t *rapid.T) *Manifest {
	m := &Manifest{ID: rapid.Uint64().Draw(t, "id"), Sum: rapid.Uint32().Draw(t, "msum"),
		Compression: objstore.Compression(rapid.IntRange(0, 2).Draw(t, "compression")), Chunks: []Chunk{}}
	for range rapid.IntRange(0, 4).Draw(t, "chunks") {
		m.Chunks = append(m.Chunks, genChunk(t))
		m.Size += int64(m.Chunks[len(m.Chunks)-1].Size)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := genManifest(t)
		b := m.Encode([]byte("before"))[6:]
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, m)
		}
		if !reflect.DeepEqual(m.Clone(), m) {
			t.Fatal("a clone differs")
		}
	})
}

func TestRecoveryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChunk(t)
		c.Fragments = nil
		r := &Recovery{Name: rapid.StringN(0, 100, 1000).Draw(t, "name"), ID: rapid.Uint64().Draw(t, "id"),
			Size: int64(c.Size) + 5, Offset: 5, Chunks: 2, Chunk: c}
		got, err := DecodeRecovery(r.Encode(nil))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, r)
		}
	})
}

func sample() *Manifest {
	f := []Fragment{{Disk: 1, Sum: 9}, {Disk: 2, Version: 3}, {}}
	return &Manifest{ID: 77, Size: 300000, Compression: objstore.CompressS2, Chunks: []Chunk{
		{K: 2, M: 1, Size: 200000, Frames: &frames.Table{Lens: []uint32{1000, 2000}, Sums: []uint32{1, 2}}, Fragments: f},
		{K: 2, M: 1, Number: 1, Size: 100000, Fragments: f}}}
}

func TestEveryDamageIsRefused(t *testing.T) {
	m := sample()
	b := m.Encode(nil)
	var corrupt *objstore.CorruptError
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := Decode(bad); !errors.As(err, &corrupt) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := Decode(b[:i]); !errors.As(err, &corrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestSafety(t *testing.T) {
	m := sample()
	if spare, full := m.Safety(); spare != 0 || full != 1 || m.Complete() {
		t.Fatal(spare, full)
	}
	m.Chunks[0].Fragments = []Fragment{{Disk: 1}, {Disk: 2, Unconfirmed: true}, {}}
	if spare, full := m.Safety(); spare != -1 || full != 1 {
		t.Fatal(spare, full)
	}
}

// TestBytesPer64MiB holds the metadata of a 64 MiB object at (8,2) with fragments of 4 MiB to its budget.
func TestBytesPer64MiB(t *testing.T) {
	m := &Manifest{ID: 1 << 40, Size: 64 << 20}
	for range 2 {
		c := Chunk{K: 8, M: 2, Size: 32 << 20}
		for d := range 10 {
			c.Fragments = append(c.Fragments, Fragment{Disk: objstore.DiskID(100 + d)})
		}
		m.Chunks = append(m.Chunks, c)
	}
	n := len(m.Encode(nil))
	t.Logf("%d bytes of manifest per 64 MiB", n)
	if n > 250 {
		t.Fatalf("%d bytes", n)
	}
}

// Fuzzing appends the right checksum, so that it gets past it.
func FuzzDecode(f *testing.F) {
	b := sample().Encode(nil)
	f.Add(b[:len(b)-4])
	f.Add([]byte("GM\x01\x01\xff\xff\xff\xff\x7f0000\x00\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Decode(summed(body))
		if err != nil {
			return
		}
		again, err := Decode(m.Encode(nil))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v: %+v became %+v", err, m, again)
		}
	})
}

func FuzzDecodeRecovery(f *testing.F) {
	r := &Recovery{Name: "n", ID: 1, Size: 10, Chunk: Chunk{K: 1, Size: 10}}
	b := r.Encode(nil)
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeRecovery(summed(body))
		if err != nil {
			return
		}
		again, err := DecodeRecovery(r.Encode(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v: %+v became %+v", err, r, again)
		}
	})
}

func summed(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc.Sum(body))
}
