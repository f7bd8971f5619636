package raftkv

import (
	"context"
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

// guard turns a panic or a memory fault over pages that make no sense, or that cannot be read, into a
// typed error. It is deferred around what touches pages and does not call back.
func guard(path string, err *error) {
	if r := recover(); r != nil {
		*err = &kv.CorruptError{What: path, Err: fmt.Errorf("%v", r)}
	}
}
