package data

import (
	"context"
	"sync"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

const (
	// aheadBytes is how far ahead of a sequential reader the disks are asked to read, and aheadStep how
	// much of that is asked for at a time.
	aheadBytes = 8 << 20
	aheadStep  = 4 << 20
	// aheadStart is how much must have been read in sequence before that begins.
	aheadStart = 256 << 10
	// aheadSlack is how far out of order reads of one sequence may come: the kernel sends several at a time.
	aheadSlack = 2 << 20
	// aheadPacks is how many packs are remembered to see that neighbours are being read.
	aheadPacks = 64
)

// readahead watches the reads of one file for a sequence. The zero value is ready.
type readahead struct {
	mu    sync.Mutex
	next  int64 // where the sequence goes on
	run   int64 // bytes of the sequence so far
	ahead int64 // up to where the disks were asked
}

// note takes a read into account and returns what is to be prefetched, if anything.
func (r *readahead) note(off, n int64) (from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off < r.next-aheadSlack || off > r.next+aheadSlack || off == 0 {
		r.next, r.run, r.ahead = off, 0, 0
	}
	r.run += n
	r.next = max(r.next, off+n)
	if r.run < aheadStart || r.ahead >= r.next+aheadBytes-aheadStep {
		return 0, 0
	}
	from, to = max(r.ahead, r.next), r.next+aheadBytes
	r.ahead = to
	return from, to
}

// prefetch has the disks read [from, to) of a content soon.
func (s *Store) prefetch(content uint64, from, to int64) {
	select {
	case s.prefetches <- struct{}{}:
	default:
		return // enough is underway; it is only a hint
	}
	go func() {
		defer func() { <-s.prefetches }()
		ctx := context.Background()
		var pieces []filePiece
		rows := map[Hash]blobRow{}
		err := s.kv.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
			if pieces, err = filePieces(r, content, from, min(to, fs.MaxFile)); err != nil {
				return err
			}
			for _, p := range pieces {
				if row, err := getBlob(r, &p.hash); err == nil {
					rows[p.hash] = row
				}
			}
			return nil
		})
		if err != nil {
			return // the read that comes will tell
		}
		for _, p := range pieces {
			if row, ok := rows[p.hash]; ok {
				s.near.Prefetch(ctx, objectName(row.pack), int64(row.off)+int64(p.boff), int64(p.n))
			}
		}
	}()
}

// neighbours remembers the shared packs that were read lately. Small files that were written together
// lie together, and are mostly read together: at the second read from a pack all of it is fetched.
type neighbours struct {
	mu    sync.Mutex
	packs [aheadPacks]uint64
	seen  map[uint64]int // reads
	at    int
}

// note counts a read from a pack and reports whether it was the second.
func (x *neighbours) note(pack uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen == nil {
		x.seen = make(map[uint64]int, aheadPacks)
	}
	n, ok := x.seen[pack]
	if !ok {
		delete(x.seen, x.packs[x.at])
		x.packs[x.at] = pack
		x.at = (x.at + 1) % aheadPacks
	}
	x.seen[pack] = n + 1
	return n == 1
}

// neighbourly fetches the packs of a small read whose neighbours were read before.
func (s *Store) neighbourly(parts []readPart) {
	for _, p := range parts {
		if p.shared && s.neighbours.note(p.pack) {
			s.near.Prefetch(context.Background(), objectName(p.pack), 0, maxPack)
		}
	}
}

// noPrefetch is for namespaces that cannot be told.
type noPrefetch struct{}

func (noPrefetch) Prefetch(context.Context, string, int64, int64) {}

func prefetcher(ns objstore.Namespace) objstore.Prefetcher {
	if p, ok := ns.(objstore.Prefetcher); ok {
		return p
	}
	return noPrefetch{}
}
