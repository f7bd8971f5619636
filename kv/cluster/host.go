package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

const (
	// retryPeriod is how soon what could not be done is tried again.
	retryPeriod = 500 * time.Millisecond
	// reopenPeriod is how soon a member that could not be opened is tried again.
	reopenPeriod = 5 * time.Second
	// openAtOnce is how many members are opened at the same time.
	openAtOnce = 8
	// askTimeout bounds a question to another node.
	askTimeout = 1500 * time.Millisecond
)

// sleep waits for d or the end of the node.
func (n *Node) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.ctx.Done():
	}
}

// await waits until the image changes, or it is time to try again, or the node ends.
func (n *Node) await(changed <-chan struct{}) {
	t := time.NewTimer(retryPeriod)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-n.ctx.Done():
	}
}

// host is the goroutine that opens and removes members, until they are what the directory says.
func (n *Node) host() {
	slots := make(chan struct{}, openAtOnce)
	for n.ctx.Err() == nil {
		changed := n.imageChanged()
		n.hostStep(slots)
		n.await(changed)
	}
}

func (n *Node) hostStep(slots chan struct{}) {
	im := n.image.Load()
	known, err := n.marks()
	if err != nil {
		n.log.Error("cannot list the members of this node", "cause", err)
		return
	}
	directory := n.directoryConfig()
	for _, s := range im.stores {
		if _, mine := im.wish(s, directory)[n.id]; mine {
			n.ensure(s.Name, s.RaftId, slots)
		}
	}
	for _, raftID := range known {
		s := im.byRaft[raftID]
		switch {
		case raftID == Directory:
		case s == nil:
			n.hostUnknown(im, raftID, slots)
		default:
			_, mine := im.wish(s, directory)[n.id]
			n.ensure(s.Name, raftID, slots) // others may count on it until they have agreed to go on without it
			if !mine || n.isDamaged(raftID) {
				n.leave(im, s)
			}
		}
	}
}

func (n *Node) isDamaged(raftID string) bool {
	n.mu.Lock()
	m := n.members[raftID]
	n.mu.Unlock()
	return m != nil && m.damaged()
}

// hostUnknown deals with a member whose store is not in the directory: it was deleted, unless this
// node's copy of the directory is older than the member.
func (n *Node) hostUnknown(im *image, raftID string, slots chan struct{}) {
	mk, found, err := n.readMark(raftID)
	switch {
	case err != nil:
		n.log.Error("the mark of a member is damaged", "member", raftID, "cause", err)
	case !found:
	case im.index < mk.index:
		n.ensure(mk.store, raftID, slots)
	default:
		n.retire(raftID, "its store was deleted")
	}
}

// ensure opens a member that is not open.
func (n *Node) ensure(name, raftID string, slots chan struct{}) {
	n.mu.Lock()
	m := n.members[raftID]
	if m != nil || n.ctx.Err() != nil {
		n.mu.Unlock()
		return
	}
	m = n.newMember(name, raftID)
	n.members[raftID] = m
	n.mu.Unlock()
	m.work.Go(func() { m.start(slots) })
}

// start opens the member, again and again where that may help, and governs it while it leads.
func (m *member) start(slots chan struct{}) {
	for {
		select {
		case slots <- struct{}{}:
		case <-m.ctx.Done():
			return
		}
		// A lone voter is open when it leads, which takes a moment and nothing else.
		err := m.open(m.ctx, m.firstConfig())
		<-slots
		if err == nil {
			m.govern()
			return
		}
		if m.ctx.Err() != nil {
			return
		}
		m.n.log.Error("a member cannot be opened", "store", m.name, "cause", err)
		m.mu.Lock()
		again := m.again
		m.mu.Unlock()
		if !again {
			return
		}
		t := time.NewTimer(reopenPeriod)
		select {
		case <-t.C:
		case <-m.ctx.Done():
			t.Stop()
			return
		}
	}
}

// firstConfig is the configuration that a new store begins with, when this node is in it and the store
// has not led yet. Whoever comes later begins as a newcomer to whom the leader sends everything: then the
// others may have acknowledged something already.
func (m *member) firstConfig() []string {
	s := m.n.image.Load().byRaft[m.raftID]
	if s == nil || s.State != clusterpb.StoreState_STORE_CREATING || !slices.Contains(s.Initial, m.n.id) {
		return nil
	}
	return s.Initial
}

// leave removes a member that the directory wants elsewhere, or that is damaged, once the store goes on
// without it. A damaged one may then begin anew: nobody counts any more on what it has forgotten.
func (n *Node) leave(im *image, s *clusterpb.Store) {
	mk, found, err := n.readMark(s.RaftId)
	if err == nil && (!found || im.index < mk.index) {
		return // the directory here is older than the member
	}
	n.mu.Lock()
	agreed, was := n.left[s.RaftId]
	delete(n.left, s.RaftId)
	asking := n.asking[s.RaftId]
	n.asking[s.RaftId] = true
	n.mu.Unlock()
	switch {
	case was && agreed == im.index: // the directory has not changed its mind since
		n.retire(s.RaftId, "its store goes on without it")
		n.asked(s.RaftId, 0)
	case !asking:
		n.work.Go(func() { n.askToLeave(im, s) })
	}
}

// asked notes the end of a question. agreed is the index of the image when it was asked, or 0 for no.
func (n *Node) asked(raftID string, agreed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.asking, raftID)
	if agreed != 0 {
		n.left[raftID] = agreed
	}
}

// askToLeave asks whether the leader of a store goes on without this node's member. A damaged one that is
// only a learner is not counted on either.
func (n *Node) askToLeave(im *image, s *clusterpb.Store) {
	var agreed uint64
	damaged := n.isDamaged(s.RaftId)
	for id := range im.wish(s, n.directoryConfig()) {
		if id == n.id {
			continue
		}
		ctx, cancel := context.WithTimeout(n.ctx, askTimeout)
		r, err := n.ask(ctx, id, s.Name)
		cancel()
		if err != nil || len(r.Members) != 1 {
			continue
		}
		x := r.Members[0]
		if x.Leads && x.ConfigCommitted && x.RaftId == s.RaftId && len(x.Voters) > 0 && !slices.Contains(x.Voters, n.id) &&
			(damaged || !slices.Contains(x.Learners, n.id)) {
			agreed = im.index
			break
		}
	}
	n.asked(s.RaftId, agreed)
}

// retire closes a member and removes its files.
func (n *Node) retire(raftID, why string) {
	n.mu.Lock()
	m := n.members[raftID]
	delete(n.members, raftID)
	n.mu.Unlock()
	if m != nil {
		n.log.Info("a member is removed", "store", m.name, "member", raftID, "because", why)
		m.streams().cut() // nobody waits for it
		if err := m.close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			n.log.Warn("closing a member that is removed", "store", m.name, "cause", err)
		}
	}
	if err := n.removeFiles(raftID); err != nil {
		n.log.Error("the files of a removed member cannot be removed", "member", raftID, "cause", err)
	}
}
