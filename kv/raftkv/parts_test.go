package raftkv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

// TestCutFlush ends the process, so to say, after each part of a flush: what is opened then is whole,
// also when the list of checksums lacks the last part or ends in half a record.
func TestCutFlush(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s, err := Open(ctx, Options{Dir: filepath.Join(dir, "a"), partBytes: 40 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	model := memkv.New()
	update := func(round, n int) {
		t.Helper()
		for _, store := range []kv.Store{s, model} {
			if err := store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
				for i := range n {
					key := binary.BigEndian.AppendUint64(nil, uint64(i)*0x9E3779B97F4A7C15)
					if i%7 == round {
						tx.Delete("inode", key)
					} else {
						tx.Put("inode", key, fmt.Append(nil, "value ", i, " of ", round))
					}
					tx.Put(kv.Keyspace(fmt.Sprint("space", i%3)), key, []byte{byte(round)})
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	compare := func(s *Store) {
		t.Helper()
		if _, err := s.Verify(ctx); err != nil {
			t.Error(err)
		}
		for _, ks := range []kv.Keyspace{"inode", "space0", "space1", "space2"} {
			if a, b := digest(t, s, ks, kv.Range{}), digest(t, model, ks, kv.Range{}); a != b {
				t.Errorf("%s differs", ks)
			}
		}
	}
	update(0, 1000)
	if err := s.flush(nil); err != nil {
		t.Fatal(err)
	}
	update(1, 500)

	s.flushMu.Lock()
	sealed := s.sealActive()
	<-sealed.ready
	parts, c := 0, newFlushCursor(sealed.table)
	var before []byte // the list of checksums before the part
	for !c.done() {
		if before, err = os.ReadFile(filepath.Join(s.opts.Dir, sumsFile)); err != nil {
			t.Fatal(err)
		}
		if err := s.flushPart(sealed, c, sealed.state); err != nil {
			t.Fatal(err)
		}
		parts++
		if st, err := s.gen.state(); err != nil || st.mixed != 0 == c.done() {
			t.Errorf("part %d: state %+v, %v", parts, st, err)
		}
		after, err := os.ReadFile(filepath.Join(s.opts.Dir, sumsFile))
		if err != nil {
			t.Fatal(err)
		}
		cases := map[string][]byte{}
		switch { // each at some of the parts
		case c.done() || parts%3 == 0:
			cases["one behind"] = before
		case parts%3 == 1:
			cases["half a record"] = after[:(len(before)+len(after))/2]
		default:
			cases["whole"] = after
		}
		for name, sums := range cases {
			cut := filepath.Join(dir, fmt.Sprint(name, parts))
			if err := os.CopyFS(cut, os.DirFS(s.opts.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cut, sumsFile), sums, 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := Open(ctx, Options{Dir: cut, partBytes: 40 << 10})
			if err != nil {
				t.Fatalf("part %d, %s: %v", parts, name, err)
			}
			compare(again)
			if st := snapshotOf(t, again); st.mixed != 0 {
				t.Errorf("part %d, %s: a snapshot left with %+v", parts, name, st)
			}
			if err := again.flush(nil); err != nil {
				t.Errorf("part %d, %s: %v", parts, name, err)
			}
			if st, err := again.gen.state(); err != nil || st.mixed != 0 {
				t.Errorf("part %d, %s: after a flush %+v, %v", parts, name, st, err)
			}
			compare(again)
			if err := again.Close(); err != nil {
				t.Error(err)
			}
			_ = os.RemoveAll(cut)
		}
	}
	s.flushMu.Unlock()
	if parts < 5 {
		t.Errorf("%d parts, want at least 5", parts)
	}
	compare(s)
	update(2, 700)
	compare(s)
}

// snapshotOf returns the state in what the member would send to another one.
func snapshotOf(t *testing.T, s *Store) state {
	t.Helper()
	g, st, err := s.pinWhole()
	if err != nil {
		t.Fatal(err)
	}
	s.unpin(g)
	return st
}

// TestCutFlushNeedsLog: a state file in the middle of a flush without the log that completes it is
// damage.
func TestCutFlushNeedsLog(t *testing.T) {
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: t.TempDir(), partBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
			for j := range 100 {
				tx.Put("a", fmt.Append(nil, i, j), make([]byte, 100))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.flushMu.Lock()
	sealed := s.sealActive()
	<-sealed.ready
	if err := s.flushPart(sealed, newFlushCursor(sealed.table), sealed.state); err != nil {
		t.Fatal(err)
	}
	s.flushMu.Unlock()
	if err := s.wal.DeleteRange(sealed.state.applied-2, sealed.state.applied); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var corrupt *kv.CorruptError
	if s, err := Open(ctx, Options{Dir: s.opts.Dir}); !errors.As(err, &corrupt) {
		t.Errorf("opened: %v, %v", s, err)
	}
}
