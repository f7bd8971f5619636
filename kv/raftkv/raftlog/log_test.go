package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openLog(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(Options{Dir: dir, SegmentBytes: 16 << 10, MarkAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// crash closes the files without the orderly end.
func (l *Log) crash() {
	l.idle.Stop()
	close(l.stop)
	l.workers.Wait()
	_ = l.closeFiles()
}

func entryOf(i uint64, size int) *raft.Log {
	rng := rand.New(rand.NewPCG(i, uint64(size)))
	data := make([]byte, size)
	for j := range data {
		data[j] = byte(rng.Uint32())
	}
	e := &raft.Log{Index: i, Term: i/10 + 1, Type: raft.LogCommand, Data: data, AppendedAt: time.Unix(0, int64(i+1))}
	if i%3 == 0 {
		e.Extensions = []byte(fmt.Sprint("ext", i))
	}
	return e
}

func same(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

func store(t testing.TB, l *Log, from, to uint64, size int) {
	t.Helper()
	var batch []*raft.Log
	for i := from; i <= to; i++ {
		batch = append(batch, entryOf(i, size))
	}
	if err := l.StoreLogs(batch); err != nil {
		t.Fatal(err)
	}
}

// checkLog compares the whole log with what it should hold.
func checkLog(t interface {
	Helper()
	Fatalf(string, ...any)
}, l *Log, want []*raft.Log, next uint64) {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if len(want) == 0 {
		if last >= next {
			t.Fatalf("log has %d to %d, want nothing from %d on", first, last, next)
		}
		return
	}
	// Truncation at the front drops whole segments only after a restart.
	if first > want[0].Index || last != want[len(want)-1].Index {
		t.Fatalf("log has %d to %d, want %d to %d", first, last, want[0].Index, want[len(want)-1].Index)
	}
	for _, w := range want {
		var got raft.Log
		if err := l.GetLog(w.Index, &got); err != nil {
			t.Fatalf("entry %d: %v", w.Index, err)
		}
		if !same(&got, w) {
			t.Fatalf("entry %d differs", w.Index)
		}
	}
	var out raft.Log
	if err := l.GetLog(last+1, &out); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("entry past the end: %v", err)
	}
}

// TestModel runs random operations, restarts and crashes against a slice.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "raftlog")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		open := func() *Log {
			l, err := Open(Options{Dir: dir, SegmentBytes: 16 << 10, MarkAfter: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		defer func() { l.Close() }()
		var want []*raft.Log
		next := uint64(1)
		term := uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { checkLog(t, l, want, next) },
			"store": func(t *rapid.T) {
				n := rapid.IntRange(1, 5).Draw(t, "n")
				var batch []*raft.Log
				for range n {
					e := entryOf(next, rapid.SampledFrom([]int{0, 1, 7, 8, 100, 4000, 9000, 40000}).Draw(t, "size"))
					e.Term = term
					batch = append(batch, e)
					next++
				}
				if err := l.StoreLogs(batch); err != nil {
					t.Fatal(err)
				}
				want = append(want, batch...)
			},
			"truncate": func(t *rapid.T) {
				if len(want) == 0 {
					return
				}
				keep := rapid.IntRange(0, len(want)-1).Draw(t, "keep")
				if err := l.DeleteRange(want[keep].Index, want[len(want)-1].Index); err != nil {
					t.Fatal(err)
				}
				next = want[keep].Index
				want = want[:keep]
				term++
			},
			"compact": func(t *rapid.T) {
				if len(want) == 0 {
					return
				}
				n := rapid.IntRange(0, len(want)-1).Draw(t, "n")
				first, _ := l.FirstIndex()
				if err := l.DeleteRange(first, want[n].Index); err != nil {
					t.Fatal(err)
				}
				want = want[n+1:]
				if len(want) == 0 {
					next += uint64(rapid.IntRange(0, 3).Draw(t, "gap")) // as after a snapshot
				}
			},
			"reopen": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "crash") {
					l.crash()
				} else if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = open()
			},
		})
	})
}

func TestRefusesGaps(t *testing.T) {
	l := openLog(t, t.TempDir())
	defer l.Close()
	store(t, l, 1, 3, 10)
	for _, at := range []uint64{1, 3, 5} {
		if err := l.StoreLog(entryOf(at, 10)); err == nil {
			t.Errorf("entry %d was accepted behind 3", at)
		}
	}
	if err := l.DeleteRange(2, 2); err == nil {
		t.Error("a hole was accepted")
	}
	store(t, l, 4, 4, 10)
}

// TestSpaceIsBounded: a log that is truncated as it grows stays within a few segments.
func TestSpaceIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	defer l.Close()
	for i := uint64(1); i < 400; i++ {
		store(t, l, i, i, 1000)
		if i > 20 {
			first, _ := l.FirstIndex()
			if err := l.DeleteRange(first, i-20); err != nil {
				t.Fatal(err)
			}
		}
	}
	var total int64
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if fi, err := f.Info(); err == nil {
			total += fi.Size()
		}
	}
	if limit := int64((3 + maxSpares + 1) * 16 << 10); total > limit {
		t.Errorf("%d files take %d bytes, want at most %d", len(files), total, limit)
	}
	if got := l.Bytes(); got > total || got < total-4*blockSize {
		t.Errorf("Bytes says %d, the files take %d", got, total)
	}
}

// TestTornTail: whatever a crash leaves of the last batch, everything before it is kept, nothing of
// the batch but a beginning is, and the log goes on.
func TestTornTail(t *testing.T) {
	for seed := range uint64(60) {
		dir := t.TempDir()
		l := openLog(t, dir)
		store(t, l, 1, 3, 300)
		store(t, l, 4, 4, 50)
		s := l.active()
		from := s.end
		store(t, l, 5, 8, 200)
		to := s.end
		l.crash()
		// The blocks of a batch reach the disk in any order, or not at all.
		rng := rand.New(rand.NewPCG(seed, 1))
		b, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for at := from; at < to; at += 64 {
			if rng.IntN(3) == 0 {
				clear(b[at:min(at+64, to)])
			}
		}
		if err := os.WriteFile(s.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for round := range 3 { // the remains of the torn batch never come back
			l = openLog(t, dir)
			last, _ := l.LastIndex()
			if round == 0 && (last < 4 || last > 8) {
				t.Fatalf("seed %d: the log ends at %d", seed, last)
			}
			store(t, l, last+1, last+1, int(40*seed)%700)
			var want []*raft.Log
			for i := uint64(1); i <= 3; i++ {
				want = append(want, entryOf(i, 300))
			}
			for _, w := range want {
				var got raft.Log
				if err := l.GetLog(w.Index, &got); err != nil || !same(&got, w) {
					t.Fatalf("seed %d: entry %d: %v", seed, w.Index, err)
				}
			}
			if now, _ := l.LastIndex(); now != last+1 {
				t.Fatalf("seed %d: the log ends at %d, want %d", seed, now, last+1)
			}
			if round == 1 {
				l.crash()
			} else if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFlippedByte: one damaged byte anywhere is reported or does no harm. Only the last batch before a
// crash, without a mark behind it, may be lost.
func TestFlippedByte(t *testing.T) {
	build := func(dir string, end func(*Log)) {
		l := openLog(t, dir)
		if err := l.SetUint64([]byte("CurrentTerm"), 7); err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 30; i++ {
			store(t, l, i, i, 900)
		}
		end(l)
	}
	for name, c := range map[string]struct {
		end  func(*Log)
		last uint64 // entries up to here must survive or be reported
	}{
		"closed":  {func(l *Log) { l.Close() }, 30},
		"marked":  {func(l *Log) { l.mark(); l.crash() }, 30},
		"crashed": {func(l *Log) { l.crash() }, 29},
	} {
		t.Run(name, func(t *testing.T) {
			master := t.TempDir()
			build(master, c.end)
			files, _ := os.ReadDir(master)
			rng := rand.New(rand.NewPCG(3, 4))
			for _, f := range files {
				content, err := os.ReadFile(filepath.Join(master, f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				reported := 0
				for range 60 {
					at := rng.IntN(len(content))
					if rng.IntN(2) == 0 {
						at = rng.IntN(min(len(content), 6000))
					}
					dir := t.TempDir()
					if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
						t.Fatal(err)
					}
					b := bytes.Clone(content)
					b[at] ^= 1 << rng.IntN(8)
					if err := os.WriteFile(filepath.Join(dir, f.Name()), b, 0o600); err != nil {
						t.Fatal(err)
					}
					l, err := Open(Options{Dir: dir, SegmentBytes: 16 << 10})
					if err != nil {
						var c *kv.CorruptError
						if !errors.As(err, &c) || !strings.Contains(c.What, f.Name()) {
							t.Fatalf("byte %d of %s: %v", at, f.Name(), err)
						}
						reported++
						continue
					}
					if n, err := l.GetUint64([]byte("CurrentTerm")); n != 7 {
						t.Fatalf("byte %d of %s: term %d, %v", at, f.Name(), n, err)
					}
					var got raft.Log
					for i := uint64(1); i <= c.last; i++ {
						if err := l.GetLog(i, &got); err != nil || !same(&got, entryOf(i, 900)) {
							t.Fatalf("byte %d of %s: entry %d: %v", at, f.Name(), i, err)
						}
					}
					l.Close()
				}
				t.Logf("%s: %d of 60 reported, the others harmless", f.Name(), reported)
			}
		})
	}
}

func TestMissingFiles(t *testing.T) {
	for _, name := range []string{"vote", segmentName(1), segmentName(2)} {
		dir := t.TempDir()
		l := openLog(t, dir)
		if err := l.Set([]byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 40; i++ {
			store(t, l, i, i, 900)
		}
		l.Close()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		l, err := Open(Options{Dir: dir})
		var c *kv.CorruptError
		if name == segmentName(1) {
			// The oldest segment may be gone for good reasons; the store above sees the gap.
			if err != nil {
				t.Fatal(err)
			}
			if first, _ := l.FirstIndex(); first < 2 {
				t.Errorf("the log begins at %d", first)
			}
			l.Close()
		} else if !errors.As(err, &c) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// TestVoteTorn: a crash in the middle of a change leaves the old or the new vote.
func TestVoteTorn(t *testing.T) {
	key := []byte("LastVoteTerm")
	for cut := 0; cut <= 2*blockSize; cut += 128 {
		dir := t.TempDir()
		l := openLog(t, dir)
		if err := l.SetUint64(key, 1); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, voteFile)
		before, _ := os.ReadFile(path)
		if err := l.SetUint64(key, 2); err != nil {
			t.Fatal(err)
		}
		after, _ := os.ReadFile(path)
		l.Close()
		if err := os.WriteFile(path, append(bytes.Clone(after[:cut]), before[cut:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		l = openLog(t, dir)
		if n, err := l.GetUint64(key); n != 1 && n != 2 || n == 1 && cut >= blockSize {
			t.Errorf("cut at %d: vote %d, %v", cut, n, err)
		}
		l.Close()
	}
}

// TestFailureLatches: after a write failed nothing is accepted any more.
func TestFailureLatches(t *testing.T) {
	var told []error
	l, err := Open(Options{Dir: t.TempDir(), OnFailure: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	store(t, l, 1, 1, 10)
	healthy := l.active().file
	if l.active().file, err = os.Open(l.active().path); err != nil { // read only: writes fail
		t.Fatal(err)
	}
	if err := l.StoreLog(entryOf(2, 10)); err == nil {
		t.Fatal("the write succeeded")
	}
	l.active().file.Close()
	l.active().file = healthy
	if err := l.StoreLog(entryOf(2, 10)); err == nil {
		t.Error("a write after a failed one succeeded")
	}
	if err := l.DeleteRange(1, 1); err == nil {
		t.Error("a truncation after a failed write succeeded")
	}
	if len(told) != 1 {
		t.Errorf("told %d times", len(told))
	}
	l.Close()
}

func FuzzRecord(f *testing.F) {
	var b [recordHeader + 16]byte
	r := record{kind: kindEntry, length: 16, extensions: 3, index: 5, term: 2, batch: 9, last: true}
	r.put(b[:])
	binary.LittleEndian.PutUint32(b[:], sum(77, 4096, b[:recordHeader], b[recordHeader:]))
	f.Add(b[:], uint64(77), int64(4096))
	f.Add(b[:40], uint64(77), int64(4096))
	f.Fuzz(func(t *testing.T, b []byte, epoch uint64, at int64) {
		r, payload, ok := parse(b, epoch, at)
		if !ok {
			return
		}
		if int(r.length) != len(payload) || r.extensions > r.length {
			t.Fatalf("payload of %d bytes, header says %d and %d", len(payload), r.length, r.extensions)
		}
		if _, _, ok := parse(b, epoch+1, at); ok {
			t.Fatal("a record of another epoch was accepted")
		}
	})
}

func FuzzVote(f *testing.F) {
	v := &Vote{changes: 3, values: map[string][]byte{"CurrentTerm": {1, 2}, "": nil}}
	b, err := v.block()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		n, values, err := parseVote(b)
		if err != nil {
			return
		}
		again := &Vote{changes: n, values: values}
		c, err := again.block()
		if err != nil {
			t.Fatal(err)
		}
		if m, _, err := parseVote(c); err != nil || m != n {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}
