package fragcache

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// load finds what is in the folder from before, and removes what is of no use. Until it ends nothing is written.
func (w *writer) load() {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.loading = false
	}()
	list, err := os.ReadDir(w.o.Dir)
	if err != nil {
		w.note("list", err)
		w.putsOff.begin()
		return
	}
	var numbers []uint32
	for _, e := range list {
		hex, ok := strings.CutPrefix(e.Name(), "seg-")
		n, err := strconv.ParseUint(hex, 16, 32)
		if ok && err == nil && e.Name() == segmentName(uint32(n)) {
			numbers = append(numbers, uint32(n))
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		select {
		case <-w.stop:
			return
		default:
		}
		w.next = n + 1
		if err := w.loadSegment(n); err != nil {
			w.log.Info("a segment of the cache of fragments is of no use", "dir", w.o.Dir, "segment", segmentName(n), "cause", err)
			w.unlink(n)
		}
	}
	w.makeRoom() // it may have to be smaller now
}

func (w *writer) loadSegment(number uint32) error {
	f, err := os.OpenFile(filepath.Join(w.o.Dir, segmentName(number)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &segment{number: number, f: f}
	places := make(map[uint64]place)
	info, err := f.Stat()
	var head segmentHead
	if err == nil {
		s.size = info.Size()
		head, _, err = readSegment(f, s.size, func(r record, at int64) {
			h := w.hash(r.key)
			s.keys = append(s.keys, h)
			places[h] = place{segment: number, at: uint32(at), last: uint16(r.n - 1)}
		})
	}
	switch {
	case err != nil:
	case head.number != number:
		err = damaged("it says that it is segment %d", head.number)
	case head.owner != w.o.Owner:
		err = damaged("it belongs to %x", head.owner)
	case len(places) == 0:
		err = damaged("nothing in it is whole")
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	s.queue = head.queue
	w.mu.Lock()
	defer w.mu.Unlock()
	for h, p := range places {
		w.index[h] = p
	}
	w.segments[number] = s
	w.queues[s.queue] = append(w.queues[s.queue], s)
	return nil
}
