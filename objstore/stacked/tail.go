package stacked

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

const (
	footerMagic   = "GS"
	footerVersion = 1
	footerLen     = 2 + 1 + 4 + objstore.FragmentKeyLen + 4
)

func blocks(size int64) int64 { return (size + crc.Block - 1) / crc.Block }

// encodeTail returns what follows the data of a fragment, which has at least so many bytes.
func encodeTail(k objstore.FragmentKey, recovery []byte, sums []uint32, least int) []byte {
	n := max(least, len(recovery)+4*len(sums)+footerLen)
	b := make([]byte, 0, n)
	b = append(b, recovery...)
	for _, s := range sums {
		b = binary.LittleEndian.AppendUint32(b, s)
	}
	b = b[:n-footerLen] // new, so it is zero
	b = append(b, footerMagic...)
	b = append(b, footerVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(recovery)))
	b = k.Append(b)
	return binary.LittleEndian.AppendUint32(b, crc.Sum(b))
}

// decodeTail takes apart what follows size bytes of a fragment. recovery is part of b.
func decodeTail(b []byte, k objstore.FragmentKey, size int64) (recovery []byte, sums []uint32, err error) {
	if len(b) < footerLen {
		return nil, nil, fmt.Errorf("%d bytes", len(b))
	}
	foot := b[len(b)-footerLen:]
	n := int64(binary.LittleEndian.Uint32(foot[3:]))
	switch {
	case string(foot[:2]) != footerMagic:
		return nil, nil, errors.New("no magic")
	case foot[2] != footerVersion:
		return nil, nil, fmt.Errorf("version %d, this program knows %d", foot[2], footerVersion)
	case crc.Sum(b[:len(b)-4]) != binary.LittleEndian.Uint32(b[len(b)-4:]):
		return nil, nil, errors.New("its checksum is another")
	case !bytes.Equal(foot[7:7+objstore.FragmentKeyLen], k.Append(nil)):
		return nil, nil, errors.New("it is of another fragment")
	case n+4*blocks(size)+footerLen > int64(len(b)):
		return nil, nil, fmt.Errorf("%d bytes of recovery information and %d of data", n, size)
	}
	recovery = b[:n]
	sums = make([]uint32, blocks(size))
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint32(b[n+4*int64(i):])
	}
	return recovery, sums, nil
}

// verify compares the blocks that lie whole in p, which was read from offset off of size bytes.
func verify(sums []uint32, size, off int64, p []byte) error {
	end := off + int64(len(p))
	for i := blocks(off); i < int64(len(sums)); i++ {
		at, to := i*crc.Block, min((i+1)*crc.Block, size)
		if to > end {
			break
		}
		if got := crc.Sum(p[at-off : to-off]); got != sums[i] {
			return fmt.Errorf("block %d: checksum %08x, expected %08x", i, got, sums[i])
		}
	}
	return nil
}

// entry is what is known of a fragment.
type entry struct {
	object
	sums []uint32
}

// tails remembers what was seen last, so that a read costs one below. The zero value is ready.
type tails struct {
	mu      sync.Mutex
	entries map[objstore.FragmentKey]*list.Element
	order   list.List // of entry, most recently used first
	sums    int       // of all entries
	stamp   uint64    // rises with every drop
}

// Limits of what is remembered: under 4 MiB.
const (
	maxEntries = 8 << 10
	maxSums    = 512 << 10
)

// get also returns a stamp for put.
func (t *tails) get(k objstore.FragmentKey) (e entry, ok bool, stamp uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	el := t.entries[k]
	if el == nil {
		return e, false, t.stamp
	}
	t.order.MoveToFront(el)
	return el.Value.(entry), true, t.stamp
}

// put remembers what was read since the stamp was taken, unless something was dropped since.
func (t *tails) put(e entry, stamp uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if stamp != t.stamp || len(e.sums) > maxSums {
		return
	}
	if t.entries == nil {
		t.entries = make(map[objstore.FragmentKey]*list.Element)
	}
	t.remove(e.key)
	t.entries[e.key] = t.order.PushFront(e)
	t.sums += len(e.sums)
	for t.sums > maxSums || len(t.entries) > maxEntries {
		t.remove(t.order.Back().Value.(entry).key)
	}
}

func (t *tails) drop(k objstore.FragmentKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stamp++
	t.remove(k)
}

func (t *tails) remove(k objstore.FragmentKey) {
	if el := t.entries[k]; el != nil {
		delete(t.entries, k)
		t.sums -= len(t.order.Remove(el).(entry).sums)
	}
}
