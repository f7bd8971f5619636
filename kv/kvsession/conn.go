package kvsession

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

var (
	errOrder  = errors.New("its rows are out of order or of place")
	errSilent = errors.New("the member does not answer")
	// errReleased ends the last connection of a session.
	errReleased = errors.New("the store was given back")
)

// final says whether an error ends the session, and not only a connection.
func final(err error) bool {
	return errors.Is(err, kv.ErrFenced) || errors.Is(err, kvrpc.ErrDenied) || errors.As(err, new(*kv.CorruptError))
}

const (
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = 500 * time.Millisecond
)

// backoff waits longer after each failure.
type backoff struct{ d time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.d = min(max(2*b.d, firstBackoff), lastBackoff)
	t := time.NewTimer(b.d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// acquire begins the session with the first leader that can be reached.
func (s *Session) acquire(ctx context.Context) (Conn, error) {
	began := time.Now()
	var pause backoff
	var last error
	for try := 0; ; try++ {
		c, err := s.attach(ctx, try, last)
		if err == nil {
			return c, nil
		}
		last = err
		switch {
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), err)
		case errors.Is(err, kv.ErrNoStore) && try+1 >= 2*s.known():
			return nil, err
		case errors.Is(err, kv.ErrFenced) && time.Since(began) < s.o.Wait:
		case final(err), errors.As(err, new(*kvrpc.InvalidError)):
			return nil, err
		}
		if werr := pause.wait(ctx); werr != nil {
			return nil, errors.Join(werr, err)
		}
	}
}

// known is how many members there are to ask, as far as the dialer says.
func (s *Session) known() int {
	if d, ok := s.dialer.(interface{ Known() int }); ok {
		return d.Known()
	}
	return 1
}

// maxAttach bounds the growth of the time that an attempt to attach may take.
const maxAttach = 4

// attach opens a connection and begins the session on it, or goes on with it. try counts the attempts
// that failed: a cluster that is slow, rather than dead, gets more time.
func (s *Session) attach(ctx context.Context, try int, last error) (_ Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.lease.patience()<<min(try/4, maxAttach))
	defer cancel()
	c, err := s.dialer.Dial(ctx, last)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, c.Close)
	defer func() {
		if unhook(); err != nil {
			c.Close()
			if ctx.Err() != nil {
				err = errors.Join(err, ctx.Err())
			}
		}
	}()
	sent := time.Now()
	open := &kvpb.SessionOpen{
		Store: s.store, Owner: s.o.Owner, TtlMs: uint64(s.o.TTL.Milliseconds()), Steal: s.o.Steal, Epoch: s.epoch, Session: s.id,
	}
	if err := c.Send(&kvpb.SessionRequest{Request: &kvpb.SessionRequest_Open{Open: open}}); err != nil {
		return nil, err
	}
	m, err := c.Recv()
	if err != nil {
		return nil, err
	}
	if f := m.GetFailed(); f != nil {
		return nil, kvrpc.ErrorOf(f.GetError())
	}
	o := m.GetOpened()
	if o == nil || s.epoch != 0 && o.GetEpoch() != s.epoch {
		return nil, errors.New("kvsession: the member answers with something else")
	}
	if s.epoch == 0 { // run has not been started
		s.epoch = o.GetEpoch()
	}
	if err := s.resume(o.GetLast()); err != nil {
		return nil, err
	}
	if !unhook() {
		return nil, ctx.Err()
	}
	s.lease.renewed(sent)
	return c, nil
}

// resume takes up work with a member that has all batches up to last.
func (s *Session) resume(last uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.number + 1 // that is not acknowledged
	if s.open != nil {
		first--
	}
	if len(s.queue) > 0 {
		first = s.queue[0].number
	}
	if last+1 < first || last > s.number {
		return &kv.CorruptError{What: "store", Err: fmt.Errorf("it has batches up to %d of the session; %d was acknowledged, %d written", last, first-1, s.number)}
	}
	s.acknowledge(last)
	s.inFlight = 0
	s.outbox = s.outbox[:0]
	for _, f := range s.fetches {
		s.outbox = append(s.outbox, f)
	}
	slices.SortFunc(s.outbox, func(a, b *fetch) int { return int(a.id) - int(b.id) })
	return nil
}

// run is the goroutine that keeps the session connected.
func (s *Session) run(ctx context.Context, c Conn) {
	var pause backoff
	var last error
	for try := 0; ; try++ {
		var err error
		if c == nil {
			if err = pause.wait(ctx); err != nil {
				return
			}
			if c, err = s.attach(ctx, try, last); err == nil {
				s.log.Info("the session goes on", "store", s.store, "epoch", s.epoch)
			}
		}
		if c != nil {
			pause, try = backoff{}, 0
			err = s.serve(ctx, c)
			c = nil
			if errors.Is(err, errReleased) {
				return
			}
			if ctx.Err() == nil && !final(err) {
				s.log.Warn("the session waits for a leader", "store", s.store, "err", err)
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case final(err):
			s.log.Error("the session is over", "store", s.store, "err", err)
			s.fail(err)
			return
		}
		last = err
		s.mu.Lock()
		s.counts.reconnects++
		s.mu.Unlock()
	}
}

// line is the session on one connection.
type line struct {
	s        *Session
	c        Conn
	watchdog *time.Timer

	renewID  uint64    // of the last renewal; guarded by Session.mu
	renewAt  time.Time // when it was sent
	renewing bool      // it is not answered
	let      bool      // a release was sent
}

// serve works with one connection until it breaks, and returns why.
func (s *Session) serve(ctx context.Context, c Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unhook := context.AfterFunc(ctx, c.Close)
	l := &line{s: s, c: c}
	// A member that neither takes nor sends anything for so long is dead or out of reach.
	l.watchdog = time.AfterFunc(s.lease.patience(), func() { cancel(errSilent) })
	received := make(chan struct{})
	go func() {
		defer close(received)
		cancel(l.receive())
	}()
	s.setConnected(true)
	err := l.send(ctx)
	s.setConnected(false)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // a failed Send only says that the stream has ended
	} else if errors.Is(err, errStream) {
		// What the member had to say is on its way.
		select {
		case <-received:
			err = context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
	cancel(err)
	l.watchdog.Stop()
	unhook()
	c.Close()
	<-received
	return err
}

func (s *Session) setConnected(c bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected = c
}

func (l *line) alive() { l.watchdog.Reset(l.s.lease.interval() + l.s.lease.patience()) }

var errStream = errors.New("the connection broke")

func (l *line) write(m *kvpb.SessionRequest) error {
	if err := l.c.Send(m); err != nil {
		return fmt.Errorf("%w: %w", errStream, err)
	}
	l.alive()
	return nil
}

// send is what there is to send, in order: renewals, questions, batches.
func (l *line) send(ctx context.Context) error {
	s := l.s
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		renewal, wait := l.nextRenewal()
		s.mu.Lock()
		b, idle := s.next()
		reads := s.outbox // after next, which may ask
		s.outbox = nil
		release := s.releasing && !l.let && len(s.queue) == 0 && s.open == nil
		s.mu.Unlock()
		if renewal != nil {
			if err := l.write(&kvpb.SessionRequest{Request: &kvpb.SessionRequest_Renew{Renew: renewal}}); err != nil {
				return err
			}
		}
		for _, f := range reads {
			if err := l.write(&kvpb.SessionRequest{Request: &kvpb.SessionRequest_Read{Read: f.req}}); err != nil {
				return err
			}
		}
		if b != nil {
			if err := l.sendBatch(b); err != nil {
				return err
			}
			continue
		}
		if release {
			l.let = true
			if err := l.write(&kvpb.SessionRequest{Request: &kvpb.SessionRequest_Release{Release: &kvpb.SessionRelease{}}}); err != nil {
				return err
			}
		}
		timer.Reset(max(0, min(wait, idle)))
		select {
		case <-s.kick:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *line) sendBatch(b *outgoing) error {
	for data := b.data; ; {
		n := min(len(data), frameBytes)
		m := &kvpb.SessionBatch{Number: b.number, Data: data[:n], More: n < len(data)}
		if err := l.write(&kvpb.SessionRequest{Request: &kvpb.SessionRequest_Batch{Batch: m}}); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

// nextRenewal returns the renewal to send now, or how long there is none.
func (l *line) nextRenewal() (*kvpb.SessionRenew, time.Duration) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.renewing {
		return nil, time.Hour
	}
	if wait := l.s.lease.interval() - time.Since(l.renewAt); wait > 0 {
		return nil, wait
	}
	l.renewID++
	l.renewAt, l.renewing = time.Now(), true
	return &kvpb.SessionRenew{Id: l.renewID}, time.Hour
}

// receive takes what the member sends until the connection breaks.
func (l *line) receive() error {
	s := l.s
	for {
		m, err := l.c.Recv()
		if err != nil {
			return err
		}
		l.alive()
		switch r := m.GetResponse().(type) {
		case *kvpb.SessionResponse_Durable:
			s.mu.Lock()
			if n := r.Durable.GetNumber(); s.inFlight == 0 || n > s.queue[s.inFlight-1].number {
				err = fmt.Errorf("kvsession: the member acknowledges batch %d, which was not sent", n)
			} else {
				s.acknowledge(n)
			}
			s.mu.Unlock()
		case *kvpb.SessionResponse_Rows:
			err = s.answer(r.Rows)
		case *kvpb.SessionResponse_Renewed:
			s.mu.Lock()
			if l.renewing && r.Renewed.GetId() == l.renewID {
				l.renewing = false
				s.lease.renewed(l.renewAt)
			}
			s.mu.Unlock()
			wake(s.kick)
		case *kvpb.SessionResponse_Released:
			close(s.released)
			return errReleased
		case *kvpb.SessionResponse_Failed:
			err = s.failed(r.Failed)
		}
		if err != nil {
			return err
		}
	}
}

// failed takes in that the member could not answer a question, or ends the connection.
func (s *Session) failed(f *kvpb.SessionFailed) error {
	err := kvrpc.ErrorOf(f.GetError())
	if f.GetId() == 0 {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.fetches[f.GetId()]
	if q == nil {
		return nil
	}
	if q.batch != nil {
		return err // it has to be asked again
	}
	s.forget(q)
	q.finish(err)
	return nil
}
