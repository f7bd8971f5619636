package fragcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// errElsewhere: the index led to a page of another key. Two keys may have one hash.
var errElsewhere = errors.New("fragcache: another page is there")

// errNotNow: it would take I/O.
var errNotNow = errors.New("fragcache: not in memory")

// stretch is a part of a read that lies in one piece in a segment: whole records, one after the other.
type stretch struct {
	s     *segment
	at    int64
	first uint32
	n     []int // lengths of the pages
}

// maxStretch bounds the records that are read at once: each takes up to four vectors.
const maxStretch = 200

// plan finds the pages of a range, counts that they were wanted, and holds their segments until release. It returns nil unless
// all are there.
func (f *folder) plan(k Key, off int64, n int) (out []stretch) {
	first, last := span(off, n)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	for i := first; i <= last; i++ {
		if p, ok := f.index[f.hash(pageKey{k, i})]; !ok || i < last && p.n() != PageSize {
			return nil
		}
	}
	for i := first; i <= last; i++ {
		h := f.hash(pageKey{k, i})
		p := f.index[h]
		p.freq = min(p.freq+1, maxFreq)
		f.index[h] = p
		if j := len(out) - 1; j >= 0 && out[j].s.number == p.segment && out[j].end() == int64(p.at) && len(out[j].n) < maxStretch {
			out[j].n = append(out[j].n, p.n())
			continue
		}
		s := f.segments[p.segment]
		s.refs++
		out = append(out, stretch{s: s, at: int64(p.at), first: i, n: []int{p.n()}})
	}
	return out
}

func (x *stretch) end() int64 {
	end := x.at
	for _, n := range x.n {
		end += recHeader + int64(n)
	}
	return end
}

func (f *folder) release(plan []stretch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range plan {
		if x.s.refs--; x.s.refs == 0 && x.s.dead {
			_ = x.s.f.Close()
		}
	}
}

func (f *folder) has(k Key, off int64, n int) bool {
	if f.readsOff.now() {
		return false
	}
	first, last := span(off, n)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := first; i <= last; i++ {
		if _, ok := f.index[f.hash(pageKey{k, i})]; !ok {
			return false
		}
	}
	return true
}

// ready reads what is in the page cache.
func (f *folder) ready(k Key, off int64, p []byte) bool {
	if f.readsOff.now() || f.tested != nil {
		return false
	}
	plan := f.plan(k, off, len(p))
	if plan == nil {
		return false
	}
	defer f.release(plan)
	return f.read(plan, k, off, p, unix.RWF_NOWAIT) == nil
}

// get reads from the disk, and gives up when that takes too long.
func (f *folder) get(ctx context.Context, k Key, off int64, p []byte) bool {
	if f.readsOff.now() {
		return false
	}
	select {
	case f.reads <- struct{}{}:
	default:
		return false // so many are waiting, or stuck
	}
	plan := f.plan(k, off, len(p))
	if plan == nil {
		<-f.reads
		return false
	}
	// Into memory of its own: who gives up wants p back.
	buf := f.pool.Get(len(p))
	result := make(chan error, 1)
	go func() {
		defer func() { <-f.reads }()
		defer f.release(plan)
		if f.tested != nil {
			f.tested()
		}
		result <- f.read(plan, k, off, buf.B, 0)
	}()
	t := time.NewTimer(f.o.Patience)
	defer t.Stop()
	select {
	case err := <-result:
		defer buf.Release()
		if err == nil {
			copy(p, buf.B)
		}
		return err == nil
	case <-t.C:
		f.readsOff.begin()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.s.Late++
		f.trouble("read", fmt.Errorf("no answer for %v", f.o.Patience))
	case <-ctx.Done():
	}
	return false
}

// read fills p, the range at off of k, from the stretches of a plan. A segment that is damaged is removed, unless flags say
// that there is no time.
func (f *folder) read(plan []stretch, k Key, off int64, p []byte, flags int) error {
	for i := range plan {
		x := &plan[i]
		from := max(off, int64(x.first)*PageSize)
		m := 0
		for _, n := range x.n {
			m += n
		}
		to := min(off+int64(len(p)), int64(x.first)*PageSize+int64(m))
		if to < from {
			return errElsewhere
		}
		err := f.readStretch(x, k, from, p[from-off:to-off], flags)
		if err != nil {
			if flags == 0 && !errors.Is(err, errElsewhere) {
				f.condemn(x.s, err)
			}
			return err
		}
		if to < off+int64(len(p)) && i == len(plan)-1 {
			return errElsewhere
		}
	}
	return nil
}

// readStretch fills p, which lies at off of k, from one stretch. It reads and verifies whole records.
func (f *folder) readStretch(x *stretch, k Key, off int64, p []byte, flags int) error {
	whole := 0
	for _, n := range x.n {
		whole += n
	}
	pre := int(off - int64(x.first)*PageSize)
	post := whole - pre - len(p)
	if pre < 0 || post < 0 {
		return errElsewhere
	}
	scratch := f.pool.Get(len(x.n)*recHeader + pre + post)
	defer scratch.Release()
	heads, rest := scratch.B[:len(x.n)*recHeader], scratch.B[len(x.n)*recHeader:]
	// The content as it lies in memory: before p, p, and after it.
	parts := [3][]byte{rest[:pre], p, rest[pre:]}
	pages := make([][][]byte, len(x.n))
	var iov [][]byte
	for i, n := range x.n {
		iov = append(iov, heads[i*recHeader:][:recHeader])
		for j := range parts {
			if m := min(n, len(parts[j])); m > 0 {
				pages[i] = append(pages[i], parts[j][:m:m])
				parts[j], n = parts[j][m:], n-m
			}
		}
		iov = append(iov, pages[i]...)
	}
	if err := readVector(int(x.s.f.Fd()), iov, x.at, flags); err != nil {
		return err
	}
	for i, n := range x.n {
		r, err := parseRecord(heads[i*recHeader:][:recHeader])
		if err != nil {
			return err
		}
		if r.key != (pageKey{k, x.first + uint32(i)}) || r.n != n {
			return errElsewhere
		}
		var sum uint32
		for _, part := range pages[i] {
			sum = crc.Update(sum, part)
		}
		if sum != r.sum {
			return damaged("page %d of %v: checksum", r.key.page, r.key.Fragment)
		}
	}
	return nil
}

// readVector fills the slices from a file. With flags it does so at once or not at all.
func readVector(fd int, iov [][]byte, off int64, flags int) error {
	for len(iov) > 0 {
		n, err := unix.Preadv2(fd, iov, off, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if flags != 0 {
				return errNotNow
			}
			return err
		}
		if n == 0 {
			return damaged("the segment is too short")
		}
		off += int64(n)
		for len(iov) > 0 && n >= len(iov[0]) {
			n -= len(iov[0])
			iov = iov[1:]
		}
		if len(iov) > 0 {
			if flags != 0 {
				return errNotNow
			}
			iov[0] = iov[0][n:]
		}
	}
	return nil
}
