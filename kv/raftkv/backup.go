package raftkv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
)

// Backup writes a backup of what this member has committed, as package backup reads it, and returns the
// index of the log that it is as of. Writes go on meanwhile. The backup is gathered in a file beside the
// state file first, which is removed at the end: a slow w holds up nothing. On a follower it may be older
// than what the leader has acknowledged; see WaitApplied.
func (s *Store) Backup(ctx context.Context, w io.Writer) (index uint64, err error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	f, err := s.spool("backup")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := s.writeBackup(ctx, f)
	if err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if _, err := io.Copy(w, &cancelReader{ctx, s, f}); err != nil {
		return 0, err
	}
	return info.Index, nil
}

// writeBackup writes a backup to a local file.
func (s *Store) writeBackup(ctx context.Context, f *os.File) (backup.Info, error) {
	var v view
	if err := v.open(s, true); err != nil {
		return backup.Info{}, err
	}
	defer v.close()
	out := bufio.NewWriterSize(f, 1<<20)
	b, err := backup.NewWriter(out, v.index)
	if err != nil {
		return backup.Info{}, err
	}
	err = v.each(ctx, func(ks kv.Keyspace, key, value []byte) error {
		if ks.Reserved() {
			return nil
		}
		return b.Add(ks, key, value)
	})
	if err != nil {
		return backup.Info{}, err
	}
	info, err := b.Close()
	return info, errors.Join(err, out.Flush())
}

// spool opens a temporary file in the member's directory that is gone when it is closed.
func (s *Store) spool(name string) (*os.File, error) {
	f, err := os.CreateTemp(s.opts.Dir, spoolPrefix+name+"-*")
	if err != nil {
		return nil, fmt.Errorf("raftkv: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("raftkv: %w", err), f.Close())
	}
	return f, nil
}

const spoolPrefix = "spool-"

// removeSpools removes what a crash between the two steps of spool left.
func (s *Store) removeSpools() error {
	left, err := filepath.Glob(filepath.Join(s.opts.Dir, spoolPrefix+"*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("raftkv: %w", err)
		}
	}
	return nil
}

// cancelReader reads until the context is over or the store stops.
type cancelReader struct {
	ctx   context.Context
	store *Store
	io.Reader
}

func (r *cancelReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.store.closing.Load() || r.store.failed.Load() != nil {
		return 0, r.store.closedError()
	}
	return r.Reader.Read(b)
}
