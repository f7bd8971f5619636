package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore"
)

// links are the connections to one disk. They carry one call at a time; one that a call left in order is used
// again, the latest first.
type links struct {
	o      Options
	hello  hello
	config *tls.Config
	slots  chan struct{} // one for each connection
	stop   chan struct{} // closed by close
	work   sync.WaitGroup

	mu     sync.Mutex
	idle   []*link
	all    map[*link]struct{}
	closed bool
}

// link is one connection, after its hello.
type link struct {
	c    *mux.Conn
	out  []byte    // for headers and metas
	used time.Time // when it became idle
}

// maxIdle is how long a connection stays open without a call. It is less than what servers allow.
const maxIdle = time.Minute

func newLinks(o Options, h hello) *links {
	config := o.Credentials.ClientConfig(o.Node, Protocol)
	config.DynamicRecordSizingDisabled = true // its small records cost more than they gain
	return &links{o: o, hello: h, config: config, slots: make(chan struct{}, o.Conns), stop: make(chan struct{}),
		all: make(map[*link]struct{})}
}

// take returns a connection that is in order, as far as one can tell.
func (p *links) take(ctx context.Context, o op) (*link, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.stop:
		return nil, objstore.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		l, err := p.pop()
		switch {
		case err != nil:
			<-p.slots
			return nil, err
		case l == nil:
			if l, err = p.dial(ctx, o); err != nil {
				<-p.slots
			}
			return l, err
		case l.alive():
			return l, nil
		}
		p.forget(l)
	}
}

// pop returns the connection that became idle last, or nil.
func (p *links) pop() (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, objstore.ErrClosed
	}
	n := len(p.idle)
	if n == 0 {
		return nil, nil
	}
	l := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return l, nil
}

// dial makes a connection and says hello.
func (p *links) dial(ctx context.Context, o op) (*link, error) {
	fail := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &LinkError{Op: o.String(), Address: p.o.Address, Err: err}
	}
	c, err := mux.Dial(ctx, p.o.Address, p.config)
	if err != nil {
		return nil, fail(err)
	}
	l := &link{c: c}
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.all[l] = struct{}{}
	}
	p.mu.Unlock()
	if closed {
		_ = c.Close()
		return nil, objstore.ErrClosed
	}
	x := &exchange{op: opHello, meta: p.hello.append, metaLen: len(helloMagic) + 2 + 2*idLen}
	err = l.do(ctx, p.o, x)
	if err == nil && x.result != nil {
		err = x.result
	}
	if err != nil {
		p.forget(l)
		var disk *DiskError
		if errors.As(err, &disk) {
			return nil, err
		}
		return nil, fail(err)
	}
	return l, nil
}

// give takes a connection back for the next call.
func (p *links) give(l *link) {
	l.used = time.Now()
	p.mu.Lock()
	keep := !p.closed
	var old []*link
	if keep {
		for len(p.idle) > 0 && l.used.Sub(p.idle[0].used) > maxIdle {
			old = append(old, p.idle[0])
			p.idle = p.idle[1:]
		}
		p.idle = append(p.idle, l)
	}
	p.mu.Unlock()
	if !keep {
		old = append(old, l)
	}
	for _, l := range old {
		p.forget(l)
	}
	<-p.slots
}

// drop closes a connection that is not in order.
func (p *links) drop(l *link) {
	p.forget(l)
	<-p.slots
}

func (p *links) forget(l *link) {
	p.mu.Lock()
	delete(p.all, l)
	p.mu.Unlock()
	_ = l.c.Close()
}

// dropIdle closes what is idle: after a server has gone, all of it is dead.
func (p *links) dropIdle() {
	p.mu.Lock()
	old := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, l := range old {
		p.forget(l)
	}
}

func (p *links) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	close(p.stop)
	all := make([]*link, 0, len(p.all))
	for l := range p.all {
		all = append(all, l)
	}
	p.idle = nil
	p.mu.Unlock()
	for _, l := range all {
		p.forget(l)
	}
	p.work.Wait()
}

func (p *links) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// alive tells whether an idle connection looks as if the server still had it: nothing has come, not even an end.
func (l *link) alive() bool {
	if time.Since(l.used) > maxIdle {
		return false
	}
	t, ok := l.c.NetConn().(*net.TCPConn)
	if !ok {
		return true
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return false
	}
	var b [1]byte
	var got error
	if err := raw.Control(func(fd uintptr) {
		_, _, got = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}); err != nil {
		return false
	}
	return errors.Is(got, unix.EAGAIN)
}

// exchange is one request and its answer.
type exchange struct {
	op      op
	meta    func([]byte) []byte // appends it; nil: none
	metaLen int
	data    []byte
	into    []byte // where the data of the answer goes

	answer []byte // its meta
	result error  // what the other end said
	sent   bool   // something of the request may have arrived
}

// past is a deadline that ends what is under way.
var past = time.Unix(1, 0)

// do sends a request and takes the answer. An error means that the connection is not in order any more.
func (l *link) do(ctx context.Context, o Options, x *exchange) error {
	now := time.Now()
	limit := grace(o.Timeout, len(x.data)+len(x.into))
	r := request{op: x.op, meta: x.metaLen, data: len(x.data)}
	if d, ok := ctx.Deadline(); ok {
		r.limit = max(d.Sub(now), time.Millisecond)
	}
	if err := l.c.SetDeadline(now.Add(limit)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.c.SetDeadline(past) })
	err := l.transfer(r, x)
	if !stop() && err == nil {
		// The answer is there, but the deadline that was set lies in the past, or will in a moment.
		return errInterrupted
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return errNoAnswer
	}
	return err
}

var (
	errNoAnswer    = errors.New("no answer for too long")
	errInterrupted = errors.New("interrupted after the answer")
)

// transfer is do without its clock.
func (l *link) transfer(r request, x *exchange) error {
	out := r.append(l.out[:0])
	if x.meta != nil {
		out = x.meta(out)
	}
	data := x.data
	if len(data) <= small {
		out, data = append(out, data...), nil
	}
	l.out = out[:0]
	x.sent = true
	if _, err := l.c.Write(out); err != nil {
		return err
	}
	if len(data) > 0 {
		if _, err := l.c.Write(data); err != nil {
			return err
		}
	}
	return l.receive(x)
}

func (l *link) receive(x *exchange) error {
	var head [headerLen]byte
	if _, err := io.ReadFull(l.c, head[:]); err != nil {
		return err
	}
	a, err := parseAnswer(head, len(x.into))
	if err != nil {
		return err
	}
	if x.answer, err = readFull(l.c, a.meta); err != nil {
		return err
	}
	if a.status != statusOK {
		x.result = errorOf(a.status, string(x.answer), x.op, l.c.RemoteAddr().String())
		x.answer = nil
		return nil
	}
	_, err = io.ReadFull(l.c, x.into)
	return err
}
