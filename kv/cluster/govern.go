package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

const (
	// governPeriod is how often a leader looks whether its store is as it should be.
	governPeriod = 500 * time.Millisecond
	// stepTimeout bounds one change of a configuration.
	stepTimeout = 10 * time.Second
	// caughtUp is how many log entries a member may be behind to count as having caught up.
	caughtUp = 64
	// handOverPause is how long a leader that could not hand over waits before the next attempt.
	handOverPause = 5 * time.Second
)

// govern is the member's goroutine while it is open: when the member leads, it moves the store's
// configuration and its leadership towards what the directory says.
func (m *member) govern() {
	var said string // the last complaint
	g := governor{m: m}
	t := time.NewTicker(governPeriod)
	defer t.Stop()
	for {
		changed := m.n.imageChanged()
		err := g.step()
		if m.ctx.Err() != nil {
			return
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != said && text != "" {
			m.n.log.Warn("the store is not yet as the directory says", "store", m.name, "cause", text)
		}
		said = text
		select {
		case <-changed:
		case <-t.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// governor is what govern remembers.
type governor struct {
	m       *member
	pauseTo time.Time // no handing over before
}

// step does what is to be done next.
func (g *governor) step() error {
	store, err := g.m.running()
	if err != nil {
		return nil // it says so itself
	}
	st := store.Stats()
	if st.Err != nil {
		g.m.failed(st.Err)
		return nil
	}
	if !st.Leads {
		return nil
	}
	ctx, cancel := context.WithTimeout(g.m.ctx, stepTimeout)
	defer cancel()
	n, im := g.m.n, g.m.n.image.Load()
	if g.m.raftID == Directory {
		if err := g.reshape(ctx, store, im, im.directoryWish(config(store))); err != nil {
			return err
		}
		return n.finishRemovals(ctx, im)
	}
	row := im.byRaft[g.m.raftID]
	if row == nil {
		return nil // deleted, or newer than our copy of the directory
	}
	if !ready(row) {
		if err := n.peers.setReady(ctx, row); err != nil {
			return err
		}
	}
	if err := g.reshape(ctx, store, im, im.wish(row, n.directoryConfig())); err != nil {
		return err
	}
	return g.prefer(ctx, store, row)
}

// failed notes that the store has stopped by itself.
func (m *member) failed(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = cause
	}
}

// reshape takes one step from the configuration that the store has to the one it shall have: newcomers
// first learn, then vote when they have caught up, and only then those go whom nobody wants any more.
func (g *governor) reshape(ctx context.Context, store *raftkv.Store, im *image, want wish) error {
	has := config(store)
	if len(want.voters()) == 0 {
		return fmt.Errorf("none of its voters is an active node: it stays where it is")
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if _, ok := has[id]; !ok {
			if err := store.AddLearner(ctx, id, id); err != nil {
				return fmt.Errorf("add %s: %w", id, err)
			}
			has[id] = false
		}
	}
	var waiting error
	for _, id := range want.voters() {
		if has[id] {
			continue
		}
		if err := g.caughtUp(ctx, store, id); err != nil {
			waiting = err
			continue
		}
		if err := store.AddVoter(ctx, id, id); err != nil {
			return fmt.Errorf("let %s vote: %w", id, err)
		}
		has[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(has)) {
		votes, wanted := want[id]
		gone := !wanted && im.nodes[id].GetState() == clusterpb.NodeState_NODE_REMOVED
		switch {
		case wanted && votes == has[id], waiting != nil && !gone:
			continue
		case id == g.m.n.id:
			return g.handOver(ctx, store, want)
		}
		if err := g.canSpare(ctx, has, id); err != nil {
			return err
		}
		switch {
		case wanted && !votes:
			if err := store.Demote(ctx, id); err != nil {
				return fmt.Errorf("take the vote of %s: %w", id, err)
			}
		case !wanted:
			if err := store.RemoveMember(ctx, id); err != nil {
				return fmt.Errorf("remove %s: %w", id, err)
			}
		}
	}
	return waiting
}

// canSpare returns an error while the store would be without a quorum if a voter went: a majority of the
// others has to follow this leader.
func (g *governor) canSpare(ctx context.Context, has wish, id string) error {
	if !has[id] {
		return nil
	}
	others, follow := 0, 0
	for _, other := range has.voters() {
		if other == id {
			continue
		}
		others++
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		r, err := g.m.n.ask(ctx, other, g.m.name)
		cancel()
		if err == nil && len(r.Members) == 1 && r.Members[0].Error == "" && r.Members[0].Leader == g.m.n.id {
			follow++
		}
	}
	if 2*follow <= others {
		return fmt.Errorf("%s stays: %d of the %d other voters follow", id, follow, others)
	}
	return nil
}

// caughtUp returns an error while a member is far behind.
func (g *governor) caughtUp(ctx context.Context, store *raftkv.Store, id string) error {
	goal := store.AppliedIndex()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := g.m.n.ask(ctx, id, g.m.name)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", id, err)
	}
	for _, x := range r.Members {
		switch {
		case x.RaftId != g.m.raftID:
		case x.Error != "":
			return fmt.Errorf("the member on %s does not run: %s", id, x.Error)
		case x.Applied == 0, x.Applied+caughtUp < goal:
			return fmt.Errorf("%s is at log entry %d of %d", id, x.Applied, goal)
		default:
			return nil
		}
	}
	return fmt.Errorf("%s has no member yet", id)
}

// handOver makes another voter lead, so that this node's member can go.
func (g *governor) handOver(ctx context.Context, store *raftkv.Store, want wish) error {
	if time.Now().Before(g.pauseTo) {
		return nil
	}
	g.pauseTo = time.Now().Add(handOverPause)
	has := config(store)
	var last error
	for _, id := range want.voters() {
		if id == g.m.n.id || !has[id] {
			continue
		}
		if last = g.caughtUp(ctx, store, id); last != nil {
			continue
		}
		if last = store.TransferLeadershipTo(ctx, id, id); last == nil {
			return nil
		}
	}
	if last == nil {
		last = fmt.Errorf("no other voter")
	}
	return fmt.Errorf("hand over, so that this member can go: %w", last)
}

// prefer hands over to the best of the preferred leaders that has caught up.
func (g *governor) prefer(ctx context.Context, store *raftkv.Store, row *clusterpb.Store) error {
	if len(row.Preferred) == 0 || time.Now().Before(g.pauseTo) {
		return nil
	}
	has := config(store)
	for _, id := range row.Preferred {
		if id == g.m.n.id {
			return nil
		}
		if !has[id] || g.caughtUp(ctx, store, id) != nil {
			continue
		}
		g.pauseTo = time.Now().Add(handOverPause)
		g.m.n.log.Info("handing over to a preferred leader", "store", g.m.name, "to", id)
		if err := store.TransferLeadershipTo(ctx, id, id); err != nil {
			return fmt.Errorf("hand over to %s: %w", id, err)
		}
		return nil
	}
	return nil
}

// handOver gives away every leadership that another voter can take, before the node stops.
func (n *Node) handOver() {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	defer cancel()
	n.mu.Lock()
	members := slices.Collect(maps.Values(n.members))
	n.mu.Unlock()
	done := make(chan struct{})
	for _, m := range members {
		go func() {
			defer func() { done <- struct{}{} }()
			store, err := m.running()
			if err != nil || !store.Stats().Leads || len(config(store).voters()) < 2 {
				return
			}
			if err := store.TransferLeadership(ctx); err != nil {
				n.log.Debug("could not hand over", "store", m.name, "cause", err)
			}
		}()
	}
	for range members {
		<-done
	}
}
