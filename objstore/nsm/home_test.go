package nsm

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

func FuzzHome(f *testing.F) {
	f.Add(home{state: Settled}.encode())
	f.Add(home{state: Importing, seq: 7, part: 3, at: "\x00\x00\x00\x01x"}.encode())
	f.Add([]byte("GH\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHome(b)
		if err != nil {
			var corrupt *objstore.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.encode(), b) {
			t.Fatalf("%+v encodes to %x, not %x", h, h.encode(), b)
		}
		_ = h.state.String()
	})
}

func FuzzChanges(f *testing.F) {
	n := &noting{Txn: nothing{}}
	n.Put(ksManifest, []byte("\x00\x00\x00\x01name"), nil)
	n.Delete(ksParked, nil)
	f.Add(n.keys)
	f.Add([]byte{0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		again := &noting{Txn: nothing{}}
		if err := decodeChanges(b, func(r row) { again.note(parts[r.part], []byte(r.key)) }); err != nil {
			return
		}
		// Lengths may be written in more bytes than they need, but not mean another.
		var rows, same []row
		_ = decodeChanges(b, func(r row) { rows = append(rows, r) })
		if err := decodeChanges(again.keys, func(r row) { same = append(same, r) }); err != nil || len(rows) != len(same) {
			t.Fatalf("%x became %x: %v", b, again.keys, err)
		}
		for i := range rows {
			if rows[i] != same[i] {
				t.Fatalf("%+v became %+v", rows[i], same[i])
			}
		}
	})
}

// nothing is a transaction that does nothing.
type nothing struct{ kv.Txn }

func (nothing) Put(kv.Keyspace, []byte, []byte) {}
func (nothing) Delete(kv.Keyspace, []byte)      {}

// TestCallsWaitForAFrozenNamespace freezes a namespace under a writer, and thaws it.
func TestCallsWaitForAFrozenNamespace(t *testing.T) {
	ctx := context.Background()
	store := memkv.New(memkv.Rerun())
	h := NewHost(store)
	if _, err := h.Claim(ctx, "owner", true, false); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	n := Open(store, Options{Name: "test", Number: 7, Disks: sixDisks(), Policies: []objstore.Policy{{K: 2, M: 1, C: 2, X: 2}},
		Home: func(context.Context) (kv.Store, error) {
			select {
			case asked <- struct{}{}:
			default:
			}
			return store, nil
		}})
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := n.Begin(over); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := n.Abandon(over, Upload{ID: 1}, []Location{{Disk: 1}}); !errors.Is(err, objstore.ErrMoving) {
		t.Fatalf("a namespace that is not there yet: %v", err)
	}
	if err := h.Obey(ctx, Message{1, KindCreate, 7}); err != nil {
		t.Fatal(err)
	}
	register(t, n, "x", chunk(2, 1, 1, 3, 5))
	move := Transfer{From: h, To: NewHost(memkv.New()), Namespace: 7}
	if err := move.turn(ctx, Settled, Frozen); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Fetch(ctx, "x"); err != nil {
		t.Fatal("a frozen namespace cannot be read:", err)
	}
	for len(asked) > 0 {
		<-asked
	}
	done := make(chan error)
	go func() {
		_, err := n.Delete(ctx, "x")
		done <- err
	}()
	<-asked // it waits
	select {
	case err := <-done:
		t.Fatal("it did not wait:", err)
	default:
	}
	if err := move.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	n.Moved()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := n.Fetch(ctx, "x"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}
