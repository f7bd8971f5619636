package raftkv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
)

// The state file is a bbolt file. Each keyspace is a bucket named "k" + keyspace, whose values are
// sealed (see codec.go); long keys have a place of their own (long.go). The bucket "meta" has the keys
// "state", with the record below, and "voids" (voids.go). A flush writes
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
	voidsKey   = []byte("voids")
)

func bucketName(ks kv.Keyspace) []byte { return appendBucketName(nil, ks) }

func appendBucketName(b []byte, ks kv.Keyspace) []byte { return append(append(b, 'k'), ks...) }

// base is the state file: bbolt for writing, the mapped pages for reading.
type base struct {
	dir, path string
	mapped    int
	db        *bolt.DB
	data      []byte

	// Of the newest generation, for whoever writes the next one:
	sums sumsLog
	free pageSet // pages that are not in use in it
}

// state is what the state file knows about itself: which part of the log it contains.
type state struct {
	applied uint64 // index of the last log entry it contains
	term    uint64 // of the last batch that was applied, see logpb
	number  uint64

	// mixed is the log entry up to which some keys are newer than applied says: a flush is under way. The
	// file is a consistent picture once the entries up to there have been applied on top of it. 0: none.
	mixed uint64

	snapshot snapshotMeta // the last Raft snapshot; its index may be behind or ahead of applied
	voids    voids        // in a record of its own
}

const stateVersion = 2

// marshal lays the record out as: version u32, applied u64, term u64, number u64, mixed u64 (since version
// 2), the snapshot (see snapshotMeta.append), CRC-32C of all before as u32; little endian.
func (st state) marshal() []byte {
	b := binary.LittleEndian.AppendUint32(nil, stateVersion)
	b = binary.LittleEndian.AppendUint64(b, st.applied)
	b = binary.LittleEndian.AppendUint64(b, st.term)
	b = binary.LittleEndian.AppendUint64(b, st.number)
	b = binary.LittleEndian.AppendUint64(b, st.mixed)
	b = st.snapshot.append(b)
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

func unmarshalState(b []byte) (st state, err error) {
	if len(b) < 4+4*8+4 {
		return st, errors.New("the state record is too short")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc(body) != sum {
		return st, errors.New("the state record does not match its checksum")
	}
	v := binary.LittleEndian.Uint32(body)
	if v < 1 || v > stateVersion {
		return st, fmt.Errorf("the state record has version %d, known is %d", v, stateVersion)
	}
	st.applied = binary.LittleEndian.Uint64(body[4:])
	st.term = binary.LittleEndian.Uint64(body[12:])
	st.number = binary.LittleEndian.Uint64(body[20:])
	rest := body[28:]
	if v >= 2 {
		st.mixed, rest = binary.LittleEndian.Uint64(rest), rest[8:]
	}
	st.snapshot, err = parseSnapshotMeta(rest)
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
	b := &base{dir: dir, path: path, mapped: mapped, sums: sumsLog{dir: dir}}
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
	b.sums.close()
	err := b.db.Close()
	if b.data != nil {
		err = errors.Join(err, unix.Munmap(b.data))
		b.data = nil
	}
	return err
}

// load makes the generation of a file that was just opened.
func (b *base) load(log *slog.Logger) (_ *generation, err error) {
	size, err := statFile(b.path)
	if err != nil {
		return nil, err
	}
	pageSize := b.db.Info().PageSize
	known, whole, err := loadSums(b.dir, pageSize, int(size/int64(pageSize))+1)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			log.Warn("kv: the list of page checksums is made again", "file", filepath.Join(b.dir, sumsFile), "cause", err)
		}
		known = nil
	}
	g, exact, err := b.match(known, pageSize)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = g.pin.Rollback()
		}
	}()
	if !exact { // then nothing was compared with an older checksum
		if _, err := g.verify(context.Background()); err != nil {
			return nil, err
		}
	}
	if known == nil || !whole || known.tx != g.tree.sums.tx {
		return g, b.sums.replace(g.tree.sums, pageSize)
	}
	return g, nil
}

// match makes the generation of the file's last transaction with the checksums that are known, of which
// nothing may be. exact says that they were those of this transaction or of the one before.
func (b *base) match(known *sums, pageSize int) (_ *generation, exact bool, err error) {
	defer guard(b.path, &err)
	pin, err := b.db.Begin(false)
	if err != nil {
		return nil, false, err
	}
	tx := uint64(pin.ID())
	_ = pin.Rollback()
	if known != nil && known.tx > tx {
		return nil, false, &kv.CorruptError{What: b.path, Err: fmt.Errorf("it ends with transaction %d, its checksums with %d", tx, known.tx)}
	}
	if known != nil && (known.tx == tx || known.tx+1 == tx) {
		// The pages of the transaction before the last one have not been used again.
		before, err := b.tree(pageSize, known.tx)
		if err != nil {
			return nil, false, err
		}
		before.sums = known
		if err := before.freePages(&b.free); err != nil {
			return nil, false, err
		}
		if len(known.table) != int(before.meta.pages) {
			return nil, false, before.corrupt("it has %d pages, its checksums are of %d", before.meta.pages, len(known.table))
		}
	} else {
		known = nil
	}
	switch {
	case known == nil:
		g, _, err := b.begin(newSums(nil, 0))
		return g, false, err
	case known.tx == tx:
		g, err := b.open(func(t *tree) error { t.sums = known; return nil })
		return g, true, err
	}
	g, _, err := b.begin(known)
	return g, true, err
}

// begin makes a generation of what the file holds now, and returns the pages that are new in it. known are
// the checksums of the transaction before, and b.free is of it too.
func (b *base) begin(known *sums) (_ *generation, wrote []pageID, err error) {
	g, err := b.open(func(t *tree) error { wrote, err = known.next(t, b.free); return err })
	if err != nil {
		return nil, nil, err
	}
	if err := g.tree.freePages(&b.free); err != nil {
		_ = g.pin.Rollback()
		return nil, nil, err
	}
	return g, wrote, nil
}

// open makes a generation of what the file holds now, whose checksums sum finds.
func (b *base) open(sum func(*tree) error) (_ *generation, err error) {
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
	t, err := b.tree(b.db.Info().PageSize, uint64(pin.ID()))
	if err != nil {
		return nil, err
	}
	if err := sum(t); err != nil {
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

// tree returns what a transaction of bbolt began with, the last one or the one before, without checksums.
func (b *base) tree(pageSize int, tx uint64) (t *tree, err error) {
	t = &tree{path: b.path, data: b.data, size: pageSize}
	t.meta, err = b.meta(pageSize, tx)
	return t, err
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
	if err := m.Put(voidsKey, st.voids.marshal()); err != nil {
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

// flushCursor is how far a table has been written into the state file.
type flushCursor struct {
	table  *memtable
	spaces []kv.Keyspace // with keys that are not written
	from   []byte        // the first of them in spaces[0], or nil: all of its keys
	left   int           // number of keys that are not written
}

func newFlushCursor(table *memtable) *flushCursor {
	n := table.len()
	table.mu.RLock()
	defer table.mu.RUnlock()
	return &flushCursor{table: table, spaces: slices.Sorted(maps.Keys(table.spaces)), left: n}
}

func (c *flushCursor) done() bool { return len(c.spaces) == 0 }

// write puts the newest versions of the next keys of the table into the file, as many as change about
// limit bytes of pages, in one transaction. With the last ones goes the state that the table leads to;
// before, the state that the file has is kept, with a note that some keys are ahead of it. old is the
// generation that it changes.
func (b *base) write(old *generation, c *flushCursor, limit int64, st state) (err error) {
	defer guard(b.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := b.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it has nothing to do
	c.table.mu.RLock()
	defer c.table.mu.RUnlock()
	for rest := limit; rest > 0 && !c.done(); {
		if rest, err = b.writeSpace(tx, old, c, rest); err != nil {
			return err
		}
	}
	if !c.done() {
		now, err := old.state()
		if err != nil {
			return err
		}
		now.mixed = st.applied
		st = now
	}
	if err := putState(tx, st); err != nil {
		return err
	}
	return tx.Commit()
}

// writeSpace writes the next keys of one keyspace. It returns what is left of the limit; 0 when there are
// more keys.
func (b *base) writeSpace(tx *bolt.Tx, old *generation, c *flushCursor, limit int64) (int64, error) {
	ks := c.spaces[0]
	name := bucketName(ks)
	before, exists := old.tree.buckets[string(name)]
	bucket, err := tx.CreateBucketIfNotExists(name)
	if err != nil {
		return 0, err
	}
	var touched []byte // up to this key
	rest, more := limit, false
	visit := func(it item) bool {
		key := bytesOf(it.key)
		if rest <= 0 {
			c.from, more = key, true
			return false
		}
		if len(key) > maxPlain {
			var changed int64
			changed, err = b.putLong(tx, old, ks, key, it.head.sealed)
			rest -= changed
			c.left--
			return err == nil
		}
		if exists && (touched == nil || bytes.Compare(key, touched) > 0) {
			if touched, err = old.tree.touch(before, key); err != nil {
				return false
			}
			rest -= int64(old.tree.size)
		}
		if it.head.sealed == nil {
			err = bucket.Delete(key)
		} else {
			err = bucket.Put(key, it.head.sealed)
		}
		rest -= int64(len(key) + len(it.head.sealed) + elementSize)
		c.left--
		return err == nil
	}
	if t := c.table.spaces[ks]; c.from == nil {
		t.Scan(visit)
	} else {
		t.Ascend(makeItem(c.from, nil), visit)
	}
	if err != nil || more {
		return 0, err
	}
	c.spaces, c.from = c.spaces[1:], nil
	return rest, nil
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
	if b, err = g.get(metaBucket, voidsKey); err != nil || b == nil { // absent in files of an earlier release
		return st, err
	}
	if st.voids, err = parseVoids(b); err != nil {
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
		var m int64
		if name[0] == 'l' {
			m, err = verifyBucket(ctx, &t, name, b, new(longWalker))
		} else {
			m, err = verifyBucket(ctx, &t, name, b, new(walker))
		}
		if n += m; err != nil {
			return n, err
		}
	}
	_, err = g.state()
	return n, err
}

// verifyBucket walks through a bucket and compares every value with its checksum.
func verifyBucket(ctx context.Context, t *tree, name string, b bucket, w interface {
	first(*tree, bucket) error
	valid() bool
	current() (key, sealed []byte)
	move(by int) error
}) (n int64, err error) {
	for err = w.first(t, b); err == nil && w.valid(); err = w.move(+1) {
		key, sealed := w.current()
		n += int64(len(key) + len(sealed))
		if string(metaBucket) != name {
			if _, err := unseal(kv.Keyspace(name[1:]), key, sealed); err != nil {
				return n, t.corrupt("%w", err)
			}
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
	}
	return n, err
}
