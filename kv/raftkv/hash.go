package raftkv

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
)

// To compare members at one index, the leader writes a mark. Each member that applies it opens a view
// right then and sums it up in the background.

// hashKey holds the last mark in kv.SystemKeyspace.
const hashKey = "hash/mark"

const (
	// maxHashing is how many sums a member makes at once; marks beyond that are passed over.
	maxHashing = 2
	// maxHashes is how many sums a member remembers.
	maxHashes = 16
)

// ErrNoHash is returned by a member that was busy, away, or exchanging its state file when a mark came
// by, or that has forgotten its sum. Another mark may do.
var ErrNoHash = errors.New("raftkv: this member has no sum of that mark")

// HashResult sums up what a member showed when it had applied Index: a kv.Digest of all keyspaces, in
// order, with AddKeyspace before the first pair of each. The row of the marks themselves is left out.
type HashResult struct {
	Index uint64
	Sum   [sha256.Size]byte
	Keys  uint64
	Bytes uint64 // of keys and values
}

// hashJob is a sum in the making.
type hashJob struct {
	id     string
	cancel context.CancelFunc
	done   chan struct{} // closed when the rest is set
	result HashResult
	err    error
}

// MarkHash writes a mark, at which every member sums up its contents; HashAt of each member returns the
// sum. Leader only.
func (s *Store) MarkHash(ctx context.Context) (id string, index uint64, err error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", 0, err
	}
	id = hex.EncodeToString(b[:])
	index, err = s.UpdateAt(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(kv.SystemKeyspace, []byte(hashKey), []byte(id))
		return nil
	})
	return id, index, err
}

// HashAt waits for this member's sum at a mark that MarkHash wrote. It is ErrNoHash when there is none to
// wait for.
func (s *Store) HashAt(ctx context.Context, id string, index uint64) (HashResult, error) {
	if err := s.WaitApplied(ctx, index); err != nil {
		return HashResult{}, err
	}
	var job *hashJob
	s.mu.Lock()
	for _, j := range s.hashes {
		if j.id == id {
			job = j
		}
	}
	s.mu.Unlock()
	if job == nil {
		return HashResult{}, ErrNoHash
	}
	select {
	case <-job.done:
		return job.result, job.err
	case <-ctx.Done():
		return HashResult{}, ctx.Err()
	case <-s.stop:
		return HashResult{}, s.closedError()
	}
}

// Hash is MarkHash and HashAt of this member. Leader only.
func (s *Store) Hash(ctx context.Context) (HashResult, error) {
	for {
		id, index, err := s.MarkHash(ctx)
		if err != nil {
			return HashResult{}, err
		}
		// Two marks in one log entry are one.
		if r, err := s.HashAt(ctx, id, index); !errors.Is(err, ErrNoHash) {
			return r, err
		}
	}
}

// hashMark returns the mark that an operation writes, or "".
func hashMark(ks kv.Keyspace, key, value []byte) string {
	if ks == kv.SystemKeyspace && string(key) == hashKey {
		return string(value)
	}
	return ""
}

// startHash begins to sum up what is committed now, which ends with the mark. The caller holds mu.
func (s *Store) startHash(id string) {
	running := 0
	for _, j := range s.hashes {
		select {
		case <-j.done:
		default:
			running++
		}
	}
	if running >= maxHashing || s.gen == nil || s.closing.Load() {
		s.log.Warn("passed over a mark for comparing members", "running", running)
		return
	}
	v := new(view)
	v.attach(s, true)
	ctx, cancel := context.WithCancel(context.Background())
	job := &hashJob{id: id, cancel: cancel, done: make(chan struct{}), result: HashResult{Index: v.index}}
	if s.hashes = append(s.hashes, job); len(s.hashes) > maxHashes {
		s.hashes = s.hashes[1:]
	}
	s.workers.Go(func() {
		defer cancel()
		defer v.close()
		job.err = v.hash(ctx, &job.result)
		close(job.done)
	})
}

// cancelHashes ends what startHash began. Its results are errors.
func (s *Store) cancelHashes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.hashes {
		j.cancel()
	}
}

func (v *view) hash(ctx context.Context, out *HashResult) error {
	d := kv.NewDigest()
	last := kv.Keyspace("")
	err := v.each(ctx, func(ks kv.Keyspace, key, value []byte) error {
		if hashMark(ks, key, value) != "" {
			return nil
		}
		if ks != last {
			d.AddKeyspace(ks)
			last = ks
		}
		d.Add(key, value)
		return nil
	})
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: it was given up", ErrNoHash)
	}
	out.Sum, out.Keys, out.Bytes = d.Sum(), d.Pairs, d.Bytes
	return err
}
