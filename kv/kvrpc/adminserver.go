package kvrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

const (
	// backupChunk is the size of the messages of a backup.
	backupChunk = 256 << 10
	// hashWait is how long a member is waited for that is still computing a checksum.
	hashWait = time.Second
)

// hash marks an index, or tells this member's checksum at a mark: its name and index are the id.
func (s *Server) hash(ctx context.Context, m *kvpb.HashRequest) (*kvpb.HashResponse, error) {
	if err := checkName("store", m.Store); err != nil {
		return nil, err
	}
	h, err := s.hostOf(&request{store: m.Store})
	if err != nil {
		return nil, err
	}
	if m.Id == "" {
		id, index, err := h.member.MarkHash(ctx)
		if err != nil {
			return nil, err
		}
		return &kvpb.HashResponse{Id: fmt.Sprintf("%s@%d", id, index), Index: index, Pending: true}, nil
	}
	id, at, _ := strings.Cut(m.Id, "@")
	index, err := strconv.ParseUint(at, 10, 64)
	if err != nil {
		return nil, invalid("the id of a mark %q", m.Id[:min(len(m.Id), 64)])
	}
	wait, cancel := context.WithTimeout(ctx, hashWait)
	defer cancel()
	r, err := h.member.HashAt(wait, id, index)
	if err != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &kvpb.HashResponse{Id: m.Id, Index: index, Pending: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &kvpb.HashResponse{Id: m.Id, Index: r.Index, Sum: r.Sum[:], Keys: r.Keys}, nil
}

// backup is the handler of Backup.
func (s *Server) backup(g grpc.ServerStream) error {
	m := new(kvpb.BackupRequest)
	if err := g.RecvMsg(m); err != nil {
		return err
	}
	if err := s.sendBackup(g, m); err != nil {
		return toStatus(encodeError(err, s.o.Addr))
	}
	return nil
}

func (s *Server) sendBackup(g grpc.ServerStream, m *kvpb.BackupRequest) error {
	if err := checkName("store", m.Store); err != nil {
		return err
	}
	h, err := s.hostOf(&request{store: m.Store})
	if err != nil {
		return err
	}
	ctx, cancel := joinContext(g.Context(), s.ctx)
	defer cancel()
	// What the leader has acknowledged is in it, wherever it is asked.
	if h.member.Epoch() != 0 {
		if err := h.member.View(ctx, kv.Linearizable, func(kv.Reader) error { return nil }); err != nil {
			return readError(err)
		}
	}
	w := bufio.NewWriterSize(chunks{g}, backupChunk)
	index, err := h.member.Backup(ctx, w)
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return g.SendMsg(&kvpb.BackupResponse{Index: index})
}

// chunks sends what is written to it.
type chunks struct{ g grpc.ServerStream }

func (c chunks) Write(b []byte) (int, error) {
	for part := b; len(part) > 0; {
		n := min(len(part), 4*backupChunk)
		if err := c.g.SendMsg(&kvpb.BackupResponse{Chunk: part[:n]}); err != nil {
			return 0, err
		}
		part = part[n:]
	}
	return len(b), nil
}
