package kvrpc

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// serviceDesc is the KV service of kv.proto. The operations that Exec carries too are decoded by this
// package; the others have the generated messages.
var serviceDesc = grpc.ServiceDesc{
	ServiceName: "gabion.kv.v1.KV",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		unary("Get", opGet), unary("Range", opRange), unary("Count", opCount), unary("Apply", opApply),
		unary("Call", opCall), unary("Register", opRegister), unary("Sync", opSync), unary("Ping", opPing),
		plain("Status", (*Server).status), plain("Hash", (*Server).hash),
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Exec", ServerStreams: true, ClientStreams: true,
			Handler: func(srv any, g grpc.ServerStream) error { return srv.(*Server).exec(g) }},
		{StreamName: "Watch", ServerStreams: true,
			Handler: func(srv any, g grpc.ServerStream) error { return srv.(*Server).watch(g) }},
		{StreamName: "Backup", ServerStreams: true,
			Handler: func(srv any, g grpc.ServerStream) error { return srv.(*Server).backup(g) }},
	},
	Metadata: "kv.proto",
}

type handler = func(ctx context.Context, in any) (any, error)

// intercepted runs a handler through the server's interceptor, if it has one.
func intercepted(srv any, ctx context.Context, in any, method string, i grpc.UnaryServerInterceptor, h handler) (any, error) {
	if i == nil {
		return h(ctx, in)
	}
	return i(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/gabion.kv.v1.KV/" + method}, h)
}

// unary is a method that does one operation.
func unary(name string, op opcode) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name,
		Handler: func(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			in := new(frame)
			if err := dec(in); err != nil {
				return nil, err
			}
			return intercepted(srv, ctx, in, name, i, func(ctx context.Context, in any) (any, error) {
				return srv.(*Server).unary(ctx, op, in.(*frame).in)
			})
		}}
}

// plain is a method with generated messages.
func plain[In any, P interface {
	*In
	proto.Message
}, Out proto.Message](name string, do func(*Server, context.Context, P) (Out, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name,
		Handler: func(srv any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			in := P(new(In))
			if err := dec(in); err != nil {
				return nil, err
			}
			return intercepted(srv, ctx, in, name, i, func(ctx context.Context, in any) (any, error) {
				out, err := do(srv.(*Server), ctx, in.(P))
				if err != nil {
					return nil, toStatus(encodeError(err, srv.(*Server).o.Addr))
				}
				return out, nil
			})
		}}
}

// one is the sink of a unary call.
type one struct {
	ctx  context.Context
	done sync.Once
	told chan struct{}
	body []byte
	err  error
}

func (o *one) context() context.Context { return o.ctx }
func (o *one) flush()                   {}

func (o *one) answer(_ *request, body []byte, err error) {
	o.done.Do(func() {
		o.body, o.err = append([]byte(nil), body...), err
		close(o.told)
	})
}

// unary does one operation.
func (s *Server) unary(ctx context.Context, op opcode, body []byte) (any, error) {
	r := &request{op: op, size: len(body)}
	err := r.decode(body, names{})
	if err == nil {
		err = s.check(r)
	}
	var out []byte
	if err == nil {
		out, err = s.do(ctx, r)
	}
	s.operations.Add(1)
	if err != nil {
		s.failures.Add(1)
		return nil, toStatus(encodeError(err, s.o.Addr))
	}
	return &frame{out: mem.BufferSlice{mem.SliceBuffer(out)}}, nil
}

func (s *Server) do(ctx context.Context, r *request) ([]byte, error) {
	if r.op == opPing {
		return s.ping(r.msg.(*kvpb.PingRequest)), nil
	}
	h, err := s.hostOf(r)
	if err != nil {
		return nil, err
	}
	o := &one{ctx: ctx, told: make(chan struct{})}
	w := work{req: r, to: o}
	switch r.op {
	case opApply, opCall, opRegister, opSync:
		h.write(w)
	case opGet:
		h.get(w)
	default:
		h.bulk(w)
	}
	select {
	case <-o.told:
		return o.body, o.err
	case <-ctx.Done():
		if r.op == opGet || r.op == opSync {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", kv.ErrUnknownOutcome, ctx.Err())
	}
}

// ping answers a sign of life, and who leads the store.
func (s *Server) ping(m *kvpb.PingRequest) []byte {
	out := &kvpb.PingResponse{Payload: m.Payload, Version: s.o.Version}
	if m.Store != "" {
		if member, err := s.o.Stores(m.Store); err == nil {
			st := member.Stats()
			out.Leads, out.Leader, out.LeaderAddress = st.Leads, st.Leader, s.o.Addr(st.Leader)
		}
	}
	b, err := proto.Marshal(out)
	if err != nil {
		return nil // a version that is not UTF-8
	}
	return b
}

func (s *Server) status(_ context.Context, m *kvpb.StatusRequest) (*kvpb.StatusResponse, error) {
	if err := checkName("store", m.Store); err != nil {
		return nil, err
	}
	h, err := s.hostOf(&request{store: m.Store})
	if err != nil {
		return nil, err
	}
	st := h.member.Stats()
	out := &kvpb.StatusResponse{
		Store: m.Store, Node: s.o.NodeID, Leads: st.Leads, Leader: st.Leader, LeaderAddress: s.o.Addr(st.Leader),
		Term: st.Term, AppliedIndex: st.AppliedIndex, StateIndex: st.StateIndex, AgeUs: micros(h.member.Age()),
		Transactions: st.Transactions, Batches: st.Batches, BatchBytes: st.BatchBytes, Applied: st.Applied,
		PendingBytes: st.PendingBytes, RecentBytes: st.RecentBytes, StateBytes: st.StateBytes, LogBytes: st.LogBytes,
		Flushes: st.Flushes, FlushBytes: st.FlushBytes, LastFlushUs: micros(st.LastFlush), Restores: st.Restores,
		OpenViews:  uint64(st.OpenViews),
		Operations: s.operations.Load(), OperationsFailed: s.failures.Load(), Streams: s.streams.Load(), Watches: s.watching.Load(),
	}
	if st.Err != nil {
		out.Failure = st.Err.Error()
	}
	for _, m := range h.member.Members() {
		out.Members = append(out.Members, &kvpb.Member{Id: m.ID, Address: s.o.Addr(m.ID), Voter: m.Voter})
	}
	return out, nil
}
