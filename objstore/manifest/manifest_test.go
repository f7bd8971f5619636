package manifest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// genSeal draws a data key, or none.
func genSeal(t *rapid.T) *crypt.Wrapped {
	if !rapid.Bool().Draw(t, "sealed") {
		return nil
	}
	w := &crypt.Wrapped{Key: rapid.Uint32Min(1).Draw(t, "key")}
	copy(w.Box[:], rapid.SliceOfN(rapid.Byte(), len(w.Box), len(w.Box)).Draw(t, "box"))
	return w
}

func genSealedChunk(t *rapid.T) Chunk {
	c := genChunk(t)
	c.Encoding = rapid.Uint32().Draw(t, "encoding")
	whole := rapid.Bool().Draw(t, "whole")
	c.Frames = &frames.Table{}
	for i := range frames.Count(c.Size) {
		most := uint32(frames.DecodedLen(c.Size, i) + frames.Overhead)
		l := most
		if !whole {
			l = rapid.Uint32Range(frames.Overhead+1, most).Draw(t, "len")
		}
		c.Frames.Lens = append(c.Frames.Lens, l)
	}
	return c
}

func genChunk(t *rapid.T) Chunk {
	c := Chunk{K: rapid.IntRange(1, 16).Draw(t, "k"), M: rapid.IntRange(0, 8).Draw(t, "m"), Number: rapid.Uint32().Draw(t, "number"),
		Size: rapid.IntRange(1, 600<<10).Draw(t, "size")}
	switch rapid.IntRange(0, 2).Draw(t, "framed") {
	case 1:
		c.Size *= rapid.IntRange(1, 32).Draw(t, "larger") // more than one group of lengths
		c.Frames = &frames.Table{Summed: true}
		lo := rapid.IntRange(0, frames.Size-1).Draw(t, "from")
		hi := rapid.IntRange(lo, frames.Size-1).Draw(t, "to")
		for i := range frames.Count(c.Size) {
			l := frames.SumLen + 1 + rapid.IntRange(lo, hi).Draw(t, "len")
			c.Frames.Lens = append(c.Frames.Lens, uint32(min(l, frames.DecodedLen(c.Size, i)+frames.SumLen)))
		}
	case 2:
		c.Frames = &frames.Table{}
		for i := range frames.Count(c.Size) {
			c.Frames.Lens = append(c.Frames.Lens, rapid.Uint32Range(1, uint32(frames.DecodedLen(c.Size, i))).Draw(t, "len"))
			c.Frames.Sums = append(c.Frames.Sums, rapid.Uint32().Draw(t, "sum"))
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "digest") == 0 {
		c.Digest = new(Digest)
		copy(c.Digest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "sum"))
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
		Compression: objstore.Compression(rapid.IntRange(0, 2).Draw(t, "compression")), Seal: genSeal(t), Chunks: []Chunk{}}
	for range rapid.IntRange(0, 4).Draw(t, "chunks") {
		gen := genChunk
		if m.Seal != nil {
			gen = genSealedChunk
		}
		m.Chunks = append(m.Chunks, gen(t))
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
		seal, gen := genSeal(t), genChunk
		if seal != nil {
			gen = genSealedChunk
		}
		c := gen(t)
		c.Fragments = nil
		r := &Recovery{Seal: seal, Name: rapid.StringN(0, 100, 1000).Draw(t, "name"), ID: rapid.Uint64().Draw(t, "id"),
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

// sampleSealed is sample, encrypted and with a digest.
func sampleSealed() *Manifest {
	m := sample()
	m.Seal = &crypt.Wrapped{Key: 3}
	for i := range m.Seal.Box {
		m.Seal.Box[i] = byte(i)
	}
	m.Chunks[0].Frames, m.Chunks[0].Encoding = &frames.Table{Lens: []uint32{1000, 68928 + frames.Overhead}}, 1
	m.Chunks[1].Frames, m.Chunks[1].Encoding = &frames.Table{Lens: []uint32{100000 + frames.Overhead}}, 2
	m.Chunks[1].Digest = &Digest{1, 2, 3}
	return m
}

// sampleSummed is sample with sums behind frames, and more frames than are packed together.
func sampleSummed() *Manifest {
	m := sample()
	m.Chunks[0].Frames = &frames.Table{Lens: []uint32{1000, 2000}, Summed: true}
	c := &m.Chunks[1]
	c.Size, c.Frames = 70*frames.Size, &frames.Table{Summed: true}
	m.Size = int64(m.Chunks[0].Size + c.Size)
	for i := range 70 {
		c.Frames.Lens = append(c.Frames.Lens, uint32(40_000+i*i*7%1000))
	}
	c.Frames.Lens[3] = frames.Size + frames.SumLen
	return m
}

func TestEveryDamageIsRefused(t *testing.T) {
	for _, m := range []*Manifest{sample(), sampleSealed(), sampleSummed()} {
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
}

// TestGolden holds all versions to what was written once.
func TestGolden(t *testing.T) {
	recovery := func(m *Manifest) *Recovery {
		c := m.Chunks[0]
		c.Fragments, c.Number = nil, 5
		return &Recovery{Name: "name", ID: m.ID, Size: m.Size, Compression: m.Compression, Seal: m.Seal, Chunks: 2, Chunk: c}
	}
	for name, m := range map[string]*Manifest{"version1": sample(), "version2": sampleSealed(), "version3": sampleSummed()} {
		path := filepath.Join("testdata", name+".golden")
		want := hex.EncodeToString(m.Encode(nil)) + "\n" + hex.EncodeToString(recovery(m).Encode(nil)) + "\n"
		if os.Getenv("GABION_GOLDEN") != "" {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(want), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(raw) != want {
			t.Fatalf("%s: encoded it is\n%swhat was written once is\n%s", name, want, raw)
		}
		lines := strings.Fields(string(raw))
		for i, line := range lines {
			b, err := hex.DecodeString(line)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				got, err := Decode(b)
				if err != nil || !reflect.DeepEqual(got, m) {
					t.Fatalf("%s: %v, %+v", name, err, got)
				}
			} else if got, err := DecodeRecovery(b); err != nil || !reflect.DeepEqual(got, recovery(m)) {
				t.Fatalf("%s: %v, %+v", name, err, got)
			}
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

// TestBytesPer64MiB holds the metadata of a 64 MiB object at (8,2) with fragments of 4 MiB to its budget of 2500
// bytes, whatever its content is. The row's key is the namespace and the name.
func TestBytesPer64MiB(t *testing.T) {
	const key = 4 + 32
	tables := map[string]func(size int) *frames.Table{
		"raw": func(int) *frames.Table { return nil },
		"text": func(size int) *frames.Table { // three times smaller, give or take a few hundred bytes
			return table(size, func(i, decoded int) int { return decoded/3 + i*7919%2048 + frames.SumLen })
		},
		"worst": func(size int) *frames.Table { // no length is like another
			return table(size, func(i, decoded int) int { return 1 + i*104_729%decoded + frames.SumLen })
		},
	}
	for name, of := range tables {
		if n := len(sized(of, true, nil).Encode(nil)) + key; n > 1500 {
			t.Errorf("%s: %d bytes", name, n)
		} else {
			t.Logf("%s: %d bytes", name, n)
		}
	}
	seal := &crypt.Wrapped{Key: 1}
	for name, of := range map[string]func(size int) *frames.Table{
		"whole": func(size int) *frames.Table {
			t := table(size, func(_, decoded int) int { return decoded + frames.Overhead })
			t.Summed = false
			return t
		},
		"compressed": func(size int) *frames.Table {
			t := table(size, func(i, decoded int) int { return 1 + i*104_729%decoded + frames.Overhead })
			t.Summed = false
			return t
		},
	} {
		if n := len(sized(of, true, seal).Encode(nil)) + key; n > 2500 {
			t.Errorf("sealed, %s: %d bytes", name, n)
		} else {
			t.Logf("sealed, %s: %d bytes", name, n)
		}
	}
}

func table(size int, length func(i, decoded int) int) *frames.Table {
	t := &frames.Table{Summed: true}
	for i := range frames.Count(size) {
		t.Lens = append(t.Lens, uint32(length(i, frames.DecodedLen(size, i))))
	}
	return t
}

// sized returns the manifest of 64 MiB at (8,2) in two chunks.
func sized(of func(size int) *frames.Table, digest bool, seal *crypt.Wrapped) *Manifest {
	m := &Manifest{ID: 1 << 40, Size: 64 << 20, Compression: objstore.CompressZstd, Seal: seal}
	for range 2 {
		c := Chunk{K: 8, M: 2, Size: 32 << 20, Frames: of(32 << 20)}
		if digest {
			c.Digest = &Digest{1}
		}
		for d := range 10 {
			c.Fragments = append(c.Fragments, Fragment{Disk: objstore.DiskID(100 + d)})
		}
		m.Chunks = append(m.Chunks, c)
	}
	return m
}

// Fuzzing appends the right checksum, so that it gets past it.
func FuzzDecode(f *testing.F) {
	b := sample().Encode(nil)
	f.Add(b[:len(b)-4])
	b = sampleSealed().Encode(nil)
	f.Add(b[:len(b)-4])
	b = sampleSummed().Encode(nil)
	f.Add(b[:len(b)-4])
	f.Add([]byte("GM\x01\x01\xff\xff\xff\xff\x7f0000\x00\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Decode(withSum(body))
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
	m := sampleSealed()
	b = (&Recovery{Name: "n", ID: 1, Size: 200000, Seal: m.Seal, Chunk: m.Chunks[0]}).Encode(nil)
	f.Add(b[:len(b)-4])
	m = sampleSummed()
	b = (&Recovery{Name: "n", ID: 1, Size: m.Size, Chunk: m.Chunks[1]}).Encode(nil)
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeRecovery(withSum(body))
		if err != nil {
			return
		}
		again, err := DecodeRecovery(r.Encode(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v: %+v became %+v", err, r, again)
		}
	})
}

func withSum(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc.Sum(body))
}
