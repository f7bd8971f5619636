package raftkv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// flushedStore has a state file with small values, large ones, and free pages.
func flushedStore(t *testing.T) *Store {
	t.Helper()
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Error(err)
		}
	})
	r := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		if err := s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
			for i := range 3000 {
				tx.Put("small", fmt.Append(nil, r.IntN(9000), i), make([]byte, 50))
			}
			for range 5 {
				tx.Put("large", fmt.Append(nil, r.IntN(9)), bytes.Repeat([]byte{byte(r.Uint64())}, r.IntN(1<<20)))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestSnapshotStream: what is sent is the state file, and arrives whole in whichever pieces.
func TestSnapshotStream(t *testing.T) {
	s := flushedStore(t)
	meta, stream, err := s.snaps.Open(snapshotID)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sent, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(sent)) != meta.Size {
		t.Errorf("%d bytes, want %d", len(sent), meta.Size)
	}
	var want bytes.Buffer
	if _, err := s.gen.pin.WriteTo(&want); err != nil {
		t.Fatal(err)
	}
	var free pageSet
	if err := s.gen.tree.freePages(&free); err != nil {
		t.Fatal(err)
	}
	zeroed := 0
	for id := range s.gen.tree.meta.pages {
		if free.has(id) {
			clear(want.Bytes()[int(id)*s.gen.tree.size : int(id+1)*s.gen.tree.size])
			zeroed++
		}
	}
	if zeroed == 0 {
		t.Error("it has no free pages")
	}
	if body := sent[len(snapshotMagic) : len(sent)-4]; !bytes.Equal(body, want.Bytes()) {
		t.Error("it is not the state file")
	}
	r := rand.New(rand.NewPCG(3, 4))
	for _, most := range []int{5, 40 << 10, 3 << 20} {
		to := &Store{opts: Options{Dir: t.TempDir()}}
		to.snaps = &snapshots{store: to}
		sink, err := to.snaps.Create(1, 1, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		rest := sent
		if most == 5 { // it would take long
			rest = append(append([]byte(snapshotMagic), "page"...), 0, 0, 0, 0)
			rest = rest[:len(rest)-4]
			sum := crc([]byte("page"))
			rest = append(rest, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		}
		body := rest[len(snapshotMagic) : len(rest)-4]
		for len(rest) > 0 {
			n := min(len(rest), r.IntN(most+1))
			if m, err := sink.Write(rest[:n]); err != nil || m != n {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(to.opts.Dir, incomingFile)); err != nil || !bytes.Equal(got, body) {
			t.Errorf("in pieces of up to %d bytes %d arrive, want %d; %v", most, len(got), len(body), err)
		}
	}
}

// TestSnapshotNotOfDamage: no page that is in use and does not match its checksum leaves a member.
func TestSnapshotNotOfDamage(t *testing.T) {
	s := flushedStore(t)
	var free pageSet
	if err := s.gen.tree.freePages(&free); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.opts.Dir, stateFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flip := func(at int64) {
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 0x10
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	used, unused := 0, 0
	r := rand.New(rand.NewPCG(5, 6))
	size := int64(s.gen.tree.size)
	for range 60 {
		id := 2 + r.Int64N(int64(s.gen.tree.meta.pages)-2)
		at := id*size + r.Int64N(size)
		flip(at)
		_, stream, err := s.snaps.Open(snapshotID)
		var corrupt *kv.CorruptError
		switch isFree := free.has(pageID(id)); {
		case isFree && err != nil:
			t.Errorf("damage in page %d, which is free: %v", id, err)
		case !isFree && !errors.As(err, &corrupt):
			t.Errorf("damage at byte %d of page %d is sent: %v", at%size, id, err)
		case isFree:
			unused++
		default:
			used++
		}
		if err == nil {
			_ = stream.Close()
		}
		flip(at)
	}
	if used == 0 {
		t.Errorf("no page in use was tried, %d free ones", unused)
	}
	if _, stream, err := s.snaps.Open(snapshotID); err != nil {
		t.Error(err)
	} else {
		_ = stream.Close()
	}
}
