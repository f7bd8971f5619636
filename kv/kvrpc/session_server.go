package kvrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/internal/batch"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// sessionServer answers exclusive sessions for the stores of which this process has members.
type sessionServer struct {
	kvpb.UnimplementedSessionServer
	stores  func(name string) (SessionMember, error)
	address func(node string) string
	leases  *leases
	ctx     context.Context // ends with the server
	log     *slog.Logger
}

const (
	// sessionReads bounds the reads of a session that are answered at the same time, sessionQueue the
	// batches that wait to be applied; the server stops reading then.
	sessionReads = 64
	sessionQueue = 8
	// sessionRows and sessionBytes bound the answer to one read.
	sessionRows  = 4096
	sessionBytes = 4 << 20
)

// attached is one connection of a session.
type attached struct {
	server  *sessionServer
	store   string
	member  SessionMember
	era     uint64 // the leadership under which it was opened
	fence   uint64 // epoch of the session
	session [sessionID]byte

	sending sync.Mutex
	stream  kvpb.Session_AttachServer

	batches chan numbered // to be applied
	applied chan uint64   // capacity 1: the last one that was sequenced and not seen by the acknowledger
	reads   chan struct{} // capacity: how many may be answered at the same time
}

type numbered struct {
	number uint64
	data   []byte
}

// Attach implements kvpb.SessionServer.
func (s *sessionServer) Attach(stream kvpb.Session_AttachServer) error {
	a := &attached{
		server: s, stream: stream, batches: make(chan numbered, sessionQueue), applied: make(chan uint64, 1),
		reads: make(chan struct{}, sessionReads),
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err := a.run(ctx)
	if s.ctx.Err() != nil {
		err = kv.ErrClosed
	}
	if err == nil || stream.Context().Err() != nil {
		return nil
	}
	s.log.Info("a session's connection ends", "store", a.store, "epoch", a.fence, "err", err)
	return a.send(&kvpb.SessionResponse{Response: &kvpb.SessionResponse_Failed{
		Failed: &kvpb.SessionFailed{Error: encodeError(err, s.address)}}})
}

func (a *attached) send(m *kvpb.SessionResponse) error {
	a.sending.Lock()
	defer a.sending.Unlock()
	return a.stream.Send(m)
}

// run serves the connection until it ends, and returns why it must.
func (a *attached) run(ctx context.Context) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	begin := func(fn func() error) {
		work.Go(func() {
			if err := fn(); err != nil {
				cancel(err)
			}
		})
	}
	begin(func() error { return a.apply(ctx) })
	begin(func() error { return a.acknowledge(ctx) })
	incoming := make(chan error, 1)
	requests := make(chan *kvpb.SessionRequest)
	// The receiver ends with the stream, which ends when this method has returned.
	go func() {
		for {
			m, err := a.stream.Recv()
			if err != nil {
				incoming <- err
				return
			}
			select {
			case requests <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	err := a.serve(ctx, requests, incoming, begin)
	cancel(err)
	work.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serve takes requests until the connection ends.
func (a *attached) serve(ctx context.Context, requests <-chan *kvpb.SessionRequest, incoming <-chan error, begin func(func() error)) error {
	var parts []byte // of the batch that is arriving
	for {
		var m *kvpb.SessionRequest
		select {
		case m = <-requests:
		case err := <-incoming:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch r := m.GetRequest().(type) {
		case *kvpb.SessionRequest_Batch:
			if len(parts)+len(r.Batch.GetData()) > batch.MaxSize {
				return &kv.TooLargeError{What: "batch", Size: len(parts) + len(r.Batch.GetData()), Max: batch.MaxSize}
			}
			if parts == nil {
				parts = r.Batch.GetData()
			} else {
				parts = append(parts, r.Batch.GetData()...)
			}
			if r.Batch.GetMore() {
				continue
			}
			select {
			case a.batches <- numbered{r.Batch.GetNumber(), parts}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			parts = nil
		case *kvpb.SessionRequest_Read:
			select {
			case a.reads <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			begin(func() error {
				defer func() { <-a.reads }()
				return a.read(ctx, r.Read)
			})
		case *kvpb.SessionRequest_Renew:
			begin(func() error { return a.renew(ctx, r.Renew.GetId()) })
		case *kvpb.SessionRequest_Release:
			return a.release(ctx)
		default:
			return &InvalidError{"a session sends something unknown"}
		}
	}
}

// open takes the first request: it begins the session or goes on with it.
func (a *attached) open(ctx context.Context) error {
	m, err := a.stream.Recv()
	if err != nil {
		return err
	}
	o := m.GetOpen()
	ttl := time.Duration(o.GetTtlMs()) * time.Millisecond
	switch {
	case o == nil:
		return &InvalidError{"a session's first request is not an open"}
	case len(o.GetSession()) != sessionID:
		return &InvalidError{fmt.Sprintf("a session is named by %d bytes", sessionID)}
	case len(o.GetOwner()) < 1 || len(o.GetOwner()) > maxOwner:
		return &InvalidError{fmt.Sprintf("a session's owner has 1 to %d bytes", maxOwner)}
	case o.GetTtlMs() < 1 || ttl > maxTTL:
		return &InvalidError{fmt.Sprintf("a session's time to live is 1 ms to %v", maxTTL)}
	}
	copy(a.session[:], o.GetSession())
	a.store = o.GetStore()
	if a.member, err = a.server.stores(a.store); err != nil {
		return err
	}
	a.era = a.member.Epoch()
	row := sessionRow{ttl: ttl, session: a.session, owner: o.GetOwner()}
	if a.fence = o.GetEpoch(); a.fence == 0 {
		err = a.begin(ctx, &row, o.GetSteal())
	} else {
		err = a.member.View(ctx, kv.Linearizable, func(r kv.Reader) (err error) {
			row, err = a.mine(r)
			return err
		})
	}
	if err != nil {
		return err
	}
	a.fence = row.epoch
	a.server.leases.note(a.member, a.era, a.fence)
	return a.send(&kvpb.SessionResponse{Response: &kvpb.SessionResponse_Opened{
		Opened: &kvpb.SessionOpened{Epoch: row.epoch, Last: row.last}}})
}

// begin makes row the session that has the store, unless another one does.
func (a *attached) begin(ctx context.Context, row *sessionRow, steal bool) error {
	return a.member.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		old, err := readSession(tx)
		if err != nil {
			return err
		}
		if old.held() && old.session == row.session { // the answer to an earlier attempt was lost
			*row = old
			return nil
		}
		if old.held() && old.owner != row.owner && !steal &&
			a.server.leases.silence(a.member, &old) < old.ttl {
			return &kv.FencedError{Holder: old.owner}
		}
		row.epoch, row.last = old.epoch+1, 0
		writeSession(tx, row)
		return nil
	})
}

// mine returns the row if this session has the store.
func (a *attached) mine(r kv.Reader) (sessionRow, error) {
	row, err := readSession(r)
	if err == nil && (row.epoch != a.fence || row.session != a.session || !row.held()) {
		err = &kv.FencedError{Holder: row.owner}
	}
	return row, err
}

// renew confirms that the session has the store, under a leadership that is verified after the renewal
// arrived.
func (a *attached) renew(ctx context.Context, id uint64) error {
	err := a.member.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		_, err := a.mine(r)
		return err
	})
	if err != nil {
		return err
	}
	a.server.leases.note(a.member, a.era, a.fence)
	return a.send(&kvpb.SessionResponse{Response: &kvpb.SessionResponse_Renewed{Renewed: &kvpb.SessionRenewed{Id: id}}})
}

// release gives the store back.
func (a *attached) release(ctx context.Context) error {
	err := a.member.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		row, err := a.mine(tx)
		if err != nil {
			return err
		}
		writeSession(tx, &sessionRow{epoch: row.epoch})
		return nil
	})
	if err != nil {
		return err
	}
	return a.send(&kvpb.SessionResponse{Response: &kvpb.SessionResponse_Released{Released: &kvpb.SessionReleased{}}})
}

// apply sequences batches in order.
func (a *attached) apply(ctx context.Context) error {
	for {
		var b numbered
		select {
		case b = <-a.batches:
		case <-ctx.Done():
			return nil
		}
		if err := a.applyOne(ctx, b); err != nil {
			return err
		}
		select { // the later number stands for the earlier one too
		case <-a.applied:
		default:
		}
		a.applied <- b.number
	}
}

// applyOne sequences one batch, unless it is the copy of one that was.
func (a *attached) applyOne(ctx context.Context, b numbered) error {
	return a.member.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		row, err := a.mine(tx)
		if err != nil {
			return err
		}
		if b.number <= row.last {
			return nil
		}
		if b.number != row.last+1 {
			// One before it was lost with a leadership. The client finds out and sends it again.
			return fmt.Errorf("%w: batch %d follows batch %d", kv.ErrUnknownOutcome, b.number, row.last)
		}
		err = batch.Decode(b.data, func(ks kv.Keyspace, key, value []byte) error {
			switch {
			case ks.Reserved():
				return &InvalidError{fmt.Sprintf("keyspace %q is reserved", ks)}
			case value == nil:
				tx.Delete(ks, key)
			default:
				tx.Put(ks, key, value)
			}
			return nil
		})
		if err != nil {
			return err
		}
		row.last = b.number
		writeSession(tx, &row)
		return nil
	})
}

// acknowledge tells of batches that have become durable.
func (a *attached) acknowledge(ctx context.Context) error {
	for {
		var n uint64
		select {
		case n = <-a.applied:
		case <-ctx.Done():
			return nil
		}
		if err := a.member.SyncSince(ctx, a.era); err != nil {
			return err
		}
		if err := a.send(&kvpb.SessionResponse{Response: &kvpb.SessionResponse_Durable{Durable: &kvpb.SessionDurable{Number: n}}}); err != nil {
			return err
		}
	}
}

// read answers with rows.
func (a *attached) read(ctx context.Context, q *kvpb.SessionRead) error {
	out := &kvpb.SessionRows{Id: q.GetId()}
	err := a.member.View(ctx, kv.Pending, func(r kv.Reader) error {
		if _, err := a.mine(r); err != nil {
			return err
		}
		out.Reset()
		out.Id = q.GetId()
		if len(q.GetKeys()) > 0 {
			return readKeys(r, q, out)
		}
		return readNeighbours(r, q, out)
	})
	var m kvpb.SessionResponse
	var invalid *InvalidError
	switch {
	case errors.As(err, &invalid):
		m.Response = &kvpb.SessionResponse_Failed{Failed: &kvpb.SessionFailed{Id: q.GetId(), Error: encodeError(err, a.server.address)}}
	case err != nil:
		return err
	default:
		m.Response = &kvpb.SessionResponse_Rows{Rows: out}
	}
	return a.send(&m)
}

func readKeys(r kv.Reader, q *kvpb.SessionRead, out *kvpb.SessionRows) error {
	if len(q.GetKeys()) > sessionRows {
		return &InvalidError{fmt.Sprintf("a read of %d keys, allowed are %d", len(q.GetKeys()), sessionRows)}
	}
	for _, k := range q.GetKeys() {
		ks := kv.Keyspace(k.GetKeyspace())
		if ks.Reserved() {
			return &InvalidError{fmt.Sprintf("keyspace %q is reserved", ks)}
		}
		value, err := r.Get(ks, k.GetKey())
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		out.Rows = append(out.Rows, &kvpb.SessionRow{Value: bytes.Clone(value), Absent: err != nil})
	}
	return nil
}

// readNeighbours reads the rows around a key: those before it from the nearest downwards, and those from
// it on.
func readNeighbours(r kv.Reader, q *kvpb.SessionRead, out *kvpb.SessionRows) error {
	ks := kv.Keyspace(q.GetKeyspace())
	if ks.Reserved() {
		return &InvalidError{fmt.Sprintf("keyspace %q is reserved", ks)}
	}
	budget := min(int(q.GetMaxBytes()), sessionBytes)
	collect := func(g kv.Range, limit uint32) (rows []*kvpb.SessionRow, complete bool, err error) {
		size, n := 0, 0
		complete = true
		err = r.Range(ks, g, func(k, v []byte) bool {
			if n++; n > int(min(limit, sessionRows)) || n > 1 && size+len(k)+len(v) > budget {
				complete = false
				return false
			}
			size += len(k) + len(v)
			rows = append(rows, &kvpb.SessionRow{Key: bytes.Clone(k), Value: bytes.Clone(v)})
			return true
		})
		return rows, complete, err
	}
	key := q.GetKey()
	out.Low, out.High, out.End = key, key, q.GetEnd()
	if q.GetBefore() > 0 {
		g := kv.Range{To: key, Reverse: true}
		if q.GetEnd() {
			g.To = nil
		} else if g.To == nil {
			g.To = []byte{}
		}
		rows, complete, err := collect(g, q.GetBefore())
		if err != nil {
			return err
		}
		for i := len(rows) - 1; i >= 0; i-- {
			out.Rows = append(out.Rows, rows[i])
		}
		if complete {
			out.Low = nil
		} else if len(rows) > 0 {
			out.Low = rows[len(rows)-1].Key
		}
	}
	if q.GetAfter() > 0 && !q.GetEnd() {
		rows, complete, err := collect(kv.Range{From: key}, q.GetAfter())
		if err != nil {
			return err
		}
		out.Rows = append(out.Rows, rows...)
		out.End = complete
		if n := len(rows); n > 0 && !complete {
			out.High = append(append(make([]byte, 0, len(rows[n-1].Key)+1), rows[n-1].Key...), 0)
		}
	}
	return nil
}
