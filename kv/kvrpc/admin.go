package kvrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// Ping asks the leader for a sign of life, and says who answered.
func (s *Store) Ping(ctx context.Context) (*kvpb.PingResponse, error) {
	var out *kvpb.PingResponse
	err := s.atLeader(ctx, func(api kvpb.KVClient) (err error) {
		if out, err = api.Ping(ctx, &kvpb.PingRequest{Store: s.name}); err == nil && !out.Leads {
			err = toStatus(encodeError(&kv.NotLeaderError{Leader: out.Leader}, func(string) string { return out.LeaderAddress }))
		}
		return err
	})
	return out, err
}

// Status describes the store as its leader sees it.
func (s *Store) Status(ctx context.Context) (*kvpb.StatusResponse, error) {
	var out *kvpb.StatusResponse
	err := s.atLeader(ctx, func(api kvpb.KVClient) (err error) {
		if out, err = api.Status(ctx, &kvpb.StatusRequest{Store: s.name}); err == nil && !out.Leads {
			err = toStatus(encodeError(&kv.NotLeaderError{Leader: out.Leader}, func(string) string { return out.LeaderAddress }))
		}
		return err
	})
	return out, err
}

// StatusAt describes the store as the member at addr sees it.
func (s *Store) StatusAt(ctx context.Context, addr string) (*kvpb.StatusResponse, error) {
	api, err := s.client.api(addr)
	if err != nil {
		return nil, err
	}
	out, err := api.Status(ctx, &kvpb.StatusRequest{Store: s.name})
	return out, s.client.callError(ctx, err)
}

// HashStart marks an index at which every member computes a checksum of its content, and returns what
// HashAt is asked with.
func (s *Store) HashStart(ctx context.Context) (id string, err error) {
	err = s.atLeader(ctx, func(api kvpb.KVClient) error {
		r, err := api.Hash(ctx, &kvpb.HashRequest{Store: s.name})
		if err == nil {
			id = r.Id
		}
		return err
	})
	return id, err
}

// HashAt asks the member at addr for the checksum of its content at a mark. The answer has Pending set
// while the member has not computed it yet.
func (s *Store) HashAt(ctx context.Context, addr, id string) (*kvpb.HashResponse, error) {
	api, err := s.client.api(addr)
	if err != nil {
		return nil, err
	}
	out, err := api.Hash(ctx, &kvpb.HashRequest{Store: s.name, Id: id})
	return out, s.client.callError(ctx, err)
}

// Backup writes the store's content as of one index to w, and returns the index. When the member that
// serves it fails the backup fails.
func (s *Store) Backup(ctx context.Context, w io.Writer) (index uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = s.atLeader(ctx, func(api kvpb.KVClient) error {
		stream, err := api.Backup(ctx, &kvpb.BackupRequest{Store: s.name})
		if err != nil {
			return err
		}
		for first := true; ; first = false {
			m, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF) && index != 0:
				return nil
			case errors.Is(err, io.EOF):
				return &final{fmt.Errorf("kvrpc: backup: %w", io.ErrUnexpectedEOF)}
			case err != nil && first:
				return err
			case err != nil: // w has a part of it
				return &final{fmt.Errorf("kvrpc: backup: %w", s.client.callError(ctx, err))}
			}
			index = m.Index
			if _, err := w.Write(m.Chunk); err != nil {
				return &final{err}
			}
		}
	})
	return index, err
}

// final is an error after which nothing is tried again.
type final struct{ error }

func (e *final) Unwrap() error { return e.error }

// atLeader runs one generated call at the leader, looking for it like do.
func (s *Store) atLeader(ctx context.Context, run func(kvpb.KVClient) error) error {
	var last error
	for try := 0; ; try++ {
		if err := s.over(ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) && last != nil {
				return &kv.NoQuorumError{Err: fmt.Errorf("%w (%w)", err, last)}
			}
			return err
		}
		addr := s.Leader()
		if addr == "" {
			known := s.client.Addrs()
			addr = known[try%len(known)]
		}
		api, err := s.client.api(addr)
		if err != nil {
			return err
		}
		err = run(api)
		var f *final
		if err == nil || errors.As(err, &f) {
			if f != nil {
				return f.error
			}
			return nil
		}
		err = s.client.callError(ctx, err)
		var not *kv.NotLeaderError
		var broken *connectionError
		switch {
		case errors.As(err, &not):
			s.redirect(newLeaderCall, addr, err)
		case errors.As(err, &broken), errors.Is(err, kv.ErrClosed), errors.Is(err, kv.ErrNoStore) && try < 2*len(s.client.Addrs()):
			s.avoid(newLeaderCall, addr)
		case ctx.Err() != nil:
			continue
		default:
			return err
		}
		last = err
		s.pause(ctx, try)
	}
}

// newLeaderCall stands for what only the leader answers.
var newLeaderCall = &call{op: opPing}
