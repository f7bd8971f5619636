package kvrpc

import (
	"context"
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// catchUp is how long a session read waits for this member to catch up.
const catchUp = 2 * time.Second

// get answers a Get, now or together with others.
func (h *host) get(w work) {
	if w.req.read.level != kvpb.Level_LINEARIZABLE {
		h.bulk(w)
		return
	}
	h.mu.Lock()
	h.reads = append(h.reads, w)
	start := h.readers < maxReaders
	if start {
		h.readers++
	}
	h.mu.Unlock()
	if start && !h.server.spawn(h.read) {
		h.mu.Lock()
		h.readers--
		h.mu.Unlock()
		h.drop([]work{w})
	}
}

// read answers linearizable gets, many with one view, until there are none.
func (h *host) read() {
	var buf []byte
	for {
		h.mu.Lock()
		round := h.reads
		h.reads = nil
		if len(round) == 0 {
			h.readers--
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		for len(round) > 0 {
			var n int
			n, buf = h.readRound(round, buf[:0])
			round = round[n:]
		}
	}
}

// readRound answers the first of the gets with one view and returns how many they were.
func (h *host) readRound(round []work, buf []byte) (n int, _ []byte) {
	ends := make([]int, 0, len(round))
	var index uint64
	seen, err := h.member.ViewAt(h.server.ctx, kv.Linearizable, func(r kv.Reader, at uint64) error {
		index = at
		for i := range round {
			buf, round[i].err = appendValues(buf, r, round[i].req)
			ends = append(ends, len(buf))
			if len(buf) > readRoundBytes {
				break
			}
		}
		return nil
	})
	if n = len(ends); n == 0 {
		n = len(round) // none was looked at
	}
	var body []byte
	start := 0
	for i := range round[:n] {
		w := &round[i]
		switch {
		case err != nil:
			w.to.answer(w.req, nil, readError(err))
			continue
		case w.err != nil:
			w.to.answer(w.req, nil, w.err)
		default:
			body = append(body[:0], buf[start:ends[i]]...)
			w.to.answer(w.req, appendView(body, 2, index, 0, seen), nil)
		}
		start = ends[i]
	}
	for i := range round[:n] {
		round[i].to.flush()
	}
	return n, buf
}

// appendView appends what every answer to a read tells about its view, in the fields from f on. They are
// index, age and seen in each of the answers.
func appendView(b []byte, f opcode, index, age, seen uint64) []byte {
	b = appendUint(b, f, index)
	b = appendUint(b, f+1, age)
	return appendUint(b, f+2, seen)
}

// appendValues appends the values that a Get asks for.
func appendValues(b []byte, r kv.Reader, req *request) ([]byte, error) {
	began := len(b)
	for i := range req.keys {
		value, err := r.Get(req.keys[i].Keyspace, req.keys[i].Key)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return b[:began], err
		}
		if len(b)-began+len(value) > maxAnswer && i > 0 {
			return b[:began], &kv.TooLargeError{What: "answer", Size: len(b) - began + len(value), Max: maxAnswer}
		}
		var at int
		b, at = begin(b, 1)
		if err == nil {
			b = appendBool(b, 1, true)
			if !req.existsOnly && len(value) > 0 {
				b = appendBytes(b, 2, value)
			}
		}
		b = end(b, at)
	}
	return b, nil
}

// bulk answers one read with a view of its own.
func (h *host) bulk(w work) {
	body, err := h.readOne(w.to.context(), w.req)
	w.to.answer(w.req, body, err)
	w.to.flush()
}

// readOne evaluates a Get, Range or Count.
func (h *host) readOne(ctx context.Context, r *request) (body []byte, err error) {
	ctx, cancel := joinContext(ctx, h.server.ctx)
	defer cancel()
	var run func(kv.Reader) ([]byte, error)
	field := opcode(2)
	switch m := r.msg.(type) {
	case *kvpb.RangeRequest:
		if err := checkKeyspace(kv.Keyspace(m.Keyspace)); err != nil {
			return nil, err
		}
		field = 3
		run = func(tx kv.Reader) ([]byte, error) { return appendRange(body[:0], tx, m) }
	case *kvpb.CountRequest:
		if err := checkKeyspace(kv.Keyspace(m.Keyspace)); err != nil {
			return nil, err
		}
		run = func(tx kv.Reader) ([]byte, error) { return countRange(ctx, tx, m) }
	default:
		run = func(tx kv.Reader) ([]byte, error) { return appendValues(body[:0], tx, r) }
	}
	level, age, err := h.level(ctx, r)
	if err != nil {
		return nil, err
	}
	var index uint64
	seen, err := h.member.ViewAt(ctx, level, func(tx kv.Reader, at uint64) (err error) {
		index = at
		body, err = run(tx)
		return err
	})
	if err != nil {
		return nil, readError(err)
	}
	us := micros(age)
	if r.op == opCount { // its fields are not in the order of the others
		body = appendUint(appendUint(body, 3, index), 4, us)
		return appendUint(body, 6, seen), nil
	}
	return appendView(body, field, index, us, seen), nil
}

// level says at which level of the member a read is evaluated, after what it has to wait for, and how old
// the view may be.
func (h *host) level(ctx context.Context, r *request) (kv.Level, time.Duration, error) {
	switch r.read.level {
	case kvpb.Level_LINEARIZABLE:
		return kv.Linearizable, 0, nil
	case kvpb.Level_PENDING:
		return kv.Pending, 0, nil
	case kvpb.Level_SESSION:
		if h.member.AppliedIndex() < r.read.minIndex {
			wait, cancel := context.WithTimeout(ctx, catchUp)
			err := h.member.WaitApplied(wait, r.read.minIndex)
			cancel()
			if err != nil && wait.Err() != nil && ctx.Err() == nil {
				return 0, 0, ErrTooStale
			}
			if err != nil {
				return 0, 0, err
			}
		}
	case kvpb.Level_STALE:
	default:
		return 0, 0, invalid("read level %d", r.read.level)
	}
	age := h.member.Age()
	if r.read.maxAge > 0 && micros(age) > r.read.maxAge {
		return 0, 0, ErrTooStale
	}
	return kv.Stale, age, nil
}

// micros is a duration as messages have it.
func micros(d time.Duration) uint64 {
	if d == raftkv.Unknown {
		return math.MaxUint64
	}
	return uint64((max(d, 0) + time.Microsecond - 1).Microseconds()) // at least as old
}

// joinContext is done when either is.
func joinContext(a, b context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(a)
	stop := context.AfterFunc(b, cancel)
	return ctx, func() { stop(); cancel() }
}

// bounds makes a kv.Range of the bounds as messages have them.
func bounds(from, to []byte, toIsEmpty bool) kv.Range {
	r := kv.Range{To: to}
	if len(from) > 0 {
		r.From = from
	}
	if len(to) == 0 {
		if r.To = nil; toIsEmpty {
			r.To = []byte{}
		}
	}
	return r
}

// appendRange appends a page of a range. The entries are put into the message as they come.
func appendRange(b []byte, r kv.Reader, m *kvpb.RangeRequest) ([]byte, error) {
	rng := bounds(m.From, m.To, m.ToIsEmpty)
	rng.Reverse = m.Reverse
	most := int(m.MaxBytes)
	if most == 0 {
		most = defaultPage
	}
	most = min(most, maxAnswer)
	if cap(b) == 0 {
		b = make([]byte, 0, min(most, 64<<10)+256)
	}
	var n, size uint32
	more := false
	err := r.Range(kv.Keyspace(m.Keyspace), rng, func(key, value []byte) bool {
		if m.KeysOnly {
			value = nil
		}
		add := uint32(len(key) + len(value))
		if n > 0 && (size+add > uint32(most) || m.Limit > 0 && n == m.Limit) {
			more = true
			return false
		}
		n, size = n+1, size+add
		if need := len(b) + int(add) + 32; need > cap(b) {
			bigger := make([]byte, len(b), max(min(2*cap(b), most+most/4+1024), need))
			copy(bigger, b)
			b = bigger
		}
		var at int
		b, at = begin(b, 1)
		b = appendBytes(b, 1, key)
		if len(value) > 0 {
			b = appendBytes(b, 2, value)
		}
		b = end(b, at)
		return true
	})
	if err != nil {
		return nil, err
	}
	return appendBool(b, 2, more), nil
}

// countRange counts a range. It looks at ctx now and then: a keyspace may be large.
func countRange(ctx context.Context, r kv.Reader, m *kvpb.CountRequest) ([]byte, error) {
	d := kv.NewDigest()
	err := r.Range(kv.Keyspace(m.Keyspace), bounds(m.From, m.To, m.ToIsEmpty), func(key, value []byte) bool {
		d.Add(key, value)
		return d.Pairs%1024 != 0 || ctx.Err() == nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	sum := d.Sum()
	return proto.Marshal(&kvpb.CountResponse{Keys: d.Pairs, Bytes: d.Bytes, Digest: sum[:]})
}
