package main

import (
	"context"
	"log/slog"
	"strings"
)

// quietHandler keeps back what Raft says about every single attempt to reach a member that is down, or
// that is being made: the cluster says itself, once, what it waits for, and its status shows who is down.
type quietHandler struct{ slog.Handler }

var chatter = []string{
	"raft: failed to heartbeat to", "raft: failed to appendEntries to", "raft: failed to contact", "raft: failed to make requestVote RPC",
	"raft: failed to pipeline appendEntries to", "raft: appendEntries rejected", "raft: failed to get previous log", "raft: heartbeat timeout reached", "raft: rejecting",
	"raft: Election timeout reached", "raft: failed to make preVote RPC",
}

func (q quietHandler) Handle(ctx context.Context, r slog.Record) error {
	for _, c := range chatter {
		if strings.HasPrefix(r.Message, c) && !q.Handler.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
	}
	return q.Handler.Handle(ctx, r)
}

func (q quietHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return quietHandler{q.Handler.WithAttrs(a)}
}
func (q quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{q.Handler.WithGroup(name)}
}
