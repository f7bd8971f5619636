package kvrpc

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

const (
	// maxBulk is how many ranges and counts of one stream run at once.
	maxBulk = 4
	// fullOutbox is when a stream's client reads so slowly that nothing large is read for it.
	fullOutbox = 16 << 20
)

// stream is one client's Exec stream. Answers gather in its outbox while its sender is busy.
type stream struct {
	server *Server
	grpc   grpc.ServerStream
	ctx    context.Context
	names  names

	mu       sync.Mutex
	room     sync.Cond // something was answered
	out      outbox
	sending  bool
	wake     chan struct{} // of the sender
	over     chan struct{} // closed with err
	err      error         // the stream is over
	waiting  int           // operations under way
	bytes    int           // of their requests
	bulk     []work
	bulkRuns int

	senders sync.WaitGroup
}

// exec is the handler of Exec.
func (s *Server) exec(g grpc.ServerStream) error {
	ctx, cancel := joinContext(g.Context(), s.ctx)
	defer cancel()
	st := &stream{server: s, grpc: g, ctx: ctx, names: names{}, wake: make(chan struct{}, 1), over: make(chan struct{})}
	st.room.L = &st.mu
	st.out.pool = &s.pool
	s.streams.Add(1)
	defer s.streams.Add(^uint64(0))
	stop := context.AfterFunc(ctx, func() { st.end(ctx.Err()) })
	defer stop()
	st.senders.Go(st.sender)
	received := make(chan error, 1)
	go func() { received <- st.receive() }() // it ends with the handler, if not before
	var err error
	select {
	case err = <-received:
	case <-ctx.Done():
		err = toStatus(encodeError(kv.ErrClosed, s.o.Addr))
	}
	if err == nil { // the client will ask no more; it gets what it has asked for
		st.drain()
	}
	st.end(io.EOF)
	st.senders.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// end makes the stream drop what is answered from now on.
func (st *stream) end(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = err
		close(st.over)
	}
	st.bulk = nil
	st.room.Broadcast()
}

// drain waits until everything is answered and sent.
func (st *stream) drain() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for st.err == nil && (st.waiting > 0 || st.sending) {
		st.room.Wait()
	}
}

// receive takes messages until the client ends the stream.
func (st *stream) receive() error {
	for {
		var f frame
		if err := st.grpc.RecvMsg(&f); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		reqs, refused, err := decodeExec(f.in, st.names)
		if err != nil {
			return toStatus(encodeError(err, st.server.o.Addr))
		}
		bytes := 0
		for i := range reqs {
			bytes += reqs[i].size
		}
		if err := st.admit(len(reqs), bytes); err != nil {
			return err
		}
		st.dispatch(reqs, refused)
	}
}

// admit waits until the stream has room for more operations.
func (st *stream) admit(n, bytes int) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	for st.err == nil && st.waiting > 0 && (st.waiting+n > maxWaiting || st.bytes+bytes > maxWaitingBytes) {
		st.room.Wait()
	}
	st.waiting += n
	st.bytes += bytes
	return st.err
}

// dispatch hands the operations of a message to those who do them.
func (st *stream) dispatch(reqs []request, refused []error) {
	var writes []work
	var target *host
	for i := range reqs {
		r := &reqs[i]
		var err error
		if refused != nil {
			err = refused[i]
		}
		if err == nil {
			err = st.server.check(r)
		}
		if err == nil && r.op == opPing {
			st.answer(r, st.server.ping(r.msg.(*kvpb.PingRequest)), nil)
			continue
		}
		var h *host
		if err == nil {
			h, err = st.server.hostOf(r)
		}
		if err != nil {
			st.answer(r, nil, err)
			continue
		}
		switch r.op {
		case opApply, opCall, opRegister, opSync:
			if h != target && len(writes) > 0 {
				target.write(writes...)
				writes = nil
			}
			target, writes = h, append(writes, work{req: r, to: st})
		case opGet:
			if st.full() {
				st.later(h, r)
			} else {
				h.get(work{req: r, to: st})
			}
		default:
			st.later(h, r)
		}
	}
	if len(writes) > 0 {
		target.write(writes...)
	}
	st.flush()
}

func (st *stream) full() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.out.size > fullOutbox
}

// later runs a large read when there is room for its answer.
func (st *stream) later(h *host, r *request) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		r.host = h
		st.bulk = append(st.bulk, work{req: r, to: st})
		st.runBulk()
	}
}

// runBulk starts as many large reads as may run. The caller holds mu.
func (st *stream) runBulk() {
	for len(st.bulk) > 0 && st.bulkRuns < maxBulk && st.out.size <= fullOutbox {
		w := st.bulk[0]
		st.bulk = st.bulk[1:]
		st.bulkRuns++
		run := func() {
			w.req.host.bulk(w)
			st.mu.Lock()
			defer st.mu.Unlock()
			st.bulkRuns--
			st.runBulk()
		}
		st.senders.Go(run)
	}
}

// context implements sink.
func (st *stream) context() context.Context { return st.ctx }

// answer implements sink.
func (st *stream) answer(r *request, body []byte, err error) {
	op := r.op
	if err != nil {
		e := encodeError(err, st.server.o.Addr)
		op = opError
		if body, err = proto.Marshal(e); err != nil { // never a reason to leave a client without an answer
			body, _ = proto.Marshal(&kvpb.Error{Message: err.Error()})
		}
		st.server.failures.Add(1)
	}
	st.server.operations.Add(1)
	size := 32 + len(body)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.waiting--
	st.bytes -= r.size
	if st.err != nil {
		return
	}
	if len(body) > segmentBytes {
		st.out.adopt(appendResponse(st.server.pool.get(size), r.id, op, body))
	} else {
		st.out.put(appendResponse(st.out.room(size), r.id, op, body))
	}
}

// appendResponse appends field 1 of a kvpb.ExecResponse.
func appendResponse(b []byte, id uint64, op opcode, body []byte) []byte {
	n := protowire.SizeTag(op) + protowire.SizeBytes(len(body))
	if id != 0 {
		n += protowire.SizeTag(1) + protowire.SizeVarint(id)
	}
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b = appendUint(b, 1, id)
	return appendBytes(b, op, body)
}

// flush implements sink.
func (st *stream) flush() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.out.size > 0 && !st.sending && st.err == nil {
		st.sending = true
		st.wake <- struct{}{} // there is room: it was taken before sending became false
	}
	st.room.Broadcast()
}

// sender is the goroutine that sends what has gathered.
func (st *stream) sender() {
	for {
		select {
		case <-st.wake:
			runtime.Gosched() // answers that are about to come travel along
			st.send()
		case <-st.over:
			return
		}
	}
}

// send sends until there is nothing more.
func (st *stream) send() {
	for {
		st.mu.Lock()
		if st.out.size == 0 || st.err != nil {
			st.sending = false
			st.room.Broadcast()
			st.mu.Unlock()
			return
		}
		f := frame{out: st.out.take()}
		st.runBulk()
		st.mu.Unlock()
		if err := st.grpc.SendMsg(&f); err != nil {
			st.end(err)
		}
	}
}
