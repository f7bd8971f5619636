package raftkv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// A snapshot that is sent is read once from the state file, page after page: each page in use is compared with its
// checksum, because what goes over the wire gets new ones there, and all goes into a spool file. While the generation is
// pinned the state file cannot reuse pages, and a peer may take its time: so it is not sent from there. Both copies
// make way for updates, see courtesy. Pages that are free are sent as zeroes, and take no space on either disk.

// openSnapshot returns the snapshot as of now.
func (s *Store) openSnapshot() (*raft.SnapshotMeta, io.ReadCloser, error) {
	g, st, err := s.pinWhole()
	if err != nil {
		return nil, nil, err
	}
	meta := st.snapshot.raft(int64(len(snapshotMagic)) + g.pin.Size() + 4)
	f, err := s.spool("snapshot")
	if err != nil {
		s.unpin(g)
		return nil, nil, err
	}
	h := s.holds.add(meta.Index+1, meta.Size)
	out := &sliceFile{file: f}
	if err = s.writeSnapshot(out, g); err == nil {
		err = out.finish()
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		s.unpin(g)
		return meta, &sentSnapshot{file: f, hold: h, courtesy: courtesy{store: s}}, nil
	}
	s.holds.drop(h)
	_ = f.Close()
	if !errors.Is(err, unix.ENOSPC) {
		s.unpin(g)
		return nil, nil, fmt.Errorf("raftkv: copy the state: %w", err)
	}
	s.log.Warn("no room for a copy of the state: it grows while a member receives it", "dir", s.opts.Dir)
	pr, pw := io.Pipe()
	go func() {
		defer s.unpin(g)
		pw.CloseWithError(s.writeSnapshot(pw, g))
	}()
	return meta, pr, nil
}

// sentSnapshot is a spool file that is being sent.
type sentSnapshot struct {
	file *os.File
	hold *hold
	courtesy
}

func (f *sentSnapshot) Read(p []byte) (int, error) {
	if err := f.giveWay(); err != nil {
		return 0, err
	}
	n, err := f.file.Read(p)
	f.done(n)
	return n, err
}

func (f *sentSnapshot) Close() error {
	last, _ := f.store.wal.LastIndex()
	f.store.holds.sent(f.hold, last)
	return f.file.Close()
}

// pinWhole pins a generation that is a whole picture without the memory tables, as it is between
// flushes. A flush that is under way is waited for only while it writes: before that it waits for commits, and
// they may need the member that the snapshot is for.
func (s *Store) pinWhole() (*generation, state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	defer func() { s.waiting-- }()
	for {
		for s.gen == nil {
			if s.failed.Load() != nil {
				return nil, state{}, s.closedError()
			}
			s.genReady.Wait()
		}
		progress, g := s.progress, s.gen
		g.views++
		s.mu.Unlock()
		st, err := g.state()
		if err != nil || st.mixed != 0 {
			s.unpin(g)
			g = nil
		}
		if err == nil && g == nil {
			select {
			case <-progress:
			case <-s.stop:
				err = s.closedError()
			}
		}
		s.mu.Lock()
		if err != nil || g != nil {
			return g, st, err
		}
	}
}

// unpin takes back what kept a generation.
func (s *Store) unpin(g *generation) {
	s.mu.Lock()
	last := g.leave()
	s.mu.Unlock()
	if last {
		g.unpin()
	}
}

// writeSnapshot writes the snapshot of a generation, if none of its pages is damaged.
func (s *Store) writeSnapshot(w io.Writer, g *generation) error {
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	check, err := newPageCheck(g.tree)
	if err != nil {
		return err
	}
	// The pages that flushes replace meanwhile are not free again before the end, and the file grows by as many.
	c := &copying{w: w, check: check, courtesy: courtesy{store: s, urgent: true}}
	if err := c.from(g.pin); err != nil {
		return err
	}
	if err := check.end(); err != nil {
		return err
	}
	_, err = w.Write(binary.LittleEndian.AppendUint32(nil, c.sum))
	return err
}

// copying is the copy of a state file. It is written to in pieces of whole pages.
type copying struct {
	w     io.Writer
	sum   uint32
	check *pageCheck
	courtesy
}

// copyBytes is how much is copied at once. Every size of a page divides it.
const copyBytes = 1 << 20

func (c *copying) from(tx *bolt.Tx) error {
	b := bufio.NewWriterSize(c, copyBytes)
	if _, err := tx.WriteTo(b); err != nil {
		return err
	}
	return b.Flush()
}

// Write may change p, which is of a buffer of its own.
func (c *copying) Write(p []byte) (int, error) {
	if err := c.giveWay(); err != nil {
		return 0, err
	}
	if err := c.check.pages(p); err != nil {
		return 0, err
	}
	c.sum = crc32.Update(c.sum, castagnoli, p)
	n, err := c.w.Write(p)
	c.done(n)
	return n, err
}
