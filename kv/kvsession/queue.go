package kvsession

import (
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/internal/batch"
)

const (
	// batchBytes ends a batch that nobody waits for.
	batchBytes = 1 << 20
	// maxInFlight is how many batches are on their way at once: enough to fill the way to a member and
	// its log, few enough that those who wait share the next one.
	maxInFlight = 4
	// frameBytes is the largest piece of a batch that is sent as one message.
	frameBytes = 1 << 20
)

// outgoing is a batch: the writes of one transaction or several. Guarded by Session.mu.
type outgoing struct {
	number  uint64
	last    uint64 // sequence number of its last transaction
	enc     batch.Encoder
	data    []byte // encoded, once it is sealed
	charged int64  // to Session.pending
	began   time.Time
	wanted  bool       // someone waits for it
	blind   []blindKey // keys of which it is not known what was there before
	held    time.Time  // since when it waits for older views to close
	asked   bool       // the member was asked about blind
	asking  int        // answers that are still to come
	done    chan struct{}
	err     error // set before done is closed: why it is not known to be durable
}

type blindKey struct {
	ks  kv.Keyspace
	key string
}

// covering returns the batch that has seq in it, which is not acknowledged yet. The caller holds mu.
func (s *Session) covering(seq uint64) *outgoing {
	for _, b := range s.queue {
		if b.last >= seq {
			return b
		}
	}
	return s.open
}

// sequence appends what the transaction wrote to the open batch and to the table. The caller has the
// turn.
func (s *Session) sequence(t *txn, c kv.Commit) (*outgoing, error) {
	need := 0
	for i := range t.list {
		need += len(t.list[i].key) + len(t.list[i].value) + batch.Overhead
	}
	if need > batch.MaxSize-1<<20 {
		return nil, &kv.TooLargeError{What: "batch", Size: need, Max: batch.MaxSize - 1<<20}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return nil, s.failure
	}
	b := s.open
	if b != nil && b.enc.Len()+need > batchBytes {
		s.seal()
		b = nil
	}
	if b == nil {
		s.number++
		b = &outgoing{number: s.number, began: time.Now(), done: make(chan struct{})}
		if n := len(s.spare); n > 0 {
			b.enc.Use(s.spare[n-1])
			s.spare = s.spare[:n-1]
		}
		s.open = b
		wake(s.kick)
	}
	before := b.enc.Len()
	b.enc.Grow(need)
	seq, oldest := s.seq+1, s.oldestView(t.slot)
	s.table.mu.Lock()
	for i := range t.list {
		w := &t.list[i]
		if w.value == nil {
			b.enc.Delete(w.ks, w.key)
		} else {
			b.enc.Put(w.ks, w.key, w.value)
		}
		if key, blind := s.table.insert(w, seq, oldest); blind {
			b.blind = append(b.blind, blindKey{w.ks, key})
		}
	}
	s.table.evict(s.o.CacheBytes, s.floor(), len(t.list))
	s.table.mu.Unlock()
	s.seq, b.last = seq, seq
	s.counts.transactions++
	charge := int64(b.enc.Len() - before)
	b.charged += charge
	s.pending += charge
	if c == kv.Durable && !b.wanted {
		b.wanted = true
		wake(s.kick)
	}
	if b.enc.Len() >= batchBytes {
		s.seal()
		wake(s.kick)
	}
	return b, nil
}

// oldestView is the sequence number of the oldest open view but the one at slot except, or that of the
// next transaction. The caller holds mu.
func (s *Session) oldestView(except int) uint64 {
	oldest := s.seq + 1
	for i, v := range s.views {
		if i != except {
			oldest = min(oldest, v.seq)
		}
	}
	return oldest
}

// floor is the sequence number up to which the server has everything, in the eyes of every open view and
// of every answer that is still to come. The caller holds mu.
func (s *Session) floor() uint64 {
	floor := min(s.acked, s.oldestView(-1))
	for _, f := range s.fetches {
		floor = min(floor, f.pin)
	}
	return floor
}

// seal closes the open batch. The caller holds mu.
func (s *Session) seal() {
	b := s.open
	s.open = nil
	b.data = b.enc.Finish()
	b.enc = batch.Encoder{}
	s.queue = append(s.queue, b)
}

// next returns the batch to send now, or how long there will be none by itself. The caller holds mu.
func (s *Session) next() (*outgoing, time.Duration) {
	if s.inFlight >= maxInFlight {
		return nil, time.Hour
	}
	if b := s.open; s.inFlight == len(s.queue) && b != nil {
		wait := s.o.Window - time.Since(b.began)
		if !b.wanted && wait > 0 && s.pending <= s.o.MaxPending {
			return nil, wait
		}
		s.seal()
	}
	if s.inFlight == len(s.queue) {
		return nil, time.Hour
	}
	b := s.queue[s.inFlight]
	if ok, wait := s.settleBlind(b); !ok {
		return nil, wait
	}
	s.inFlight++
	s.sent = max(s.sent, b.last)
	return b, 0
}

const (
	// blindPatience is how long a batch waits for older views to close; most take microseconds.
	blindPatience = 2 * time.Millisecond
	blindKeys     = 4096 // in one request
)

// settleBlind makes sure that a view that is older than a part of the batch can still learn what was
// there before, or says that the batch has to wait for that. Nearly always there is no such view or
// the rows have been read before they were written. Otherwise the views get some time to
// close, and then the member is asked for the rows. Later views do not need them. The caller holds mu.
func (s *Session) settleBlind(b *outgoing) (ok bool, wait time.Duration) {
	if len(b.blind) == 0 || s.oldestView(-1) >= b.last {
		s.waiting = false
		return true, 0
	}
	if b.asked {
		return b.asking == 0, time.Hour
	}
	if b.held.IsZero() {
		b.held = time.Now()
	}
	if wait := blindPatience - time.Since(b.held); wait > 0 {
		s.waiting = true
		return false, wait
	}
	s.waiting = false
	b.asked = true
	for keys := b.blind; len(keys) > 0; {
		n := min(len(keys), blindKeys)
		s.ask(&fetch{keys: keys[:n], batch: b})
		b.asking++
		keys = keys[n:]
	}
	return false, 0
}

// acknowledge notes that all batches up to number are durable. The caller holds mu.
func (s *Session) acknowledge(number uint64) {
	n := 0
	for n < len(s.queue) && s.queue[n].number <= number {
		b := s.queue[n]
		s.acked = b.last
		s.pending -= b.charged
		s.counts.batches++
		s.counts.batchBytes += uint64(len(b.data))
		close(b.done)
		// The member has all of it, so nobody sends it any more.
		if c := cap(b.data); c <= 2*batchBytes && len(s.spare) <= maxInFlight {
			s.spare = append(s.spare, b.data)
		}
		s.queue[n] = nil
		n++
	}
	s.queue = s.queue[n:]
	s.inFlight = max(0, s.inFlight-n)
	if n > 0 {
		close(s.progress)
		s.progress = make(chan struct{})
		wake(s.kick)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
