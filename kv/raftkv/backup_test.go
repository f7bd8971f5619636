package raftkv_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// TestBackup: a backup is as of one moment although writes go on, a reader that takes its time holds up
// no flush, and it can be loaded elsewhere.
func TestBackup(t *testing.T) {
	ctx := withPatience(t)
	s := open(t, raftkv.Options{Dir: memDir(t), FlushBytes: 16 << 10, SegmentBytes: 64 << 10})
	defer s.Close()
	steps(t, s, 400)
	if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(kv.SystemKeyspace, []byte("lease"), []byte("not in the backup"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w := &slowWriter{entered: make(chan struct{}), leave: make(chan struct{})}
	type result struct {
		index uint64
		err   error
	}
	done := make(chan result, 1)
	go func() {
		index, err := s.Backup(ctx, w)
		done <- result{index, err}
	}()
	<-w.entered
	before := s.Stats().Flushes
	for s.Stats().Flushes < before+3 {
		steps(t, s, 10)
	}
	close(w.leave)
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}

	copied := open(t, raftkv.Options{Dir: memDir(t)})
	defer copied.Close()
	info, err := backup.Read(ctx, bytes.NewReader(w.buf.Bytes()), func(ks kv.Keyspace, key, value []byte) error {
		if ks.Reserved() {
			t.Errorf("keyspace %q is in the backup", ks)
		}
		key, value = bytes.Clone(key), bytes.Clone(value)
		return copied.Update(ctx, kv.Ordered, func(tx kv.Txn) error { tx.Put(ks, key, value); return nil })
	})
	if err != nil || info.Index != r.index {
		t.Fatalf("%+v, %v; the index is %d", info, err, r.index)
	}
	if n := crashPicture(t, copied); n < 400 {
		t.Errorf("the copy shows %d transactions", n)
	}

	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Backup(gone, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled backup: %v", err)
	}
	mine := errors.New("mine")
	if _, err := s.Backup(ctx, failingWriter{mine}); !errors.Is(err, mine) {
		t.Errorf("a backup that cannot be written: %v", err)
	}
}

type slowWriter struct {
	buf            bytes.Buffer
	entered, leave chan struct{}
	once           sync.Once
}

func (w *slowWriter) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.entered) })
	<-w.leave
	return w.buf.Write(b)
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
