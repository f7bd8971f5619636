package raftkv

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// logStore is the replicated log on disk, with raft's vote.
type logStore interface {
	raft.LogStore
	raft.StableStore
	io.Closer
	Bytes() int64 // disk space
}

type raftWAL struct {
	*wal.WAL
	dir string
}

func (w raftWAL) Bytes() (n int64) {
	entries, _ := os.ReadDir(w.dir)
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			n += fi.Size()
		}
	}
	return n
}

func openLog(dir string, log *slog.Logger) (logStore, error) {
	dir = filepath.Join(dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w, err := wal.Open(dir, wal.WithLogger(newHCLog(log)))
	if err != nil {
		return nil, err
	}
	return raftWAL{w, dir}, nil
}
