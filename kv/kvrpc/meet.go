package kvrpc

import (
	"context"
	"time"
)

const (
	// meetEvery is how often a store that is used is asked who its members are.
	meetEvery = 10 * time.Second
	// meetTimeout bounds the question.
	meetTimeout = 2 * time.Second
)

// meet sees to it that the addresses of the store's members are known, now that the one at addr answers.
// Those that the client was given may be few, and of members that will be gone when others are needed.
func (s *Store) meet(addr string) {
	now := int64(time.Since(s.client.began))
	next := s.meetAt.Load()
	if now < next || !s.meetAt.CompareAndSwap(next, now+int64(meetEvery)) {
		return
	}
	s.client.spawn(func() {
		ctx, cancel := context.WithTimeout(s.client.ctx, meetTimeout)
		defer cancel()
		st, err := s.StatusAt(ctx, addr)
		if err != nil {
			s.meetAt.Store(now + int64(meetTimeout)) // whoever answers then is asked
			return
		}
		for _, m := range st.Members {
			s.client.learn(m.Address)
		}
	})
}
