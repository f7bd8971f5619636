package kvrpc

import (
	"context"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
)

const (
	// streamWindow and connWindow are how much may be on its way in one direction: more than a network
	// holds, and than the largest answer.
	streamWindow = 16 << 20
	connWindow   = 32 << 20
	// ioBuffer is what one system call reads or writes.
	ioBuffer = 128 << 10
	// inlineBytes is what a goroutine sends by itself when nobody else is asking.
	inlineBytes = 4 << 10
	// slowestLine is how many bytes a second a member is expected to take at least, before it is taken for
	// dead while a large request is on its way.
	slowestLine = 512 << 10
)

var execDesc = grpc.StreamDesc{StreamName: "Exec", ClientStreams: true, ServerStreams: true}

// link is a store's stream to one member. Requests gather in its outbox while the sender is busy.
type link struct {
	store  *Store
	peer   *peer
	addr   string
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	stream  grpc.ClientStream // nil until it is open
	out     outbox
	sending bool          // someone is sending
	wake    chan struct{} // of the sender
	calls   map[uint64]*call
	next    uint64 // id of the last call
	taken   uint64 // calls up to this id may have been sent
	heard   time.Time
	probed  bool // a ping was sent since
	err     error
}

// errSilent ends a link whose member does not answer.
var errSilent = errors.New("kvrpc: the member does not answer")

// openLink returns a link that opens itself; calls may be given to it at once.
func openLink(s *Store, addr string) (*link, error) {
	p, err := s.client.peer(addr)
	if err != nil {
		return nil, err
	}
	l := &link{store: s, peer: p, addr: addr, calls: map[uint64]*call{}, wake: make(chan struct{}, 1), heard: time.Now()}
	l.out.pool = &s.client.pool
	l.ctx, l.cancel = context.WithCancel(s.client.ctx)
	conn := p.conn()
	if !s.client.spawn(func() { l.fail(l.run(conn)) }) {
		return nil, ErrClientClosed
	}
	return l, nil
}

// run opens the stream and receives until it ends.
func (l *link) run(conn *grpc.ClientConn) error {
	stream, err := conn.NewStream(l.ctx, &execDesc, "/gabion.kv.v1.KV/Exec")
	if err != nil {
		return err
	}
	l.store.client.admitted()
	l.mu.Lock()
	l.stream = stream
	l.heard, l.probed = time.Now(), false
	l.kick()
	l.mu.Unlock()
	l.store.client.work.Go(l.sender)
	for {
		var f frame
		if err := stream.RecvMsg(&f); err != nil {
			return err
		}
		if err := l.receive(f.in); err != nil {
			return err
		}
	}
}

// receive hands the answers in a message to those who wait for them.
func (l *link) receive(data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard, l.probed = time.Now(), false
	for len(data) > 0 {
		f, _, b, rest, err := next(data)
		if err != nil {
			return err
		}
		data = rest
		if f != 1 {
			continue
		}
		var id uint64
		var op opcode
		var body []byte
		for len(b) > 0 {
			f, v, sub, rest, err := next(b)
			if err != nil {
				return err
			}
			b = rest
			if f == 1 {
				id = v
			} else if sub != nil {
				op, body = f, sub
			}
		}
		c := l.calls[id]
		if c == nil { // given up
			continue
		}
		delete(l.calls, id)
		switch op {
		case c.op:
			c.body, c.err = body, nil
		case opError:
			c.err = unmarshalError(body)
		default:
			c.err = invalid("an answer of kind %d to a request of kind %d", op, c.op)
		}
		c.done <- struct{}{}
	}
	return nil
}

// start puts a call on its way.
func (l *link) start(c *call) error {
	var own []byte
	size := c.size()
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return l.err
	}
	if len(l.calls) == 0 && !l.probed { // silence before this means nothing
		l.heard = time.Now()
	}
	l.next++
	c.bytes = size
	c.id, c.body, c.err, c.sent = l.next, nil, nil, false
	if size > segmentBytes || c.cold != nil { // not while others wait for the lock
		l.mu.Unlock()
		if own = c.append(l.out.pool.get(size)); len(own) > maxMessage {
			return &kv.TooLargeError{What: "message", Size: len(own), Max: maxMessage}
		}
		l.mu.Lock()
		if l.err != nil {
			l.mu.Unlock()
			return l.err
		}
	}
	l.calls[c.id] = c
	if own != nil {
		l.out.adopt(own)
	} else {
		l.out.put(c.append(l.out.room(size)))
	}
	if len(l.calls) == 1 && size <= inlineBytes && !l.sending && l.stream != nil {
		// Everything before it was answered, so nothing holds this message up: send it here.
		l.sending = true
		l.sendOne()
		l.sending = false
	}
	l.kick()
	l.mu.Unlock()
	return nil
}

// kick wakes the sender, if nobody is sending. The caller holds mu.
func (l *link) kick() {
	if l.out.size > 0 && !l.sending && l.stream != nil {
		l.sending = true
		l.wake <- struct{}{} // there is room: it was taken before sending became false
	}
}

// sender is the goroutine that sends what has gathered.
func (l *link) sender() {
	for {
		select {
		case <-l.wake:
			runtime.Gosched() // others who are about to ask come along
			l.mu.Lock()
			for l.sendOne() {
			}
			l.sending = false
			l.mu.Unlock()
		case <-l.ctx.Done():
			return
		}
	}
}

// sendOne sends a message of what has gathered; false when there is nothing or the link is over. The
// caller holds mu, which is released meanwhile, and has set sending.
func (l *link) sendOne() bool {
	if l.out.size == 0 || l.err != nil {
		return false
	}
	l.taken = l.next
	f := frame{out: l.out.take()}
	l.mu.Unlock()
	err := l.stream.SendMsg(&f)
	if err != nil && !errors.Is(err, io.EOF) { // with EOF the receiver knows why
		l.fail(err)
	}
	l.mu.Lock()
	return err == nil
}

// fail ends the link: every call on it is told, and whether the member may have seen it.
func (l *link) fail(err error) {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if typed, ok := fromStatus(err); ok {
		err = typed
	}
	err = l.store.client.broken(l.addr, err)
	l.mu.Lock()
	if l.err == nil {
		l.err = err
		for id, c := range l.calls {
			c.err, c.sent = l.err, id <= l.taken
			c.done <- struct{}{}
		}
		clear(l.calls)
		l.out.drop()
	}
	l.mu.Unlock()
	l.cancel()
	l.store.unlink(l)
}

// wait waits for the answer. When ctx ends first it returns ctx's error, and c.sent says whether the
// member may have seen the request.
func (l *link) wait(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	if _, waiting := l.calls[c.id]; waiting {
		delete(l.calls, c.id)
		c.sent = true // or will be: it is in the outbox
		l.mu.Unlock()
		return ctx.Err()
	}
	l.mu.Unlock()
	<-c.done // answered meanwhile
	return c.err
}

// check gives the member up when it owes an answer and has shown no sign of life for too long.
func (l *link) check(now time.Time, silence time.Duration) {
	l.mu.Lock()
	if len(l.calls) == 0 || l.err != nil {
		l.mu.Unlock()
		return
	}
	heard := l.heard
	if at := time.Unix(0, l.peer.heard.Load()); l.stream != nil && at.After(heard) {
		heard, l.probed = at, false
	}
	quiet := now.Sub(heard)
	// What is large takes a while to get there.
	for _, c := range l.calls {
		silence += time.Duration(c.bytes) * time.Second / slowestLine
	}
	probe := quiet > silence/2 && !l.probed && l.stream != nil
	if probe {
		l.probed = true
		c := call{op: opPing, cold: pingMessage}
		l.next++
		c.id = l.next
		l.out.put(c.append(l.out.room(c.size())))
		l.kick()
	}
	l.mu.Unlock()
	if quiet > silence {
		l.fail(errSilent)
	}
}

// watchLinks is the goroutine that looks after the links.
func (c *Client) watchLinks() {
	t := time.NewTicker(c.o.Silence / 4)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			c.mu.Lock()
			stores := slices.Collect(maps.Values(c.stores))
			c.mu.Unlock()
			for _, s := range stores {
				for _, l := range s.openLinks() {
					l.check(now, c.o.Silence)
				}
			}
		case <-c.ctx.Done():
			return
		}
	}
}
