package data

import "sync"

// pins counts the users of packs that have been put, or are being put, and whose blobs may still get
// their first reference. A pinned pack does not die when it has no blob.
type pins struct {
	mu sync.Mutex
	n  map[uint64]struct{}
	// unsettled are the packs of flights that have not ended: whether they are referenced is not
	// decided. It outlives the pin by the transaction that decides.
	unsettled map[uint64]struct{}
}

func newPins() *pins {
	return &pins{n: make(map[uint64]struct{}), unsettled: make(map[uint64]struct{})}
}

func (p *pins) pin(pack uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n[pack] = struct{}{}
	p.unsettled[pack] = struct{}{}
}

func (p *pins) unpin(packs []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range packs {
		delete(p.n, id)
	}
}

func (p *pins) settle(packs []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range packs {
		delete(p.unsettled, id)
	}
}

func (p *pins) pinned(pack uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.n[pack]
	return ok
}

// lowest returns the lowest unsettled pack, or limit when that is lower.
func (p *pins) lowest(limit uint64) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.unsettled {
		limit = min(limit, id)
	}
	return limit
}
