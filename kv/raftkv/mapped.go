package raftkv

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The state file is mapped twice, by bbolt and for reading. What is touched of a mapping counts as memory
// of the process until it is given back, although it is only the page cache. It is given back when a
// process has more than maxMapped of files mapped: then a page that is touched again costs a minor fault.
const (
	maxMapped    = 256 << 20
	trimInterval = 100 * time.Millisecond
)

// trimLoop is the goroutine that keeps the memory that the state file is mapped into small.
func (s *Store) trimLoop() {
	for s.sleep(trimInterval) {
		s.mu.Lock()
		g := s.gen
		large := g != nil && int64(g.tree.meta.pages)*int64(g.tree.size) > maxMapped
		if large {
			g.views++ // keeps the mapping
		}
		s.mu.Unlock()
		if !large {
			continue
		}
		if mappedMemory() > maxMapped {
			g.base.trim()
		}
		s.mu.Lock()
		unpin := g.leave()
		s.mu.Unlock()
		if unpin {
			g.unpin()
		}
	}
}

// trim gives the touched pages of the mapping back.
func (b *base) trim() { giveBack(b.data) }

func giveBack(mapped []byte) { _ = unix.Madvise(mapped, unix.MADV_DONTNEED) }

// trimWriter gives back what bbolt has touched. The caller holds Store.flushMu.
func (b *base) trimWriter() {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, b.db.Info().Data, uintptr(b.mapped), unix.MADV_DONTNEED)
}

// mappedMemory returns how much of the process's memory is of mapped files, in bytes; 0 where the system
// does not say.
func mappedMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b) // in pages: size, resident, shared with files
	if len(f) < 3 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[2]), 10, 64)
	return n * int64(os.Getpagesize())
}
