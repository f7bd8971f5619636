package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/gabionfs/gabion/kv"
)

// The state file is a bbolt file. Each keyspace is a bucket named "k" + keyspace, whose values are
// sealed (see codec.go). The bucket "meta" has one key, "state", with the record below. A flush writes
// both in one bbolt transaction, with bbolt's own sync on.

const (
	stateFile    = "state.db"
	incomingFile = "incoming.db"

	// firstMap is how much address space the state file is mapped into at first. While the file is
	// smaller, bbolt never has to remap it, which would wait for every open view. See base.grow.
	firstMap = 16 << 30
)

var (
	metaBucket = []byte("meta")
	stateKey   = []byte("state")
)

func bucketName(ks kv.Keyspace) []byte { return append([]byte{'k'}, ks...) }

// base is the state file.
type base struct {
	path   string
	mapped int
	db     *bolt.DB
}

// state is what the state file knows about itself: which part of the log it contains.
type state struct {
	applied uint64 // index of the last log entry it contains
	term    uint64 // of the last batch that was applied, see logpb
	number  uint64

	snapshot snapshotMeta // the last Raft snapshot; its index may be behind or ahead of applied
}

const stateVersion = 1

// marshal lays the record out as: version u32, applied u64, term u64, number u64, the snapshot
// (see snapshotMeta.append), CRC-32C of all before as u32; little endian.
func (st state) marshal() []byte {
	b := binary.LittleEndian.AppendUint32(nil, stateVersion)
	b = binary.LittleEndian.AppendUint64(b, st.applied)
	b = binary.LittleEndian.AppendUint64(b, st.term)
	b = binary.LittleEndian.AppendUint64(b, st.number)
	b = st.snapshot.append(b)
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

func unmarshalState(b []byte) (st state, err error) {
	if len(b) < 4+3*8+4 {
		return st, errors.New("the state record is too short")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc(body) != sum {
		return st, errors.New("the state record does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(body); v != stateVersion {
		return st, fmt.Errorf("the state record has version %d, known is %d", v, stateVersion)
	}
	st.applied = binary.LittleEndian.Uint64(body[4:])
	st.term = binary.LittleEndian.Uint64(body[12:])
	st.number = binary.LittleEndian.Uint64(body[20:])
	st.snapshot, err = parseSnapshotMeta(body[28:])
	return st, err
}

// createBase creates an empty state file, whole or not at all.
func createBase(path string) error {
	_ = os.Remove(path + ".new")
	db, err := bolt.Open(path+".new", 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error { return putState(tx, state{}) })
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// openBase opens the state file, with at least mapped bytes of address space.
func openBase(path string, mapped int) (_ *base, st state, err error) {
	defer guard(path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	size, err := statFile(path)
	if err != nil {
		return nil, st, &kv.CorruptError{What: path, Err: err}
	}
	for int64(mapped) < 2*size {
		mapped *= 2
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout:         time.Second,
		InitialMmapSize: mapped,
		FreelistType:    bolt.FreelistMapType,
	})
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, st, fmt.Errorf("raftkv: open %s: %w", path, err)
		}
		return nil, st, &kv.CorruptError{What: path, Err: err}
	}
	b := &base{path: path, mapped: mapped, db: db}
	err = db.View(func(tx *bolt.Tx) error {
		m := tx.Bucket(metaBucket)
		if m == nil {
			return errors.New("it has no state record")
		}
		st, err = unmarshalState(m.Get(stateKey))
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, st, &kv.CorruptError{What: path, Err: err}
	}
	return b, st, nil
}

func putState(tx *bolt.Tx, st state) error {
	m, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	return m.Put(stateKey, st.marshal())
}

// guard turns a panic or a memory fault inside bbolt, which is how it meets pages that make no sense,
// into a typed error. It is deferred around calls of bbolt that do not call back.
func guard(path string, err *error) {
	if r := recover(); r != nil {
		*err = &kv.CorruptError{What: path, Err: fmt.Errorf("bbolt: %v", r)}
	}
}

// write puts the newest version of every key of the table into the file, with the state, in one
// transaction.
func (b *base) write(table *memtable, st state) (err error) {
	defer guard(b.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := b.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	if table != nil {
		table.mu.RLock()
		defer table.mu.RUnlock()
		for ks, t := range table.spaces {
			bucket, err := tx.CreateBucketIfNotExists(bucketName(ks))
			if err != nil {
				return err
			}
			t.Scan(func(it item) bool {
				if it.head.sealed == nil {
					err = bucket.Delete(bytesOf(it.key))
				} else {
					err = bucket.Put(bytesOf(it.key), it.head.sealed)
				}
				return err == nil
			})
			if err != nil {
				return err
			}
		}
	}
	if err := putState(tx, st); err != nil {
		return err
	}
	return tx.Commit()
}

// generation is one content of the state file, with read transactions on it for reuse: opening one
// costs more than a lookup. A flush begins a new generation.
type generation struct {
	base *base

	mu      sync.Mutex
	idle    []*bolt.Tx
	open    int // transactions that exist, idle or lent
	retired bool
	drained chan struct{} // closed once retired and none is open
}

const maxIdle = 32

func newGeneration(b *base) *generation {
	return &generation{base: b, drained: make(chan struct{})}
}

// borrow returns an idle transaction, or nil.
func (g *generation) borrow() *bolt.Tx {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.idle); n > 0 {
		tx := g.idle[n-1]
		g.idle = g.idle[:n-1]
		return tx
	}
	return nil
}

// begin opens a transaction. ok is false when the generation is over.
func (g *generation) begin() (tx *bolt.Tx, ok bool, err error) {
	g.mu.Lock()
	if g.retired {
		g.mu.Unlock()
		return nil, false, nil
	}
	g.open++
	g.mu.Unlock()
	if tx, err = g.base.db.Begin(false); err != nil {
		g.closed()
		return nil, true, err
	}
	return tx, true, nil
}

// release takes a transaction back.
func (g *generation) release(tx *bolt.Tx) {
	g.mu.Lock()
	if !g.retired && len(g.idle) < maxIdle {
		g.idle = append(g.idle, tx)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	_ = tx.Rollback()
	g.closed()
}

func (g *generation) closed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open--; g.open == 0 && g.retired {
		close(g.drained)
	}
}

// retire ends the generation: idle transactions are closed now, lent ones when they come back.
func (g *generation) retire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.retired = true
	for _, tx := range g.idle {
		_ = tx.Rollback()
	}
	g.open -= len(g.idle)
	g.idle = nil
	if g.open == 0 {
		close(g.drained)
	}
}
