package clusterview

import (
	"strings"
	"testing"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

// three is a cluster of three nodes with one store, after change.
func three(change func(*clusterpb.StatusResponse)) Status {
	r := &clusterpb.StatusResponse{Cluster: strings.Repeat("ab", 16)}
	st := &clusterpb.StoreInfo{Store: &clusterpb.Store{Name: "app", State: clusterpb.StoreState_STORE_READY}, Leader: "a", Term: 3}
	for _, id := range []string{"a", "b", "c"} {
		r.Nodes = append(r.Nodes, &clusterpb.NodeInfo{Node: &clusterpb.Node{Id: id, Address: id + ":1", State: clusterpb.NodeState_NODE_ACTIVE}, Reachable: true})
		st.Members = append(st.Members, &clusterpb.MemberInfo{Node: id, Voter: true, Reachable: true, Member: &clusterpb.Member{Applied: 7}})
	}
	r.Stores = []*clusterpb.StoreInfo{st}
	change(r)
	return From(r)
}

func TestJudge(t *testing.T) {
	down := func(r *clusterpb.StatusResponse, i int) {
		r.Nodes[i].Reachable = false
		r.Stores[0].Members[i].Reachable = false
		r.Stores[0].Members[i].Member = nil
	}
	for _, c := range []struct {
		name   string
		change func(*clusterpb.StatusResponse)
		health control.Health
		reason string
	}{
		{"all well", func(*clusterpb.StatusResponse) {}, control.OK, ""},
		{"one down", func(r *clusterpb.StatusResponse) { down(r, 2) }, control.Degraded, "node c at c:1 does not answer"},
		{"one down leaves no spare", func(r *clusterpb.StatusResponse) { down(r, 2) }, control.Degraded, "survives the loss of 0 more of its voters instead of 1"},
		{"two down", func(r *clusterpb.StatusResponse) { down(r, 1); down(r, 2) }, control.Lost, "1 of its 3 voters serve"},
		{"no leader", func(r *clusterpb.StatusResponse) { r.Stores[0].Leader = "" }, control.Lost, "no leader"},
		{"a failed member", func(r *clusterpb.StatusResponse) { r.Stores[0].Members[1].Member.Error = "the state file is damaged" }, control.Degraded, "the state file is damaged"},
		{"a learner is down", func(r *clusterpb.StatusResponse) {
			r.Stores[0].Members = append(r.Stores[0].Members, &clusterpb.MemberInfo{Node: "d"})
		}, control.OK, ""},
		{"a removed node is silent", func(r *clusterpb.StatusResponse) {
			r.Nodes = append(r.Nodes, &clusterpb.NodeInfo{Node: &clusterpb.Node{Id: "z", State: clusterpb.NodeState_NODE_REMOVED}})
		}, control.OK, ""},
		{"far behind is not ill", func(r *clusterpb.StatusResponse) { r.Stores[0].Members[1].Lag = 5000 }, control.OK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := three(c.change)
			if s.Health != c.health || !strings.Contains(strings.Join(s.Reasons, "\n"), c.reason) {
				t.Errorf("%s, %q, want %s because of %q", s.Health, s.Reasons, c.health, c.reason)
			}
		})
	}
	s := three(func(r *clusterpb.StatusResponse) { r.Stores[0].Members[1].Lag = 5000 })
	m := s.Find("app").Members
	if m[0].Health != "ok" || !m[0].Leads || m[0].Address != "a:1" || m[1].Health != "catching up" || m[1].Leads {
		t.Errorf("%+v", m)
	}
	if s.Find("none") != nil {
		t.Error("found a store that is not there")
	}
}
