package asd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// salvageRig is an ASD with a history, and where its records lie.
type salvageRig struct {
	orig  string // pristine
	asd   ID
	files map[string][]byte          // of the segments, by name
	want  map[string][]byte          // what is there
	ever  map[string]map[string]bool // every payload that a key has had
	at    map[string]place
}

type place struct {
	file            string
	frame, metaEnd  int64 // of the frame's header and ops
	payload, length int64
}

func newSalvageRig(t *testing.T, base string) *salvageRig {
	r := &salvageRig{orig: filepath.Join(base, "orig"), files: make(map[string][]byte), want: make(map[string][]byte),
		ever: make(map[string]map[string]bool), at: make(map[string]place)}
	if _, err := Format(r.orig, testCluster); err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, r.orig, Options{SegmentSize: 1 << 20, Compaction: Compaction{Mode: CompactManual}})
	gen := rand.New(rand.NewPCG(5, 6))
	for i := range 200 {
		k := fmt.Sprintf("key-%02d", gen.IntN(60))
		if gen.IntN(5) == 0 {
			del(t, a, k)
			delete(r.want, k)
			continue
		}
		p := payload(gen.IntN(30<<10), uint64(i))
		put(t, a, k, p)
		r.want[k] = p
		if r.ever[k] == nil {
			r.ever[k] = make(map[string]bool)
		}
		r.ever[k][string(p)] = true
		if i == 100 {
			if err := a.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.asd = a.Identity().ASD
	for k := range r.want {
		e, err := a.lookup([]byte(k))
		if err != nil {
			t.Fatal(err)
		}
		r.at[k] = place{file: filepath.Base(a.table.segments[e.segment].path), frame: int64(e.page) * pageSize,
			payload: e.payloadOffset(), length: int64(e.size)}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	list, _ := filepath.Glob(filepath.Join(r.orig, segmentsName, "*"))
	for _, name := range list {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		r.files[filepath.Base(name)] = b
	}
	for k, p := range r.at {
		h, err := decodeFrame(r.files[p.file][p.frame:])
		if err != nil {
			t.Fatal(err)
		}
		p.metaEnd = p.frame + frameHeader + int64(h.metaLen)
		r.at[k] = p
	}
	return r
}

// intact reports whether the payload, and whether the frame's head, are on the medium as they were written.
func (r *salvageRig) intact(dir, key string) (payload, head bool) {
	p := r.at[key]
	now, err := os.ReadFile(filepath.Join(dir, segmentsName, p.file))
	if err != nil {
		return false, false
	}
	same := func(from, to int64) bool {
		return to <= int64(len(now)) && bytes.Equal(now[from:to], r.files[p.file][from:to])
	}
	return same(p.payload, p.payload+p.length), same(p.frame, p.metaEnd)
}

// treeSum is a checksum of all files of a folder.
func treeSum(t testing.TB, dir string) (sum [32]byte) {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Sum(sum[:0])
	return sum
}

// harm damages a folder once, and reports whether the index was hit.
func (r *salvageRig) harm(rt *rapid.T, dir string) (index bool) {
	list, _ := filepath.Glob(filepath.Join(dir, segmentsName, "*"))
	what := rapid.SampledFrom([]string{"flip", "garbage", "zeroes", "header", "truncate", "remove", "no index", "flip index", "no format"}).Draw(rt, "harm")
	if len(list) == 0 {
		return false
	}
	name := rapid.SampledFrom(list).Draw(rt, "file")
	b, err := os.ReadFile(name)
	if err != nil {
		rt.Fatal(err)
	}
	gen := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
	some := func(max int) []byte {
		if len(b) == 0 {
			return nil
		}
		at := gen.IntN(len(b))
		return b[at:min(len(b), at+1+gen.IntN(max))]
	}
	noise := func(p []byte) {
		for i := range p {
			p[i] = byte(gen.Uint32())
		}
	}
	switch what {
	case "flip":
		if p := some(1); p != nil {
			p[0] ^= 1 << gen.IntN(8)
		}
	case "garbage":
		noise(some(80 << 10))
	case "zeroes":
		clear(some(80 << 10))
	case "header":
		noise(b[:min(len(b), segmentStart+gen.IntN(2)*frameHeader)])
	case "truncate":
		b = b[:gen.IntN(len(b)+1)]
	case "remove":
		if err := os.Remove(name); err != nil {
			rt.Fatal(err)
		}
		return false
	case "no index":
		os.RemoveAll(filepath.Join(dir, indexName))
		return true
	case "flip index":
		list, _ := filepath.Glob(filepath.Join(dir, indexName, "*"))
		if len(list) == 0 {
			return true
		}
		name = list[gen.IntN(len(list))]
		if b, err = os.ReadFile(name); err != nil {
			rt.Fatal(err)
		}
		if p := some(64); p != nil {
			noise(p)
		}
		index = true
	case "no format":
		os.Remove(filepath.Join(dir, formatName))
		return false
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		rt.Fatal(err)
	}
	return index
}

// TestSalvage damages a disk at random. Every record that is intact on the medium is in the new folder, nothing there is
// wrong, what is lost is named, and the damaged folder is left as it was.
func TestSalvage(t *testing.T) {
	base := memoryDir(t)
	r := newSalvageRig(t, base)
	dir, to := filepath.Join(base, "asd"), filepath.Join(base, "to")
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue && os.Getenv("GABION_LONG") == "" {
		f.Value.Set("30") // each costs three opens of an index
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		copyTree(t, r.orig, dir)
		if err := os.RemoveAll(to); err != nil {
			rt.Fatal(err)
		}
		indexHit, harms := false, rapid.IntRange(0, 3).Draw(rt, "harms")
		for range harms {
			hit := r.harm(rt, dir)
			indexHit = indexHit || hit
		}
		before := treeSum(t, dir)
		named := make(map[string]bool)
		o := SalvageOptions{Cluster: testCluster, Scratch: base, Problem: func(p Problem) {
			if p.Lost {
				named[string(p.Key)] = true
			}
		}}
		verified, err := Verify(t.Context(), dir, o)
		if err != nil {
			rt.Fatalf("verify: %v", err)
		}
		clear(named)
		rep, err := Recover(t.Context(), dir, to, o)
		if err != nil {
			rt.Fatalf("recover: %v", err)
		}
		if verified.Records != rep.Records || verified.Lost != rep.Lost || verified.Damaged != rep.Damaged {
			rt.Fatalf("verify found %+v, recover %+v", verified, rep)
		}
		if treeSum(t, dir) != before {
			rt.Fatal("the damaged folder was changed")
		}
		a, err := Open(t.Context(), to, Options{Cluster: testCluster, ASD: r.asd})
		if err != nil {
			rt.Fatal(err)
		}
		defer a.Close()
		got := make(map[string]bool)
		err = a.Iterate(t.Context(), nil, nil, func(rec Record) error {
			k := string(rec.Key)
			got[k] = true
			switch {
			case rec.Err != nil:
				return rec.Err
			case bytes.Equal(rec.Payload, r.want[k]) && r.want[k] != nil:
				return nil
			case indexHit && harms > 1 && r.ever[k][string(rec.Payload)]:
				return nil // nothing was left that says that it was replaced or deleted
			}
			return fmt.Errorf("%s: wrong content", k)
		})
		if err != nil {
			rt.Fatal(err)
		}
		if int64(len(got)) != rep.Records {
			rt.Fatalf("%d records are there, %d were reported", len(got), rep.Records)
		}
		for k := range r.want {
			payload, head := r.intact(dir, k)
			switch {
			case payload && (head || !indexHit) && !got[k]:
				rt.Fatalf("%s is intact on the medium, and was not saved: %+v", k, rep)
			case !got[k] && !indexHit && !named[k]:
				rt.Fatalf("%s is lost, and not named", k)
			}
			if payload && head && got[k] {
				if h, err := a.Head(t.Context(), []byte(k)); err != nil || string(h.Info) != "info of "+k {
					rt.Fatalf("%s: info %q, %v", k, h.Info, err)
				}
			}
		}
		if rep.Rebuilt && !indexHit {
			rt.Fatal("the index was whole, and was rebuilt")
		}
	})
}

// TestSalvageIntact: nothing is found where nothing is wrong, also after a crash.
func TestSalvageIntact(t *testing.T) {
	base := t.TempDir()
	r := newSalvageRig(t, base)
	rep, err := Verify(t.Context(), r.orig, SalvageOptions{})
	if err != nil || !rep.Intact() || rep.Records != int64(len(r.want)) || rep.Identity.ASD != r.asd {
		t.Fatalf("%+v, %v", rep, err)
	}
	a := mustOpen(t, r.orig, Options{SegmentSize: 1 << 20})
	put(t, a, "new", payload(5000, 1))
	_, err = Verify(t.Context(), r.orig, SalvageOptions{})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Fatalf("of a live one: %v", err)
	}
	// As a crash leaves it: nothing is flushed.
	a.closed.Store(true)
	close(a.stop)
	a.done.Wait()
	a.abandon()
	crashed := r.orig
	to := filepath.Join(base, "to")
	var last int64
	rep, err = Recover(t.Context(), crashed, to, SalvageOptions{Progress: func(done, total int64) {
		if done < last || done > total {
			t.Errorf("progress %d after %d, of %d", done, last, total)
		}
		last = done
	}})
	if err != nil || !rep.Intact() || rep.Records != int64(len(r.want))+1 || last == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	b := mustOpen(t, to, Options{})
	for k, p := range r.want {
		check(t, b, k, p)
	}
	if _, err := Recover(t.Context(), crashed, to, SalvageOptions{}); !errors.Is(err, ErrClaimed) && !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("to a folder that holds an ASD: %v", err)
	}
}
