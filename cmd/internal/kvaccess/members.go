package kvaccess

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

const (
	// memberTimeout bounds how long one member may take to say something about itself.
	memberTimeout = 2 * time.Second
	// hashPoll is how often a member is asked whether it has computed its sum.
	hashPoll = 50 * time.Millisecond
)

// place is one member of the store: where it is, and what part it plays.
type place struct {
	node, address string
	voter         bool
}

// places lists the members of the store by node, as one of them knows them: the leader if there is one.
func (r remote) places(ctx context.Context) ([]place, error) {
	ask, cancel := context.WithTimeout(ctx, memberTimeout)
	st, err := r.s.Status(ask)
	cancel()
	if err != nil { // nobody leads: any member knows who the others are
		var all []error
		for _, addr := range r.c.Addrs() {
			ask, cancel := context.WithTimeout(ctx, memberTimeout)
			st, err = r.s.StatusAt(ask, addr)
			cancel()
			if err == nil && len(st.GetMembers()) > 0 {
				break
			}
			all = append(all, fmt.Errorf("%s: %w", addr, err))
			st = nil
		}
		if st == nil {
			return nil, errors.Join(all...)
		}
	}
	var out []place
	for _, m := range st.GetMembers() {
		out = append(out, place{m.GetId(), m.GetAddress(), m.GetVoter()})
	}
	slices.SortFunc(out, func(a, b place) int { return strings.Compare(a.node, b.node) })
	return out, nil
}

// each calls fn for every place at once, and waits for all.
func each(places []place, fn func(i int, p place)) {
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() { fn(i, p) })
	}
	wg.Wait()
}

func (r remote) Members(ctx context.Context) ([]Member, error) {
	places, err := r.places(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(places))
	each(places, func(i int, p place) {
		ask, cancel := context.WithTimeout(ctx, memberTimeout)
		defer cancel()
		st, err := r.s.StatusAt(ask, p.address)
		out[i] = member(p, st)
		if err != nil {
			out[i].Error = silence(err)
		}
	})
	return out, nil
}

// silence says why a member does not answer, without the layers that the error came through.
func silence(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it does not answer"
	}
	s := err.Error()
	if i := strings.LastIndex(s, "desc = "); i >= 0 {
		s = strings.Trim(s[i+len("desc = "):], `"`)
	}
	return strings.TrimPrefix(s, "transport: Error while dialing: ")
}

func member(p place, st *kvpb.StatusResponse) Member {
	m := Member{Node: p.node, Address: p.address}
	if st == nil {
		return m
	}
	m.Term, m.Applied, m.Error = st.GetTerm(), st.GetAppliedIndex(), st.GetFailure()
	m.Transactions, m.Batches, m.StateIndex = st.GetTransactions(), st.GetBatches(), st.GetStateIndex()
	m.PendingBytes, m.RecentBytes, m.StateBytes, m.LogBytes = st.GetPendingBytes(), st.GetRecentBytes(), st.GetStateBytes(), st.GetLogBytes()
	m.Age = time.Duration(st.GetAgeUs()) * time.Microsecond
	switch {
	case m.Error != "":
	case st.GetLeads():
		m.Role = Leader
	case p.voter:
		m.Role = "follower"
	default:
		m.Role = "learner"
	}
	return m
}

func (r remote) Ping(ctx context.Context) ([]Pong, error) {
	places, err := r.places(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Pong, len(places))
	each(places, func(i int, p place) {
		ask, cancel := context.WithTimeout(ctx, memberTimeout)
		defer cancel()
		out[i] = Pong{Node: p.node, Address: p.address}
		if _, err := r.c.Ping(ask, p.address); err != nil { // connects
			out[i].Error = silence(err)
			return
		}
		begin := time.Now()
		if _, err := r.c.Ping(ask, p.address); err != nil {
			out[i].Error = silence(err)
		}
		out[i].Took = time.Since(begin)
	})
	return out, nil
}

func (r remote) Verify(ctx context.Context) ([]Sum, error) {
	places, err := r.places(ctx)
	if err != nil {
		return nil, err
	}
	start, cancel := context.WithTimeout(ctx, 5*memberTimeout)
	id, err := r.s.HashStart(start)
	cancel()
	if err != nil {
		return nil, err
	}
	out := make([]Sum, len(places))
	each(places, func(i int, p place) {
		out[i] = Sum{Node: p.node}
		if err := r.sum(ctx, p.address, id, &out[i]); err != nil {
			out[i].Error = silence(err)
		}
	})
	return out, nil
}

// sum waits until a member has hashed its content. It gives up when the member does not answer, not when
// it takes long.
func (r remote) sum(ctx context.Context, address, id string, out *Sum) error {
	silent := 0
	for {
		ask, cancel := context.WithTimeout(ctx, memberTimeout)
		h, err := r.s.HashAt(ask, address, id)
		cancel()
		switch {
		case err == nil && !h.GetPending():
			out.Index, out.Keys, out.SHA256 = h.GetIndex(), h.GetKeys(), hex.EncodeToString(h.GetSum())
			return nil
		case err == nil:
			silent = 0
		case silent == 4 || ctx.Err() != nil:
			return err
		default:
			silent++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(hashPoll):
		}
	}
}
