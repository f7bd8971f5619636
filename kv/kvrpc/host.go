package kvrpc

import (
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// host serves one member to all clients. The writes of all streams are evaluated by one goroutine, one
// behind the other, as Ordered updates; what has been evaluated waits for its batch together. Linearizable
// gets that arrive at the same time share a view. The goroutines live while there is work.
type host struct {
	server  *Server
	member  Member
	eraBase uint64 // turns epochs into eras that no other server has

	mu         sync.Mutex
	writes     []work
	evaluating bool
	reads      []work
	readers    int
}

// work is an operation that is being worked on.
type work struct {
	req  *request
	to   sink
	body []byte
	err  error
	// Of a write:
	wrote    bool // something was sequenced
	repeated bool // an earlier copy did it
}

// sink is where an operation came from. Its methods are safe for concurrent use and do not block.
type sink interface {
	// answer takes the body of the answer, or an error. The body is copied.
	answer(r *request, body []byte, err error)
	// flush sends the answers, so that those that are given together travel together.
	flush()
	context() context.Context
}

const (
	// writeRound is how many writes are evaluated before they begin to wait for their batch.
	writeRound = 512
	// maxReaders is how many shared views are under way: while one is being verified the next gathers.
	maxReaders = 3
	// readRoundBytes ends a shared view that has become large.
	readRoundBytes = 8 << 20
)

// write queues a write.
func (h *host) write(ws ...work) {
	h.mu.Lock()
	h.writes = append(h.writes, ws...)
	start := !h.evaluating
	h.evaluating = true
	h.mu.Unlock()
	if start && !h.server.spawn(h.evaluate) {
		h.mu.Lock()
		h.evaluating = false
		h.mu.Unlock()
		h.drop(ws)
	}
}

func (h *host) drop(ws []work) {
	for i := range ws {
		ws[i].to.answer(ws[i].req, nil, kv.ErrClosed)
		ws[i].to.flush()
	}
}

// evaluate runs the writes until there are none.
func (h *host) evaluate() {
	for {
		h.mu.Lock()
		n := min(len(h.writes), writeRound)
		if n == 0 {
			h.evaluating = false
			h.mu.Unlock()
			return
		}
		round := h.writes[:n:n]
		if h.writes = h.writes[n:]; len(h.writes) == 0 {
			h.writes = nil
		}
		h.mu.Unlock()

		epoch := h.member.Epoch()
		waiting := round[:0]
		var told []sink
		for i := range round {
			w := round[i]
			h.evaluateOne(&w)
			if h.answerNow(&w, epoch) {
				told = append(told, w.to)
			} else {
				waiting = append(waiting, w)
			}
		}
		for _, to := range told {
			to.flush()
		}
		if len(waiting) > 0 && !h.server.spawn(func() { h.settle(epoch, waiting) }) {
			h.drop(waiting)
		}
	}
}

// evaluateOne evaluates a write and sequences what it does.
func (h *host) evaluateOne(w *work) {
	if w.err = w.to.context().Err(); w.err != nil { // nobody waits for it
		return
	}
	if w.req.op == opSync { // it has its place in the order of the writes
		return
	}
	err := h.member.Update(w.to.context(), kv.Ordered, func(tx kv.Txn) error { return h.run(tx, w) })
	if err != nil && w.req.write.repeat && isVerdict(err) {
		// An earlier copy may still arrive, and must not be applied then.
		verdict := err
		if err = h.member.Update(w.to.context(), kv.Ordered, func(tx kv.Txn) error { return h.refuse(tx, w, verdict) }); err == nil && !w.repeated {
			w.wrote, err = true, verdict
		}
	}
	w.err = err
}

// isVerdict says whether err was found by evaluating a write that was not applied before.
func isVerdict(err error) bool {
	var large *kv.TooLargeError
	var procedure *ProcedureError
	return errors.Is(err, kv.ErrConflict) || errors.As(err, &large) || errors.As(err, &procedure)
}

// run is the transaction of a write.
func (h *host) run(tx kv.Txn, w *work) (err error) {
	r := w.req
	w.body, w.wrote, w.repeated = nil, false, false
	if r.op == opRegister {
		w.wrote = true
		return registerClient(tx, r.msg.(*kvpb.RegisterRequest).Client)
	}
	var key []byte
	if len(r.write.client) > 0 {
		key = slotKey(r.write.client, r.write.slot)
		if w.body, w.repeated, err = r.write.earlier(tx, key); err != nil || w.repeated {
			return err
		}
	}
	if err := h.server.leases.admit(tx, h.member); err != nil {
		return err
	}
	counted := counter{Txn: tx}
	if r.op == opApply {
		results, err := kv.Evaluate(&counted, r.steps)
		if err != nil {
			return err
		}
		w.body = appendResults(nil, results)
	} else if w.body, err = h.call(&counted, r.msg.(*kvpb.CallRequest)); err != nil {
		return err
	}
	w.wrote = counted.writes > 0
	if key != nil && (w.wrote || r.write.repeat) {
		w.wrote = true
		r.write.record(tx, key, w.body)
	}
	return nil
}

// counter counts what a transaction writes.
type counter struct {
	kv.Txn
	writes int
}

func (c *counter) Put(ks kv.Keyspace, key, value []byte) {
	c.writes++
	c.Txn.Put(ks, key, value)
}

func (c *counter) Delete(ks kv.Keyspace, key []byte) {
	c.writes++
	c.Txn.Delete(ks, key)
}

// refuse is the transaction that refuses a write for good.
func (h *host) refuse(tx kv.Txn, w *work, verdict error) (err error) {
	r := w.req
	if len(r.write.client) == 0 {
		return nil
	}
	key := slotKey(r.write.client, r.write.slot)
	if w.body, w.repeated, err = r.write.earlier(tx, key); err != nil || w.repeated {
		return err
	}
	return r.write.refuse(tx, key, encodeError(verdict, h.server.o.Addr))
}

// call runs a procedure.
func (h *host) call(tx kv.Txn, m *kvpb.CallRequest) ([]byte, error) {
	p, ok := h.server.o.Procedures[m.Procedure]
	if !ok {
		return nil, kv.ErrNoProcedure
	}
	result, err := p(tx, m.Args)
	if err != nil {
		return nil, procedureError(m.Procedure, err)
	}
	if len(result) > maxArgs {
		return nil, &kv.TooLargeError{What: "result", Size: len(result), Max: maxArgs}
	}
	return proto.Marshal(&kvpb.CallResponse{Result: result})
}

// procedureError keeps the errors of package kv and puts others into a form that travels.
func procedureError(name string, err error) error {
	if e := encodeError(err, func(string) string { return "" }); e.Kind != kvpb.Error_OTHER {
		return err
	}
	out := &ProcedureError{Procedure: name, Message: err.Error()}
	var d Detailed
	if errors.As(err, &d) {
		out.Detail = d.Detail()
	}
	return out
}

// answerNow answers what does not wait: ordered writes, and what was refused without looking.
func (h *host) answerNow(w *work, epoch uint64) bool {
	var not *kv.NotLeaderError
	switch {
	case w.err == nil && w.req.write.commit == kv.Ordered && w.wrote && w.req.op != opSync:
		if epoch == 0 { // it has begun meanwhile, and which one it is nobody can say
			w.to.answer(w.req, nil, kv.ErrUnknownOutcome)
			break
		}
		w.to.answer(w.req, h.tail(w, 0, h.eraBase+epoch), nil)
	case errors.As(w.err, &not), errors.Is(w.err, kv.ErrClosed), errors.Is(w.err, kv.ErrUnknownOutcome),
		errors.Is(w.err, context.Canceled), errors.Is(w.err, context.DeadlineExceeded):
		w.to.answer(w.req, nil, w.err)
	default:
		return false
	}
	return true
}

// settle waits until what was evaluated is durable and answers. Answers that rest on nothing written,
// such as a conflict, are only given when this member led all the time.
func (h *host) settle(epoch uint64, round []work) {
	ctx := h.server.ctx
	looked := slices.ContainsFunc(round, func(w work) bool { return !w.wrote })
	err := h.member.SyncSince(ctx, epoch)
	index := h.member.AppliedIndex()
	var verified error
	if looked {
		verified = h.verify(ctx, epoch)
	}
	for i := range round {
		w := &round[i]
		switch {
		case w.req.op == opSync:
			h.answerSync(w, epoch, index, err)
			continue
		case err != nil && w.wrote:
			w.err = unknown(err)
		case !w.wrote && verified != nil:
			w.err = verified
		}
		if w.err != nil {
			w.to.answer(w.req, nil, w.err)
		} else {
			w.to.answer(w.req, h.tail(w, index, 0), nil)
		}
	}
	for i := range round {
		round[i].to.flush()
	}
}

// verify says whether this member has led since before the round under the epoch.
func (h *host) verify(ctx context.Context, epoch uint64) error {
	err := h.member.View(ctx, kv.Linearizable, func(kv.Reader) error { return nil })
	if err == nil && h.member.Epoch() != epoch {
		err = &kv.NotLeaderError{}
	}
	return readError(err)
}

// unknown is the outcome of writes that were sequenced and then not waited for with success.
func unknown(err error) error {
	if errors.Is(err, kv.ErrUnknownOutcome) {
		return err
	}
	return errors.Join(kv.ErrUnknownOutcome, err)
}

// readError is an error for who has written nothing: a leadership that was lost meanwhile leaves nothing
// unknown.
func readError(err error) error {
	var not *kv.NotLeaderError
	if errors.Is(err, kv.ErrUnknownOutcome) && !errors.As(err, &not) {
		return &kv.NotLeaderError{}
	}
	if not != nil {
		return not
	}
	return err
}

// tail puts what all writes tell behind the body.
func (h *host) tail(w *work, index, era uint64) []byte {
	b := w.body
	if w.req.op == opRegister {
		return appendUint(b, 1, index)
	}
	b = appendUint(b, 2, index)
	b = appendBool(b, 3, w.repeated)
	return appendUint(b, 4, era)
}

// answerSync answers a Sync. A member that does not lead cannot know what became of an era.
func (h *host) answerSync(w *work, epoch, index uint64, err error) {
	era := w.req.msg.(*kvpb.SyncRequest).Era
	switch {
	case epoch == 0:
		if err = h.member.View(h.server.ctx, kv.Pending, func(kv.Reader) error { return nil }); err == nil {
			err = &kv.NotLeaderError{}
		}
	case era != 0 && era != h.eraBase+epoch:
		err = errLost
	}
	w.to.answer(w.req, appendUint(nil, 1, index), err)
}

// forgetIdle removes the rows of clients that have been idle for a day.
func (h *host) forgetIdle(ctx context.Context, now uint32) error {
	if h.member.Epoch() == 0 {
		return nil
	}
	var idle [][]byte
	if err := h.member.View(ctx, kv.Stale, func(r kv.Reader) (err error) {
		idle, err = idleClients(r, now)
		return err
	}); err != nil {
		return err
	}
	for _, client := range idle {
		if err := h.member.Update(ctx, kv.Ordered, func(tx kv.Txn) error { return forgetClient(tx, client, now) }); err != nil {
			return err
		}
	}
	return nil
}
