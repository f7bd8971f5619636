package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

func (a adminServer) NodeStatus(_ context.Context, r *clusterpb.NodeStatusRequest) (*clusterpb.NodeStatusResponse, error) {
	return a.n.status(r.Stores...), nil
}

// status is what this node says about itself and its members of the named stores, or of all when none is
// named.
func (n *Node) status(stores ...string) *clusterpb.NodeStatusResponse {
	out := &clusterpb.NodeStatusResponse{
		Node: n.id, Listen: n.advertise, UptimeMs: time.Since(n.began).Milliseconds(), Version: n.opts.Version,
		DirectoryIndex: n.image.Load().index,
	}
	stores = slices.DeleteFunc(stores, func(s string) bool { return s == "" })
	n.mu.Lock()
	members := slices.Collect(maps.Values(n.members))
	n.mu.Unlock()
	for _, m := range members {
		if len(stores) == 0 || slices.Contains(stores, m.name) {
			out.Members = append(out.Members, m.status())
		}
	}
	slices.SortFunc(out.Members, func(a, b *clusterpb.Member) int {
		if a.Store < b.Store {
			return -1
		}
		return 1
	})
	return out
}

func (m *member) status() *clusterpb.Member {
	out := &clusterpb.Member{Store: m.name, RaftId: m.raftID, Damaged: m.damaged()}
	store, err := m.running()
	if err != nil {
		out.Error = err.Error()
		return out
	}
	st := store.Stats()
	out.Leads, out.Leader, out.Term = st.Leads, st.Leader, st.Term
	out.Applied, out.StateIndex, out.StateBytes, out.LogBytes = st.AppliedIndex, st.StateIndex, st.StateBytes, st.LogBytes
	if st.Err != nil {
		out.Error = st.Err.Error()
	}
	servers, committed := store.Configuration()
	for _, x := range servers {
		if x.Voter {
			out.Voters = append(out.Voters, x.ID)
		} else {
			out.Learners = append(out.Learners, x.ID)
		}
	}
	out.ConfigCommitted = committed
	slices.Sort(out.Voters)
	slices.Sort(out.Learners)
	return out
}

// report is what one node says, or why it says nothing.
type report struct {
	status *clusterpb.NodeStatusResponse
	err    error
}

// askAll asks every node that is not removed, all at once.
func (n *Node) askAll(ctx context.Context, im *image) map[string]report {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var (
		mu   sync.Mutex
		out  = map[string]report{}
		work sync.WaitGroup
	)
	for id, x := range im.nodes {
		if x.State == clusterpb.NodeState_NODE_REMOVED {
			continue
		}
		work.Go(func() {
			s, err := n.ask(ctx, id, "")
			mu.Lock()
			defer mu.Unlock()
			out[id] = report{s, err}
		})
	}
	work.Wait()
	return out
}

// leaders returns what the leader of each store says about its member, by raft ID.
func leaders(reports map[string]report) map[string]*clusterpb.Member {
	out := map[string]*clusterpb.Member{}
	for _, r := range reports {
		for _, m := range r.status.GetMembers() {
			if was := out[m.RaftId]; m.Leads && (was == nil || was.Term < m.Term) {
				out[m.RaftId] = m
			}
		}
	}
	return out
}

func (im *image) sortedStores() []*clusterpb.Store {
	var out []*clusterpb.Store
	for _, name := range slices.Sorted(maps.Keys(im.stores)) {
		out = append(out, im.stores[name])
	}
	return out
}

// learned waits until this node's copy of the directory has this node in it: right after a start it has
// nothing but what was in the state file, until a leader has said what is committed. A caller that need not
// wait for a leader is sent to somebody else after a while.
func (n *Node) learned(ctx context.Context) (*image, error) {
	t := time.NewTimer(askTimeout)
	defer t.Stop()
	for {
		changed := n.imageChanged()
		im := n.image.Load()
		if n.removed() {
			return nil, &redirectError{} // removed: its copy stays as it is
		}
		if im.nodes[n.id] != nil {
			return im, nil
		}
		select {
		case <-changed:
		case <-t.C:
			return nil, &redirectError{}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (a adminServer) Status(ctx context.Context, _ *clusterpb.StatusRequest) (*clusterpb.StatusResponse, error) {
	n := a.n
	im, err := n.learned(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	reports := n.askAll(ctx, im)
	leads := leaders(reports)
	out := &clusterpb.StatusResponse{Cluster: n.ClusterID(), AnsweredBy: n.id}
	for _, id := range slices.Sorted(maps.Keys(im.nodes)) {
		info := &clusterpb.NodeInfo{Node: im.nodes[id]}
		if r, asked := reports[id]; asked && r.err == nil {
			info.Reachable, info.Listen, info.UptimeMs, info.Version = true, r.status.Listen, r.status.UptimeMs, r.status.Version
		} else if asked {
			info.Error = r.err.Error()
		}
		out.Nodes = append(out.Nodes, info)
	}
	directory := &clusterpb.Store{Name: Directory, RaftId: Directory, State: clusterpb.StoreState_STORE_READY, All: true}
	for _, s := range append([]*clusterpb.Store{directory}, im.sortedStores()...) {
		info := storeInfo(s, leads[s.RaftId], reports, im.wish(s, n.directoryConfig()))
		out.Stores = append(out.Stores, info)
	}
	out.DirectoryLeader = out.Stores[0].Leader
	return out, nil
}

// storeInfo gathers what is known about a store: the configuration is the leader's, or, while none is
// known, that which the directory wants.
func storeInfo(s *clusterpb.Store, leader *clusterpb.Member, reports map[string]report, want wish) *clusterpb.StoreInfo {
	out := &clusterpb.StoreInfo{Store: s}
	has := want
	if leader != nil {
		has = wish{}
		for _, id := range leader.Learners {
			has[id] = false
		}
		for _, id := range leader.Voters {
			has[id] = true
		}
		out.Leader, out.Term = leader.Leader, leader.Term
	}
	for _, id := range slices.Sorted(maps.Keys(has)) {
		m := &clusterpb.MemberInfo{Node: id, Voter: has[id]}
		if r := reports[id]; r.status != nil {
			m.Reachable = true
			for _, x := range r.status.Members {
				if x.RaftId == s.RaftId {
					m.Member = x
				}
			}
		}
		if leader != nil && m.Member != nil && leader.Applied > m.Member.Applied {
			m.Lag = leader.Applied - m.Member.Applied
		}
		out.Members = append(out.Members, m)
	}
	return out
}
