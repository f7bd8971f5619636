package kvrpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// Store is one store of the cluster. Safe for concurrent use.
//
// Lock order: Store.mu, Client.mu, link.mu.
type Store struct {
	client *Client
	name   string
	seen   atomic.Uint64 // highest index that an answer has told
	meetAt atomic.Int64  // when the members are to be asked for, since the client began

	mu       sync.Mutex
	links    map[string]*link // by address
	leader   string           // address, or empty
	turn     int              // of the known addresses, to look for the leader at
	reader   int              // likewise, for reads that any member answers
	identity []byte           // of the writes, registered; nil before the first
	wroteAt  time.Time
	register chan struct{} // closed when the registration that is under way has ended
	era      uint64        // of Ordered writes that no Sync has covered; 0 when there are none
	lost     bool          // some were lost with their leader, and no Sync has said so

	slots slots
}

func newStore(c *Client, name string) *Store {
	s := &Store{client: c, name: name, links: map[string]*link{}, turn: mrand.IntN(64), reader: mrand.IntN(64)}
	s.slots.init()
	return s
}

// Name returns the store's name.
func (s *Store) Name() string { return s.name }

// Leader returns the address of the leader, as far as it is known without asking.
func (s *Store) Leader() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

// slots hands out the slots that writes are numbered in: the one that was used last first, so that few
// are in use.
type slots struct {
	sem  chan struct{}
	mu   sync.Mutex
	free []uint32
	seqs [Slots]uint64
}

func (p *slots) init() {
	p.sem = make(chan struct{}, Slots)
	for i := range uint32(Slots) {
		p.free = append(p.free, Slots-1-i)
	}
}

func (p *slots) take(ctx context.Context) (slot uint32, sequence uint64, err error) {
	select {
	case p.sem <- struct{}{}:
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	slot = p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.seqs[slot]++
	return slot, p.seqs[slot], nil
}

func (p *slots) give(slot uint32) {
	p.mu.Lock()
	p.free = append(p.free, slot)
	p.mu.Unlock()
	<-p.sem
}

const (
	// forgetAfter is how long an identity is used again after a pause; the servers forget one after a day.
	forgetAfter = 12 * time.Hour
	// maxPause between two attempts.
	maxPause = 100 * time.Millisecond
	// patience is how long an answer may take before a deadline that runs out is blamed on the members.
	patience = 500 * time.Millisecond
)

// errLost is what a Sync says when Ordered writes were lost with their leader.
var errLost = fmt.Errorf("%w: the leader that acknowledged ordered writes is gone", kv.ErrUnknownOutcome)

func pingMessage() proto.Message { return &kvpb.PingRequest{Payload: []byte{0}} }

// doRead sends a read to the leader, or, when any member may answer, to one of them.
func (s *Store) doRead(ctx context.Context, c *call, o ReadOptions) error {
	switch o.Level {
	case kv.Linearizable:
		c.read.level = kvpb.Level_LINEARIZABLE
	case kv.Pending:
		c.read.level = kvpb.Level_PENDING
	case kv.Stale:
		c.read.level = kvpb.Level_STALE
	case Session:
		c.read.level = kvpb.Level_SESSION
		if c.read.minIndex = o.MinIndex; c.read.minIndex == 0 {
			c.read.minIndex = s.seen.Load()
		}
	default:
		return fmt.Errorf("kvrpc: unknown read level %d", o.Level)
	}
	if o.MaxAge > 0 {
		c.read.maxAge = uint64(max(o.MaxAge.Microseconds(), 1))
	}
	return s.do(ctx, c)
}

// doWrite gives the write its identity and sends it.
func (s *Store) doWrite(ctx context.Context, c *call, commit kv.Commit) error {
	slot, sequence, err := s.slots.take(ctx)
	if err != nil {
		return err
	}
	defer s.slots.give(slot)
	c.writes = true
	c.write = writeOptions{slot: slot, sequence: sequence, commit: commit}
	for {
		if c.write.client, err = s.registered(ctx); err != nil {
			return err
		}
		if err = s.do(ctx, c); !errors.Is(err, errUnregistered) {
			return err
		}
		s.forget(c.write.client)
	}
}

// registered returns the identity of our writes, registering a new one if necessary.
func (s *Store) registered(ctx context.Context) ([]byte, error) {
	for {
		s.mu.Lock()
		if s.identity != nil && time.Since(s.wroteAt) < forgetAfter {
			defer s.mu.Unlock()
			s.wroteAt = time.Now()
			return s.identity, nil
		}
		if under := s.register; under != nil {
			s.mu.Unlock()
			select {
			case <-under:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		}
		done := make(chan struct{})
		s.register = done
		s.mu.Unlock()
		err := s.enlist(ctx)
		s.mu.Lock()
		s.register = nil
		s.mu.Unlock()
		close(done)
		if err != nil {
			return nil, err
		}
	}
}

func (s *Store) enlist(ctx context.Context) error {
	id := make([]byte, clientBytes)
	_, _ = rand.Read(id)
	c := newCall(opRegister)
	defer c.free()
	c.cold = func() proto.Message { return &kvpb.RegisterRequest{Store: s.name, Client: id} }
	if err := s.do(ctx, c); err != nil {
		return err
	}
	s.mu.Lock()
	s.identity, s.wroteAt = id, time.Now()
	s.mu.Unlock()
	return nil
}

// forget drops an identity that the servers do not know any more.
func (s *Store) forget(id []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(s.identity) == string(id) {
		s.identity = nil
	}
}

// do sends the call until it is answered or ctx is over. A write is only sent again with its identity;
// what else is asked changes nothing.
func (s *Store) do(ctx context.Context, c *call) error {
	began := time.Now()
	unknown := false // a copy of the write is under way that nobody has answered for
	var last error   // why the attempt before failed
	var missing []string
	c.store = s.name
	for try := 0; ; try++ {
		if err := s.over(ctx); err != nil {
			return s.giveUp(err, unknown, last, missing, began)
		}
		c.write.repeat = unknown
		l, err := s.pick(c, try)
		if err != nil {
			return s.giveUp(err, unknown, last, missing, began)
		}
		if err = l.start(c); err == nil {
			err = l.wait(ctx, c)
		}
		var not *kv.NotLeaderError
		var broken *connectionError
		switch {
		case err == nil:
			s.answered(c, l.addr)
			s.meet(l.addr)
			return nil
		case errors.Is(err, ErrDenied):
			return s.giveUp(err, unknown || c.writes && c.sent, nil, nil, began)
		case errors.As(err, &broken):
			unknown = unknown || c.writes && c.sent
			s.avoid(c, l.addr)
			if len(missing) < maxKnown {
				missing = append(missing, l.addr)
			}
			var before *connectionError
			if last == nil || errors.As(last, &before) { // what a member has said tells more
				last = err
			}
		case c.err == nil: // ctx is over
			return s.giveUp(err, unknown || c.writes && c.sent, last, missing, began)
		case errors.Is(err, kv.ErrUnknownOutcome):
			unknown = unknown || c.writes
			last = err
			if c.op == opSync {
				return err
			}
			s.redirect(c, l.addr, err)
		case errors.As(err, &not):
			last = err
			s.redirect(c, l.addr, err)
			if s.Leader() != "" && try < 4 {
				continue // it said whom to ask
			}
		case errors.Is(err, kv.ErrClosed), errors.Is(err, kv.ErrNoStore), errors.Is(err, ErrTooStale),
			errors.Is(err, ErrTooMany), errors.Is(err, kv.ErrNoQuorum), errors.Is(err, context.Canceled):
			// Another member may do better; but when none has the store, it does not exist.
			last = err
			s.avoid(c, l.addr)
			if errors.Is(err, kv.ErrNoStore) && try >= 2*len(s.client.Addrs()) {
				return s.giveUp(err, unknown, nil, nil, began)
			}
		case errors.Is(err, errUnregistered) && unknown, errors.Is(err, errStale):
			return fmt.Errorf("%w: %w", kv.ErrUnknownOutcome, err)
		default:
			return err
		}
		s.pause(ctx, try)
	}
}

func (s *Store) over(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.client.ctx.Err() != nil {
		return ErrClientClosed
	}
	return nil
}

// giveUp makes the error of a call that found no answer.
func (s *Store) giveUp(err error, unknown bool, last error, missing []string, began time.Time) error {
	if errors.Is(err, context.DeadlineExceeded) && (last != nil || time.Since(began) > patience) {
		if last != nil {
			err = fmt.Errorf("%w (%w)", err, last)
		}
		err = &kv.NoQuorumError{Missing: unique(missing), Err: err}
	}
	if unknown {
		return fmt.Errorf("%w: %w", kv.ErrUnknownOutcome, err)
	}
	return err
}

func unique(in []string) (out []string) {
	have := map[string]bool{}
	for _, s := range in {
		if !have[s] {
			have[s] = true
			out = append(out, s)
		}
	}
	return out
}

// pause waits before the next attempt, longer each time.
func (s *Store) pause(ctx context.Context, try int) {
	d := min(2*time.Millisecond<<min(try, 10), maxPause)
	t := time.NewTimer(d/2 + mrand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.client.ctx.Done():
	}
}

// anyMember says whether every member may answer the call.
func (c *call) anyMember() bool {
	return c.read.level == kvpb.Level_STALE || c.read.level == kvpb.Level_SESSION
}

// pick returns a link to the member to ask.
func (s *Store) pick(c *call, try int) (*link, error) {
	known := s.client.Addrs()
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := s.leader
	if c.anyMember() {
		addr = known[s.reader%len(known)]
	} else if addr == "" {
		addr = known[s.turn%len(known)]
	}
	if l, ok := s.links[addr]; ok {
		return l, nil
	}
	l, err := openLink(s, addr)
	if err != nil {
		return nil, err
	}
	s.links[addr] = l
	return l, nil
}

// answered remembers who leads.
func (s *Store) answered(c *call, addr string) {
	if c.anyMember() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader == "" {
		s.leader = addr
	}
}

// avoid asks another member next time.
func (s *Store) avoid(c *call, addr string) {
	known := s.client.Addrs()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.anyMember():
		if known[s.reader%len(known)] == addr {
			s.reader++
		}
	case s.leader == addr:
		s.leader = ""
		fallthrough
	case s.leader == "":
		if known[s.turn%len(known)] == addr {
			s.turn++
		}
	}
}

// redirect goes to the leader that the member at addr has named, or to another member.
func (s *Store) redirect(c *call, addr string, err error) {
	var hint *leaderHint
	if errors.As(err, &hint) && hint.address != "" && hint.address != addr {
		s.client.learn(hint.address)
		s.mu.Lock()
		if s.leader == addr || s.leader == "" {
			s.leader = hint.address
		}
		s.mu.Unlock()
		return
	}
	s.avoid(c, addr)
}

func (s *Store) openLinks() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*link, 0, len(s.links))
	for _, l := range s.links {
		out = append(out, l)
	}
	return out
}

// unlink forgets a link that has failed.
func (s *Store) unlink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[l.addr] == l {
		delete(s.links, l.addr)
	}
}

// saw remembers what an answer told.
func (s *Store) saw(info ReadInfo, out *ReadInfo) {
	s.sawIndex(max(info.Index, info.Seen))
	if out != nil {
		*out = info
	}
}

func (s *Store) sawIndex(index uint64) {
	for {
		seen := s.seen.Load()
		if index <= seen || s.seen.CompareAndSwap(seen, index) {
			return
		}
	}
}

// Index returns the highest index of the log that answers have told of; Session reads show it.
func (s *Store) Index() uint64 { return s.seen.Load() }

// wrote remembers what the answer to a write told.
func (s *Store) wrote(info writeInfo, commit kv.Commit) {
	s.sawIndex(info.index)
	if info.era == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.era != 0 && s.era != info.era {
		// What the former leader had acknowledged and nobody has waited for may be gone.
		s.lost = true
	}
	if commit == kv.Ordered {
		s.era = info.era
	}
}

// takeEra begins a Sync: it returns the leadership whose writes it must cover.
func (s *Store) takeEra() (era uint64, lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	era, lost = s.era, s.lost
	s.era, s.lost = 0, false
	return era, lost
}

// putBackEra undoes takeEra after a Sync that did not find out. One that did has told its caller.
func (s *Store) putBackEra(era uint64, err error) {
	if errors.Is(err, kv.ErrUnknownOutcome) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.era == 0:
		s.era = era
	case era != 0 && s.era != era:
		s.lost = true
	}
}
