package asd

import (
	"context"

	"golang.org/x/sys/unix"
)

// CachedGet is PartialGet of one section for callers that must not wait for the disk. It reports false,
// and leaves the buffer undefined, when the section is not in the page cache, and when anything
// at all is wrong: PartialGet then tells what.
func (a *ASD) CachedGet(ctx context.Context, key []byte, sec Section) bool {
	e, s, err := a.acquire(ctx, key)
	if err != nil {
		return false
	}
	defer s.release()
	off, n := int(sec.Off), len(sec.Buf)
	if off < 0 || n == 0 || off > e.size || n > e.size-off {
		return false
	}
	first, span, free := a.blocksOf(e, off, sec.Buf)
	defer free()
	f, err := s.reader()
	if err != nil {
		return false
	}
	want := 0
	for _, p := range span {
		want += len(p)
	}
	got, err := unix.Preadv2(int(f.Fd()), span, e.payloadOffset()+int64(first)*BlockSize, unix.RWF_NOWAIT)
	if err != nil || got != want || badSpan(span, e.crcs[4*first:]) >= 0 {
		return false
	}
	a.counters.readDone(n)
	return true
}

// Prefetch starts to read a section into the page cache, without waiting for it. It is a hint: nothing
// comes of it when there is no such record.
func (a *ASD) Prefetch(ctx context.Context, key []byte, off int64, n int) {
	e, s, err := a.acquire(ctx, key)
	if err != nil {
		return
	}
	defer s.release()
	f, err := s.reader()
	if err != nil || off < 0 || off >= int64(e.size) {
		return
	}
	n = min(n, e.size-int(off))
	// Advice is taken in the units of the device's readahead; nothing waits for its reads.
	_ = unix.Fadvise(int(f.Fd()), e.payloadOffset()+off, int64(n), unix.FADV_WILLNEED)
}
