package raftkv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

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

func bucketName(ks kv.Keyspace) []byte { return appendBucketName(nil, ks) }

func appendBucketName(b []byte, ks kv.Keyspace) []byte { return append(append(b, 'k'), ks...) }

// base is the state file: bbolt for writing, the mapped pages for reading.
type base struct {
	dir, path string
	mapped    int
	db        *bolt.DB
	data      []byte
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

// openBase opens the state file with at least mapped bytes of address space, and the generation that is
// in it.
func openBase(dir string, mapped int, log *slog.Logger) (_ *generation, st state, err error) {
	path := filepath.Join(dir, stateFile)
	defer guard(path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	size, err := statFile(path)
	if err != nil {
		return nil, st, &kv.CorruptError{What: path, Err: err}
	}
	for int64(mapped) < 2*size {
		mapped *= 2
	}
	b := &base{dir: dir, path: path, mapped: mapped}
	if b.db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout:         time.Second,
		InitialMmapSize: mapped,
		FreelistType:    bolt.FreelistMapType,
	}); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, st, fmt.Errorf("raftkv: open %s: %w", path, err)
		}
		return nil, st, &kv.CorruptError{What: path, Err: err}
	}
	if b.data, err = mapFile(path, mapped); err != nil {
		_ = b.close()
		return nil, st, err
	}
	g, err := b.load(log)
	if err == nil {
		if st, err = g.state(); err != nil {
			_ = g.pin.Rollback()
		}
	}
	if err != nil {
		_ = b.close()
		return nil, st, err
	}
	return g, st, nil
}

func mapFile(path string, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("raftkv: %w", err)
	}
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("raftkv: map %s: %w", path, err)
	}
	return data, nil
}

func (b *base) close() error {
	err := b.db.Close()
	if b.data != nil {
		err = errors.Join(err, unix.Munmap(b.data))
		b.data = nil
	}
	return err
}

// load makes the generation of a file that was just opened.
func (b *base) load(log *slog.Logger) (*generation, error) {
	path := filepath.Join(b.dir, sumsFile)
	known, err := loadSums(path, b.db.Info().PageSize)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			log.Warn("kv: the list of page checksums is made again", "file", path, "cause", err)
		}
		known = nil
	}
	g, err := b.begin(known)
	if err != nil {
		return nil, err
	}
	if known != nil && known.tx == g.tree.sums.tx {
		return g, nil
	}
	if known == nil || known.tx+1 != g.tree.sums.tx { // then nothing was compared with an older checksum
		if _, err := g.verify(context.Background()); err != nil {
			_ = g.pin.Rollback()
			return nil, err
		}
	}
	if err := writeFileDurably(path, g.tree.sums.marshal(g.tree.size)); err != nil {
		_ = g.pin.Rollback()
		return nil, fmt.Errorf("raftkv: %w", err)
	}
	return g, nil
}

// begin makes a generation of what the file holds now. known are the checksums of the transaction before
// this one, or of this one, or anything else, which is of no use.
func (b *base) begin(known *sums) (_ *generation, err error) {
	pin, err := b.db.Begin(false)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = pin.Rollback()
		}
	}()
	defer guard(b.path, &err)
	t := &tree{path: b.path, data: b.data, size: b.db.Info().PageSize}
	if t.meta, err = b.meta(t.size, uint64(pin.ID())); err != nil {
		return nil, err
	}
	switch {
	case known != nil && known.tx == t.meta.tx && len(known.table) == int(t.meta.pages):
		t.sums = known
	case known != nil && known.tx+1 == t.meta.tx:
		err = known.next(t)
	case known != nil && known.tx > t.meta.tx:
		return nil, t.corrupt("it ends with transaction %d, its checksums with %d", t.meta.tx, known.tx)
	default:
		err = newSums(nil, 0).next(t)
	}
	if err != nil {
		return nil, err
	}
	if _, err := t.page(t.meta.free); err != nil {
		return nil, err
	}
	if err := t.openBuckets(); err != nil {
		return nil, err
	}
	return &generation{base: b, tree: t, pin: pin, drained: make(chan struct{})}, nil
}

// meta returns the root that a transaction of bbolt began with.
func (b *base) meta(pageSize int, tx uint64) (meta, error) {
	for i := range 2 {
		if m, err := parseMeta(b.data[i*pageSize:(i+1)*pageSize], pageSize); err == nil && m.tx == tx {
			if int64(m.pages)*int64(pageSize) > int64(b.mapped) {
				return m, fmt.Errorf("raftkv: %s has outgrown its mapping of %d bytes", b.path, b.mapped)
			}
			return m, nil
		}
	}
	return meta{}, &kv.CorruptError{What: b.path, Err: fmt.Errorf("no meta page of transaction %d", tx)}
}

func putState(tx *bolt.Tx, st state) error {
	m, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	return m.Put(stateKey, st.marshal())
}

// guard turns a panic or a memory fault over pages that make no sense, or that cannot be read, into a
// typed error. It is deferred around what touches pages and does not call back.
func guard(path string, err *error) {
	if r := recover(); r != nil {
		*err = &kv.CorruptError{What: path, Err: fmt.Errorf("%v", r)}
	}
}

// write puts the newest version of every key of the table into the file, with the state, in one
// transaction. old is the generation that it changes.
func (b *base) write(old *generation, table *memtable, st state) (err error) {
	defer guard(b.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := b.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	table.mu.RLock()
	defer table.mu.RUnlock()
	for ks, t := range table.spaces {
		name := bucketName(ks)
		before, exists := old.tree.buckets[string(name)]
		bucket, err := tx.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
		var touched []byte // up to this key
		t.Scan(func(it item) bool {
			key := bytesOf(it.key)
			if exists && (touched == nil || bytes.Compare(key, touched) > 0) {
				if touched, err = old.tree.touch(before, key); err != nil {
					return false
				}
			}
			if it.head.sealed == nil {
				err = bucket.Delete(key)
			} else {
				err = bucket.Put(key, it.head.sealed)
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	if err := putState(tx, st); err != nil {
		return err
	}
	return tx.Commit()
}

// generation is one content of the state file. A flush begins the next one. The views of a generation
// keep its pages from being reused.
type generation struct {
	base    *base
	tree    *tree
	pin     *bolt.Tx      // keeps bbolt from reusing the pages
	views   int           // open ones; guarded by Store.mu, like retired
	retired bool          // no more views
	drained chan struct{} // closed by unpin
}

// leave takes a view off. It reports whether the caller must unpin the generation. The caller holds
// Store.mu.
func (g *generation) leave() (last bool) {
	g.views--
	return g.retired && g.views == 0
}

// retire ends the generation, with the same answer as leave.
func (g *generation) retire() (last bool) {
	g.retired = true
	return g.views == 0
}

func (g *generation) unpin() {
	_ = g.pin.Rollback()
	close(g.drained)
}

// get returns the sealed value of a key in a bucket, or nil.
func (g *generation) get(name, key []byte) (sealed []byte, err error) {
	b, ok := g.tree.buckets[string(name)]
	if !ok {
		return nil, nil
	}
	defer guard(g.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return g.tree.get(b, key)
}

// state returns the state record.
func (g *generation) state() (st state, err error) {
	b, err := g.get(metaBucket, stateKey)
	if err != nil {
		return st, err
	}
	if st, err = unmarshalState(b); err != nil {
		return st, &kv.CorruptError{What: g.base.path, Err: err}
	}
	return st, nil
}

// verify compares every page with its checksum, and every value with its own, whether that was done
// before or not. It returns the number of bytes.
func (g *generation) verify(ctx context.Context) (n int64, err error) {
	defer guard(g.base.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	t := *g.tree
	t.sums = newSums(g.tree.sums.table, g.tree.sums.tx)
	if _, err := t.page(t.meta.free); err != nil {
		return 0, err
	}
	if err := t.openBuckets(); err != nil {
		return 0, err
	}
	for name, b := range t.buckets {
		var w walker
		for err = w.first(&t, b); err == nil && w.valid(); err = w.move(+1) {
			key, sealed := w.current()
			if n += int64(len(key) + len(sealed)); name[0] == 'k' {
				if _, err := unseal(kv.Keyspace(name[1:]), key, sealed); err != nil {
					return n, t.corrupt("%w", err)
				}
			}
			if err := ctx.Err(); err != nil {
				return n, err
			}
		}
		if err != nil {
			return n, err
		}
	}
	_, err = g.state()
	return n, err
}
