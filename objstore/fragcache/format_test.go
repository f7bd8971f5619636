package fragcache

import (
	"bytes"
	"testing"

	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// sample is a segment with records, complete or not.
func sample(complete bool) []byte {
	b := segmentHead{main, 7, [16]byte{1, 2}}.append(nil)
	var dir []byte
	count := uint32(0)
	for i, n := range []int{1, PageSize, 300} {
		p := content(i, n)
		r := record{pageKey{keyOf(i, p), uint32(i)}, n, crc.Sum(p)}
		b = append(r.append(b), p...)
		dir = r.append(dir)
		count++
	}
	if complete {
		b = trailer{count, int64(len(b))}.append(append(b, dir...))
	}
	return b
}

func records(t testing.TB, b []byte) (out []record) {
	t.Helper()
	_, end, err := readSegment(bytes.NewReader(b), int64(len(b)), func(r record, at int64) {
		if at < segHeader || at+recHeader+int64(r.n) > int64(len(b)) || r.n < 1 || r.n > PageSize {
			t.Fatalf("record at %d of %d bytes in %d", at, r.n, len(b))
		}
		out = append(out, r)
	})
	if err == nil && (end < segHeader || end > int64(len(b))) {
		t.Fatalf("the records end at %d of %d", end, len(b))
	}
	return out
}

func TestSegment(t *testing.T) {
	for _, complete := range []bool{true, false} {
		b := sample(complete)
		if list := records(t, b); len(list) != 3 || list[1].n != PageSize || list[2].key.page != 2 {
			t.Fatalf("complete %v: %+v", complete, list)
		}
		h, _, err := readSegment(bytes.NewReader(b), int64(len(b)), func(record, int64) {})
		if err != nil || h != (segmentHead{main, 7, [16]byte{1, 2}}) {
			t.Fatal(h, err)
		}
		for n := range len(b) { // cut anywhere, whole records are left
			if n > 400 && n%997 != 0 {
				continue
			}
			records(t, b[:n])
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add(sample(true))
	f.Add(sample(false))
	f.Add(sample(false)[:200])
	f.Add([]byte{})
	f.Add(trailer{1 << 20, segHeader}.append(segmentHead{}.append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range records(t, b) {
			if again, err := parseRecord(r.append(nil)); err != nil || again != r {
				t.Fatalf("%+v, %v, was %+v", again, err, r)
			}
		}
	})
}

func FuzzHeaders(f *testing.F) {
	b := sample(true)
	f.Add(b[:segHeader], b[segHeader:segHeader+recHeader], b[len(b)-trailerLen:])
	f.Add([]byte(segMagic), []byte(recMagic), []byte(endMagic))
	f.Fuzz(func(t *testing.T, head, rec, end []byte) {
		// With the checksums made right the rest of the checks is reached.
		for _, p := range []struct {
			b []byte
			n int
		}{{head, segHeader}, {rec, recHeader}, {end, trailerLen}} {
			if len(p.b) == p.n {
				le.PutUint32(p.b[p.n-4:], crc.Sum(p.b[:p.n-4]))
			}
		}
		if h, err := parseSegmentHead(head); err == nil {
			if again, err := parseSegmentHead(h.append(nil)); err != nil || again != h {
				t.Fatal(again, err)
			}
		}
		if r, err := parseRecord(rec); err == nil && (r.n < 1 || r.n > PageSize || r.key.page >= maxPages) {
			t.Fatalf("%+v", r)
		}
		for _, size := range []int64{0, segHeader, 1000, 1 << 40} {
			if x, err := parseTrailer(end, size); err == nil && x.at+int64(x.count)*recHeader+trailerLen != size {
				t.Fatalf("%+v in %d bytes", x, size)
			}
		}
	})
}
