package raftkv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
)

// A snapshot that is sent is read once from the state file, page after page: each page in use is compared with its
// checksum, because what goes over the wire gets new ones there, and all goes into a spool file. While the generation is
// pinned the state file cannot reuse pages, and a peer may take its time: so it is not sent from there. Both copies
// make way for updates, see courtesy.

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
	if err = s.writeSnapshot(&sliceFile{file: f}, g); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		s.unpin(g)
		return meta, &sentSnapshot{f, h, courtesy{store: s}}, nil
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
	c := &copying{w: w, check: check, courtesy: courtesy{store: s}}
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

// pageCheck compares the pages of a file, which it is given in their order, with their checksums.
type pageCheck struct {
	tree *tree
	free pageSet
	next pageID // the page that comes next
	// Of the page with its overflow that has been seen in part:
	id   pageID
	left int64 // bytes to come
	sum  uint32
}

func newPageCheck(t *tree) (c *pageCheck, err error) {
	defer guard(t.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	c = &pageCheck{tree: t}
	return c, t.freePages(&c.free)
}

// pages takes the next pages, as they are in the file.
func (c *pageCheck) pages(b []byte) error {
	size := c.tree.size
	if len(b)%size != 0 {
		return fmt.Errorf("raftkv: a piece of %d bytes is not of whole pages of %d", len(b), size)
	}
	for len(b) > 0 {
		if c.left == 0 {
			if err := c.begin(page(b[:size])); err != nil {
				return err
			}
		}
		n := size // of a page that is not compared
		if c.left > 0 {
			n = int(min(c.left, int64(len(b))))
			c.sum = crc32.Update(c.sum, castagnoli, b[:n])
			if c.left -= int64(n); c.left == 0 {
				if err := c.compare(); err != nil {
					return err
				}
			}
		}
		c.next += pageID(n / size)
		b = b[n:]
	}
	return nil
}

// begin begins with the page that comes next, if it is in use.
func (c *pageCheck) begin(p page) error {
	if c.next < 2 || c.free.has(c.next) { // bbolt makes the meta pages of a copy itself
		return nil
	}
	if _, ok := c.tree.sums.get(c.next); !ok {
		return nil // nothing leads there: reading a page without a checksum is an error
	}
	end := uint64(c.next) + 1 + uint64(p.overflow())
	if p.id() != c.next || end > uint64(c.tree.meta.pages) {
		return c.tree.corrupt("page %d has a header of page %d with %d more", c.next, p.id(), p.overflow())
	}
	c.id, c.sum, c.left = c.next, 0, int64(end-uint64(c.next))*int64(c.tree.size)
	return nil
}

func (c *pageCheck) compare() error {
	if want, _ := c.tree.sums.get(c.id); c.sum != want && !(c.sum == 0 && want == 1) { // see pageSum
		return c.tree.corrupt("page %d does not match its checksum", c.id)
	}
	return nil
}

// end says whether all pages were seen.
func (c *pageCheck) end() error {
	if c.left > 0 || c.next != c.tree.meta.pages {
		return &kv.CorruptError{What: c.tree.path, Err: fmt.Errorf("it ends at page %d of %d", c.next, c.tree.meta.pages)}
	}
	return nil
}

// courtesy makes a copy of much data give way to updates. As long as there are any, it rests as long as it
// works; and longer while they wait for the log's disk or the flusher. It never stops altogether.
type courtesy struct {
	store *Store
	since int       // bytes copied since the last rest
	began time.Time // when it went on after that
	seq   uint64    // of the last transaction at that time
}

const (
	// shortRest and longRest bound the rest after copyBytes, so a copy makes 40 MB a second at least, if the disk does.
	shortRest = 5 * time.Millisecond
	longRest  = 25 * time.Millisecond
	// slowSync is how long a sync of the log takes when the disk is asked for too much.
	slowSync = 10 * time.Millisecond
)

// done notes that n bytes were copied.
func (c *courtesy) done(n int) { c.since += n }

// giveWay rests when it is time to. Its error says that the store stops.
func (c *courtesy) giveWay() error {
	if c.began.IsZero() {
		c.began = time.Now()
	}
	if c.since < copyBytes {
		return nil
	}
	s := c.store
	worked := time.Since(c.began)
	s.mu.Lock()
	idle := s.seq == c.seq
	pressed := !s.pace.next.IsZero() || s.flushing != nil && s.active.bytes > s.room()/4*3
	c.seq = s.seq
	s.mu.Unlock()
	if since := s.wal.Busy(); !since.IsZero() && time.Since(since) > slowSync {
		pressed = true
	}
	rest := min(worked, shortRest)
	switch {
	case idle:
		rest = 0
	case pressed:
		rest = longRest
	}
	if rest > 0 && !s.sleep(rest) {
		return s.closedError()
	}
	c.since, c.began = 0, time.Now()
	return nil
}
