package dav

import "time"

// SetClock replaces the handler's clock.
func (h *Handler) SetClock(now func() time.Time) { h.now = now }

// ActiveClaims and OpenReadings count what must be gone when no request runs.
func (h *Handler) ActiveClaims() int {
	h.claims.mu.Lock()
	defer h.claims.mu.Unlock()
	return len(h.claims.active)
}

func (h *Handler) OpenReadings() int {
	h.readers.mu.Lock()
	defer h.readers.mu.Unlock()
	return len(h.readers.open)
}

// LockCount is what the table believes to hold.
func (h *Handler) LockCount() int64 { return h.locks.count.Load() }
