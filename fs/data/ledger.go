package data

import (
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
)

// place is where the bytes of a blob that was just put are.
type place struct {
	pack   uint64
	off, n uint32
	solo   bool
	total  uint32 // content of the whole pack
}

// goneError reports that a blob that was to be referenced again has been freed: its content must be
// put once more.
type goneError struct{ hash Hash }

func (e *goneError) Error() string { return fmt.Sprintf("blob %x was freed meanwhile", e.hash[:8]) }

// ledger changes reference counts within one transaction and writes each row once, at the end.
type ledger struct {
	s     *Store
	t     kv.Txn
	blobs map[Hash]*blobRow
	packs map[uint64]*packRow

	frayed []frayedBlock // extents of many pieces
	sparse []uint64      // packs that are mostly garbage now
	dead   []uint64      // packs that became unreferenced
}

func (s *Store) ledger(t kv.Txn) *ledger {
	return &ledger{s: s, t: t, blobs: make(map[Hash]*blobRow), packs: make(map[uint64]*packRow)}
}

// blob returns the row of h, nil when there is none.
func (l *ledger) blob(h Hash) (*blobRow, error) {
	if r, ok := l.blobs[h]; ok {
		return r, nil
	}
	row, err := getBlob(l.t, &h)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	l.blobs[h] = &row
	return &row, nil
}

func (l *ledger) pack(id uint64) (*packRow, error) {
	if r, ok := l.packs[id]; ok {
		return r, nil
	}
	row, err := getPack(l.t, id)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.packs[id] = &row
	return &row, nil
}

// apply changes the references by refs. placed says where blobs are that may have no row yet. On an
// error nothing of the transaction may be kept.
func (l *ledger) apply(refs refDelta, placed map[Hash]place) error {
	for h, d := range refs {
		if d == 0 {
			continue
		}
		row, err := l.blob(h)
		if err != nil {
			return err
		}
		if row == nil || row.refs == 0 { // none, or this transaction took the last reference
			p, ok := placed[h]
			switch {
			case d < 0:
				return &DamageError{fmt.Sprintf("blob %x", h[:8]), errors.New("referenced by an extent but it has no row")}
			case row != nil:
				if err := l.revive(row); err != nil {
					return err
				}
			case !ok:
				return &goneError{h}
			default:
				if row, err = l.place(h, p); err != nil {
					return err
				}
			}
		}
		if d < 0 && uint64(-d) > row.refs {
			return &DamageError{fmt.Sprintf("blob %x", h[:8]), fmt.Errorf("%d references dropped of %d", -d, row.refs)}
		}
		row.refs += uint64(d)
		if row.refs == 0 {
			if err := l.count(row, -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// place makes the row of a blob that was just put.
func (l *ledger) place(h Hash, p place) (*blobRow, error) {
	pr, err := l.pack(p.pack)
	if err != nil {
		return nil, err
	}
	if pr == nil {
		pr = &packRow{solo: p.solo, total: uint64(p.total)}
		if p.solo {
			pr.hash = h
		}
		l.packs[p.pack] = pr
	}
	row := &blobRow{pack: p.pack, off: uint64(p.off), n: uint64(p.n)}
	l.blobs[h] = row
	return row, l.count(row, 1)
}

// revive counts a blob again whose last reference this transaction took and now gives back.
func (l *ledger) revive(row *blobRow) error { return l.count(row, 1) }

// count adds a blob to its pack's row, or takes it away.
func (l *ledger) count(row *blobRow, by int) error {
	pr, err := l.pack(row.pack)
	if err != nil {
		return err
	}
	if pr == nil || by < 0 && (pr.blobs == 0 || pr.live < row.n) {
		return &DamageError{fmt.Sprintf("row of pack %d", row.pack), errors.New("it does not count its blobs")}
	}
	if by > 0 {
		pr.blobs++
		pr.live += row.n
	} else {
		pr.blobs--
		pr.live -= row.n
	}
	return nil
}

// finish writes the rows. A pack that has lost its last blob is dead unless it is pinned.
func (l *ledger) finish() {
	for h, r := range l.blobs {
		if r.refs == 0 {
			l.t.Delete(ksBlob, append([]byte(nil), h[:]...))
		} else {
			l.t.Put(ksBlob, append([]byte(nil), h[:]...), r.encode())
		}
	}
	for id, r := range l.packs {
		pinned := l.s.pins.pinned(id)
		if r.blobs == 0 && !pinned {
			l.t.Delete(ksPack, u64key(id))
			l.t.Put(ksDead, u64key(id), nil)
			l.dead = append(l.dead, id)
			continue
		}
		l.t.Put(ksPack, u64key(id), r.encode())
		if r.sparse() && !pinned {
			l.sparse = append(l.sparse, id)
		}
	}
}

// settle tells the background what the committed transaction left for it.
func (l *ledger) settle() {
	if len(l.dead) > 0 {
		l.s.reaper.kick()
	}
	for _, id := range l.dead {
		l.s.rewriter.forget(id)
	}
	for _, id := range l.sparse {
		l.s.rewriter.add(id)
	}
	l.s.defrag.add(l.frayed)
}
