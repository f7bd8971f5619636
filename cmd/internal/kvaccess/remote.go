package kvaccess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// remote is a store of a cluster.
type remote struct {
	c *kvrpc.Client
	s *kvrpc.Store
}

// Remote is the store of that name. Close leaves c open.
func Remote(c *kvrpc.Client, name string) Store { return remote{c, c.Store(name)} }

func (r remote) Close() error { return nil }

func readOptions(r Read) kvrpc.ReadOptions {
	o := kvrpc.ReadOptions{Level: r.Level, MaxAge: r.MaxAge}
	if r.Level == kv.Stale && r.Index > 0 {
		o.Level, o.MinIndex = kvrpc.Session, r.Index
	}
	return o
}

func (r remote) Get(ctx context.Context, o Read, ks kv.Keyspace, keys [][]byte) ([]Value, error) {
	names := make([]kvrpc.Key, len(keys))
	for i, k := range keys {
		names[i] = kvrpc.Key{Keyspace: ks, Key: k}
	}
	in, err := r.s.MultiGet(ctx, names, readOptions(o))
	if err != nil {
		return nil, err
	}
	out := make([]Value, len(in))
	for i, v := range in {
		out[i] = Value(v)
	}
	return out, nil
}

func (r remote) Exists(ctx context.Context, o Read, ks kv.Keyspace, keys [][]byte) ([]bool, error) {
	out := make([]bool, len(keys))
	for i, k := range keys {
		var err error
		if out[i], err = r.s.Exists(ctx, ks, k, readOptions(o)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r remote) Range(ctx context.Context, o Read, q Query, fn func(Pair) error) (bool, error) {
	rest, left := q.Range, q.Limit // of the range, and of the limit if there is one
	for {
		rest.Limit = max(left, 0)
		p, err := r.s.Range(ctx, q.Keyspace, rest, kvrpc.RangeOptions{ReadOptions: readOptions(o), KeysOnly: q.KeysOnly})
		if err != nil {
			return false, err
		}
		for _, e := range p.Entries {
			if err := fn(Pair(e)); err != nil {
				return false, err
			}
		}
		left -= len(p.Entries)
		if !p.More || q.Limit > 0 && left <= 0 {
			return p.More, nil
		}
		rest = p.Next(rest)
	}
}

func (r remote) Count(ctx context.Context, o Read, q Query) (uint64, error) {
	c, err := r.s.Count(ctx, q.Keyspace, q.Range, readOptions(o))
	if err != nil {
		return 0, err
	}
	return c.Keys, nil
}

func (r remote) Apply(ctx context.Context, steps []kv.Step) (Applied, error) {
	results, err := r.s.Apply(ctx, kv.Durable, steps)
	if err != nil {
		return Applied{}, err
	}
	// A session read shows the write, and says at which index. When it cannot be had the write stands.
	var info kvrpc.ReadInfo
	if _, err := r.s.MultiGet(ctx, nil, kvrpc.ReadOptions{Level: kvrpc.Session, Info: &info}); err != nil {
		return Applied{Steps: results}, nil
	}
	return Applied{Index: info.Index, Steps: results}, nil
}

func (r remote) Call(ctx context.Context, name string, args []byte) ([]byte, error) {
	return r.s.Call(ctx, kv.Durable, name, args)
}

func (r remote) Watch(ctx context.Context, q WatchQuery, fn func(Event) error) error {
	return r.s.Watch(ctx, kvrpc.WatchOptions{Keyspace: q.Keyspace, Prefix: q.Prefix, From: q.From}, func(index uint64, events []kvrpc.Event) error {
		for _, e := range events {
			if err := fn(Event{Index: index, Key: e.Key, Value: e.Value, Deleted: e.Deleted}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Backup has the leader serve it: another member may be behind what was acknowledged.
func (r remote) Backup(ctx context.Context, w io.Writer) (uint64, error) {
	find, cancel := context.WithTimeout(ctx, restoreTimeout)
	_, err := r.s.Status(find)
	cancel()
	if err != nil {
		return 0, err
	}
	return r.s.Backup(ctx, w)
}

// errFound ends the reading of a backup.
var errFound = errors.New("found")

// empty refuses a store that holds something.
func (r remote) empty(ctx context.Context) error {
	pr, pw := io.Pipe()
	defer pr.Close()
	go func() {
		_, err := r.Backup(ctx, pw)
		pw.CloseWithError(err)
	}()
	_, err := backup.Read(ctx, pr, func(kv.Keyspace, []byte, []byte) error { return errFound })
	if errors.Is(err, errFound) {
		return fmt.Errorf("store %s is not empty: restore into a new one, which `gabion cluster store create NAME` makes", r.s.Name())
	}
	return err
}

const (
	restoreBatch   = 1 << 20     // bytes of one transaction of Restore, about
	restoreTimeout = time.Minute // of one transaction, and to find the leader
)

// Restore writes the pairs in transactions. What can be read twice is checked as a whole before anything
// is written.
func (r remote) Restore(ctx context.Context, in io.Reader) (keys uint64, err error) {
	if err := r.empty(ctx); err != nil {
		return 0, err
	}
	if f, ok := in.(*os.File); ok {
		if begin, err := f.Seek(0, io.SeekCurrent); err == nil {
			if _, err := backup.Read(ctx, in, nil); err != nil {
				return 0, fmt.Errorf("nothing was restored: %w", err)
			}
			if _, err := f.Seek(begin, io.SeekStart); err != nil {
				return 0, err
			}
		}
	}
	l := loader{store: r.s}
	_, err = backup.Read(ctx, in, func(ks kv.Keyspace, key, value []byte) error { return l.add(ctx, ks, key, value) })
	if err == nil {
		err = l.flush(ctx)
	}
	if err != nil {
		return l.keys, fmt.Errorf("the store has %d keys of the backup now and is to be deleted: %w", l.keys, err)
	}
	return l.keys, nil
}

// loader gathers pairs into transactions.
type loader struct {
	store *kvrpc.Store
	steps []kv.Step
	size  int
	keys  uint64 // written
}

func (l *loader) add(ctx context.Context, ks kv.Keyspace, key, value []byte) error {
	l.steps = append(l.steps, kv.Step{Op: kv.OpSet, Keyspace: ks, Key: bytes.Clone(key), Value: bytes.Clone(value)})
	if l.size += len(ks) + len(key) + len(value); l.size < restoreBatch && len(l.steps) < kv.MaxSteps/4 {
		return nil
	}
	return l.flush(ctx)
}

func (l *loader) flush(ctx context.Context) error {
	if len(l.steps) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	_, err := l.store.Apply(ctx, kv.Durable, l.steps)
	if err == nil {
		l.keys += uint64(len(l.steps))
	}
	l.steps, l.size = nil, 0
	return err
}

// HoldsFilesystem reports whether a filesystem keeps its metadata in a store of a cluster.
func HoldsFilesystem(ctx context.Context, s Store) (bool, error) {
	there, err := s.Exists(ctx, Read{}, VolumeKeyspace, [][]byte{VolumeKey})
	return err == nil && there[0], err
}

// VolumeKeyspace and VolumeKey are where a store says that a filesystem's metadata is in it; see package
// node.
const VolumeKeyspace kv.Keyspace = "gabion"

var VolumeKey = []byte("volume")
