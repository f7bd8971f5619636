package asd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"golang.org/x/sys/unix"
)

// The index is a pebble database without a log: what it loses in a crash is replayed from the tail of
// the segments. Every batch carries the position up to which the segments are indexed, so that the two cannot
// disagree. Its keys:
//
//	m            the position, and the identity of the ASD
//	c            present after a clean close
//	s + segment  one per segment, see segmentState
//	k + key      one per record, see entry
const (
	indexMeta    = 'm'
	indexClean   = 'c'
	indexSegment = 's'
	indexRecord  = 'k'
)

// IndexCache is the memory that the indexes of several ASDs in a process share.
type IndexCache struct {
	blocks *pebble.Cache
	files  *pebble.FileCache
}

// NewIndexCache returns a cache of about that many bytes. Close it after the ASDs that use it.
func NewIndexCache(bytes int64) *IndexCache {
	return &IndexCache{blocks: pebble.NewCache(bytes), files: pebble.NewFileCache(2, 512)}
}

// Close gives the memory back once the last ASD that uses it is closed.
func (c *IndexCache) Close() {
	c.files.Unref()
	c.blocks.Unref()
}

// ownIndexCache is the cache of an ASD that shares none: 1.25 bytes of filter and 0.3 of block index for each of
// 10 million records, and the blocks that are read again and again.
const ownIndexCache = 32 << 20

// indexTable is the size of pebble's tables in bytes: about 80,000 records, and 100 KiB of filter.
const indexTable = 4 << 20

// position says how far the segments are indexed.
type position struct {
	segment uint64 // 0: nothing was indexed yet
	offset  int64
	lsn     uint64 // of the last frame indexed
	seq     uint64 // highest version given out
	asd     ID
}

func (p *position) encode() []byte {
	b := make([]byte, 0, 48)
	b = le.AppendUint64(b, p.segment)
	b = le.AppendUint64(b, uint64(p.offset))
	b = le.AppendUint64(b, p.lsn)
	b = le.AppendUint64(b, p.seq)
	return append(b, p.asd[:]...)
}

func decodePosition(b []byte) (position, error) {
	if len(b) != 48 {
		return position{}, bad("index position of %d bytes", len(b))
	}
	p := position{segment: le.Uint64(b), offset: int64(le.Uint64(b[8:])), lsn: le.Uint64(b[16:]), seq: le.Uint64(b[24:])}
	copy(p.asd[:], b[32:])
	return p, nil
}

// segmentState is what the index keeps of a segment.
type segmentState struct {
	epoch   uint64
	slot    uint32
	end     int64 // of the last frame
	live    int64 // cost of the records that exist
	deletes int64 // cost of the deletes that are needed
	records int64
}

func (s *segmentState) encode() []byte {
	b := make([]byte, 0, 48)
	b = le.AppendUint64(b, s.epoch)
	b = le.AppendUint64(b, uint64(s.slot))
	b = le.AppendUint64(b, uint64(s.end))
	b = le.AppendUint64(b, uint64(s.live))
	b = le.AppendUint64(b, uint64(s.records))
	return le.AppendUint64(b, uint64(s.deletes))
}

func decodeSegmentState(b []byte) (segmentState, error) {
	if len(b) != 48 {
		return segmentState{}, bad("index segment of %d bytes", len(b))
	}
	return segmentState{
		epoch: le.Uint64(b), slot: uint32(le.Uint64(b[8:])), end: int64(le.Uint64(b[16:])),
		live: int64(le.Uint64(b[24:])), records: int64(le.Uint64(b[32:])),
		deletes: int64(le.Uint64(b[40:])),
	}, nil
}

type index struct {
	db     *pebble.DB
	files  *indexFS
	broken chan struct{} // closed when writing has failed for good
}

// indexEvents is told what happens inside of pebble. Each is called from pebble's goroutines.
type indexEvents struct {
	corrupt func(error) // something on disk is damaged
	failed  func(error) // writing failed for good
	noSpace func()      // writing failed and will be tried again
}

func openIndex(dir string, cache *IndexCache, memTable int64, log *slog.Logger, ev indexEvents) (*index, error) {
	x := &index{broken: make(chan struct{})}
	fail, failed := sync.OnceFunc(func() { close(x.broken) }), ev.failed
	ev.failed = func(err error) {
		failed(err)
		fail()
	}
	x.files = newIndexFS(ev.failed)
	opts := &pebble.Options{
		Cache:                       cache.blocks,
		FileCache:                   cache.files,
		DisableWAL:                  true,
		MemTableSize:                uint64(memTable),
		MemTableStopWritesThreshold: 3,
		MaxManifestFileSize:         4 << 20,
		FS:                          x.files,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      pebbleLogger{log, ev},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { backgroundError(err, ev) },
			DataCorruption:  func(info pebble.DataCorruptionInfo) { ev.corrupt(fmt.Errorf("index: %v", info)) },
		},
	}
	for i := range opts.TargetFileSizes {
		// A filter is one block of its table: small tables keep it small, so that one that is not in the cache is
		// read fast.
		opts.TargetFileSizes[i] = indexTable
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].BlockSize = 8 << 10
	}
	var err error
	if x.db, err = pebble.Open(dir, opts); err != nil {
		x.files.closeAll()
		return nil, err
	}
	return x, nil
}

// backgroundError runs inside of pebble, which tries again at once, for ever.
func backgroundError(err error, ev indexEvents) {
	switch {
	case pebble.IsCorruptionError(err):
		ev.corrupt(err)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		ev.noSpace()
	case strings.Contains(err.Error(), "cancelled"):
		return
	default:
		ev.failed(fmt.Errorf("index: %w", err))
	}
	time.Sleep(20 * time.Millisecond) // pebble has no backoff of its own
}

// pebbleLogger keeps pebble from ending the process: where it would, the ASD fails.
type pebbleLogger struct {
	log *slog.Logger
	ev  indexEvents
}

func (l pebbleLogger) Infof(string, ...any) {}
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("index", "error", fmt.Sprintf(format, args...))
}
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.ev.failed(fmt.Errorf("index: "+format, args...))
}

var noSync = pebble.NoSync

func (x *index) close() error {
	defer x.files.closeAll()
	return x.db.Close()
}

func recordKey(key []byte) []byte {
	b := make([]byte, 0, 1+len(key))
	return append(append(b, indexRecord), key...)
}

func segmentKey(id uint64) []byte {
	b := make([]byte, 9)
	b[0] = indexSegment
	for i := range 8 {
		b[1+i] = byte(id >> (56 - 8*i))
	}
	return b
}

// get returns the entry of key, nil when there is none. It asks the bloom filters of all levels: pebble's own Get
// leaves out those of the last one, where nearly all keys are, so that every absent key would cost a block.
func (x *index) get(key []byte) (*entry, error) {
	var buf [128]byte
	k := append(append(buf[:0], indexRecord), key...)
	it, err := x.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return nil, indexError(err)
	}
	defer it.Close()
	if !it.SeekPrefixGE(k) || !bytes.Equal(it.Key(), k) {
		if err := it.Error(); err != nil {
			return nil, indexError(err)
		}
		return nil, nil
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return nil, indexError(err)
	}
	e, err := decodeEntry(v)
	if err != nil {
		return nil, &indexDamage{err}
	}
	return e, nil
}

// scan calls fn for the records with from <= key < to, in order, until it returns false. Key is valid
// only during the call. Nil bounds are open.
func (x *index) scan(from, to []byte, fn func(key []byte, e *entry) (bool, error)) error {
	opts := &pebble.IterOptions{LowerBound: recordKey(from), UpperBound: []byte{indexRecord + 1}}
	if to != nil {
		opts.UpperBound = recordKey(to)
	}
	it, err := x.db.NewIter(opts)
	if err != nil {
		return indexError(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return indexError(err)
		}
		e, err := decodeEntry(v)
		if err != nil {
			return &indexDamage{err}
		}
		more, err := fn(it.Key()[1:], e)
		if err != nil || !more {
			return err
		}
	}
	if err := it.Error(); err != nil {
		return indexError(err)
	}
	return nil
}

// load reads the position, whether the close was clean, and the segments.
func (x *index) load() (pos position, clean bool, segs map[uint64]segmentState, err error) {
	v, closer, err := x.db.Get([]byte{indexMeta})
	if err == nil {
		pos, err = decodePosition(v)
		closer.Close()
	}
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		return pos, false, nil, indexError(err)
	}
	if _, closer, err = x.db.Get([]byte{indexClean}); err == nil {
		clean = true
		closer.Close()
	}
	segs = make(map[uint64]segmentState)
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{indexSegment}, UpperBound: []byte{indexSegment + 1}})
	if err != nil {
		return pos, clean, nil, indexError(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		if len(k) != 9 {
			return pos, clean, nil, &indexDamage{bad("segment key of %d bytes", len(k))}
		}
		var id uint64
		for _, c := range k[1:] {
			id = id<<8 | uint64(c)
		}
		s, err := decodeSegmentState(it.Value())
		if err != nil {
			return pos, clean, nil, &indexDamage{err}
		}
		segs[id] = s
	}
	if err := it.Error(); err != nil {
		return pos, clean, nil, indexError(err)
	}
	return pos, clean, segs, nil
}

// setClean records or removes the mark of a clean close, durably.
func (x *index) setClean(clean bool) error {
	b := x.db.NewBatch()
	defer b.Close()
	if clean {
		b.Set([]byte{indexClean}, []byte{1}, nil)
	} else {
		b.Delete([]byte{indexClean}, nil)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	flushed, err := x.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
		return nil
	case <-x.broken: // pebble goes on trying, for ever
		return errors.New("index: cannot be flushed")
	}
}

// size returns the bytes that the index occupies on disk.
func (x *index) size() int64 { return int64(x.db.Metrics().DiskSpaceUsage()) }

// indexDamage marks an error after which the index must be rebuilt.
type indexDamage struct{ err error }

func (e *indexDamage) Error() string { return "index is damaged: " + e.err.Error() }
func (e *indexDamage) Unwrap() error { return e.err }

func indexError(err error) error {
	var fe formatError
	if pebble.IsCorruptionError(err) || errors.As(err, &fe) {
		return &indexDamage{err}
	}
	return fmt.Errorf("index: %w", err)
}

func isIndexDamage(err error) bool {
	var d *indexDamage
	return errors.As(err, &d)
}

// The mark file tells the next Open that the index must be rebuilt.
func markRebuild(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, indexName+".rebuild"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
