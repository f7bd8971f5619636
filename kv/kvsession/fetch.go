package kvsession

import (
	"context"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// How much of the neighbourhood of a key one answer has: it begins small and grows while a range is read
// to its end.
const (
	pageRows  = 128 // of a single key that was asked for, a quarter of them lie before it
	pageBytes = 64 << 10
	maxGrowth = 4 // doublings
)

// fetch is a question to the member: about a stretch of a keyspace, or about what was there before a batch.
// Guarded by Session.mu.
type fetch struct {
	id    uint64
	probe probe
	req   *kvpb.SessionRead
	// pin is what was acknowledged when the question was asked: the answer may lack what came later, so
	// the table keeps that until the answer is there.
	pin   uint64
	keys  []blindKey // what is asked about; else probe
	batch *outgoing  // on behalf of which keys are asked
	done  chan struct{}
	err   error // set before done is closed
}

func (f *fetch) finish(err error) {
	f.err = err
	close(f.done)
}

// ask queues a question. The caller holds mu.
func (s *Session) ask(f *fetch) {
	s.fetchID++
	f.id, f.pin, f.done = s.fetchID, s.acked, make(chan struct{})
	if f.req == nil {
		f.req = &kvpb.SessionRead{}
	}
	f.req.Id = f.id
	for _, k := range f.keys {
		f.req.Keys = append(f.req.Keys, &kvpb.SessionKey{Keyspace: []byte(k.ks), Key: []byte(k.key)})
	}
	s.fetches[f.id] = f
	s.outbox = append(s.outbox, f)
	s.counts.fetches++
}

// fetch asks for what the probe is about, together with others that ask the same, and waits until the
// table knows. before is how many pages of the same range were fetched before.
func (s *Session) fetch(ctx context.Context, p probe, before int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.failure != nil {
		s.mu.Unlock()
		return s.failure
	}
	f := s.byProbe[p]
	if f == nil {
		grow := min(before, maxGrowth)
		req := &kvpb.SessionRead{
			Keyspace: []byte(p.ks), Key: []byte(p.key), End: p.end, After: uint32(s.o.rows << grow), MaxBytes: pageBytes << grow,
		}
		if p.below {
			req.Before, req.After = req.After, 0
		} else if p.point {
			req.Before, req.After = uint32(s.o.rows/4), uint32(s.o.rows-s.o.rows/4)
		}
		f = &fetch{probe: p, req: req}
		s.ask(f)
		s.byProbe[p] = f
	}
	s.mu.Unlock()
	wake(s.kick)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer takes in what a member said to a question.
func (s *Session) answer(rows *kvpb.SessionRows) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fetches[rows.GetId()]
	if f == nil {
		return nil // the session is over
	}
	s.table.mu.Lock()
	// Before, so that who asked finds the answer.
	s.table.evict(s.o.CacheBytes, s.floor(), len(rows.GetRows())+2)
	var err error
	if f.keys != nil {
		err = s.settled(f, rows)
	} else {
		err = s.filled(f, rows)
	}
	if err == nil {
		s.forget(f)
	}
	s.table.mu.Unlock()
	if err != nil {
		return err
	}
	f.finish(nil)
	return nil
}

// forget removes a question that is answered. The caller holds mu.
func (s *Session) forget(f *fetch) {
	delete(s.fetches, f.id)
	if f.keys == nil {
		delete(s.byProbe, f.probe)
	}
}

func (s *Session) filled(f *fetch, rows *kvpb.SessionRows) error {
	p := page{ks: f.probe.ks, low: str(rows.GetLow()), high: str(rows.GetHigh()), end: rows.GetEnd()}
	for _, r := range rows.GetRows() {
		key := str(r.GetKey())
		if n := len(p.rows); key < p.low || !p.end && key >= p.high || n > 0 && p.rows[n-1].key >= key {
			return &kv.CorruptError{What: "answer of a member", Err: errOrder}
		}
		value := r.GetValue()
		if value == nil {
			value = []byte{}
		}
		p.rows = append(p.rows, row{key, value})
	}
	// It must have told what was asked, or the question would be asked for ever.
	q := f.probe
	told := q.key >= p.low && (p.end || q.key < p.high)
	if q.below {
		told = q.end && p.end || !q.end && p.low < q.key && (p.end || p.high >= q.key)
	}
	if !told {
		return &kv.CorruptError{What: "answer of a member", Err: errOrder}
	}
	s.counts.rows += uint64(len(p.rows))
	s.table.fill(&p, s.sent)
	return nil
}

func (s *Session) settled(f *fetch, rows *kvpb.SessionRows) error {
	if len(rows.GetRows()) != len(f.keys) {
		return &kv.CorruptError{What: "answer of a member", Err: errOrder}
	}
	ks, told := make([]kv.Keyspace, len(f.keys)), make([]row, len(f.keys))
	for i, r := range rows.GetRows() {
		ks[i], told[i].key = f.keys[i].ks, f.keys[i].key
		if !r.GetAbsent() {
			if told[i].value = r.GetValue(); told[i].value == nil {
				told[i].value = []byte{}
			}
		}
	}
	s.table.settle(ks, told, s.sent)
	f.batch.asking--
	wake(s.kick)
	return nil
}
