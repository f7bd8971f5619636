// Package clusterview turns what a cluster says about itself into what people and scripts are shown, and
// judges how healthy it is.
package clusterview

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

// Status of a cluster.
type Status struct {
	Health  control.Health `json:"health"`
	Reasons []string       `json:"reasons"` // why it is not ok
	Cluster string         `json:"cluster"`
	Nodes   []Node         `json:"nodes"`
	Stores  []Store        `json:"stores"` // the directory first
}

// Node is one machine of the cluster.
type Node struct {
	ID        string        `json:"id"`
	Address   string        `json:"address"`
	State     string        `json:"state"` // "active", "leaving" or "removed"
	Learner   bool          `json:"learner"`
	Reachable bool          `json:"reachable"`
	Error     string        `json:"error,omitempty"`
	Uptime    time.Duration `json:"uptime_ns"`
	Version   string        `json:"version,omitempty"`
}

// Store is one store with its members.
type Store struct {
	Name      string         `json:"name"`
	State     string         `json:"state"` // "creating" or "ready"
	Health    control.Health `json:"health"`
	Leader    string         `json:"leader,omitempty"`
	Term      uint64         `json:"term"`
	Preferred []string       `json:"preferred,omitempty"`
	Members   []Member       `json:"members"`
}

// Member is one copy of a store.
type Member struct {
	Node       string `json:"node"`
	Address    string `json:"address"`
	Voter      bool   `json:"voter"`
	Leads      bool   `json:"leads"`
	Reachable  bool   `json:"reachable"`
	Health     string `json:"health"` // "ok", "catching up", "down" or "failed"
	Error      string `json:"error,omitempty"`
	Applied    uint64 `json:"applied_index"`
	Lag        uint64 `json:"lag"` // log entries behind the leader
	StateIndex uint64 `json:"state_index"`
	StateBytes int64  `json:"state_bytes"`
	LogBytes   int64  `json:"log_bytes"`
}

// catchingUp is how many log entries a member may be behind before it is said to be catching up. Under
// load a healthy one is always some entries behind.
const catchingUp = 1000

// From makes a Status of what a node answered.
func From(r *clusterpb.StatusResponse) Status {
	s := Status{Cluster: r.GetCluster(), Reasons: []string{}, Nodes: []Node{}, Stores: []Store{}}
	address := make(map[string]string)
	for _, n := range r.GetNodes() {
		row := n.GetNode()
		address[row.GetId()] = row.GetAddress()
		s.Nodes = append(s.Nodes, Node{
			ID: row.GetId(), Address: row.GetAddress(), State: state(row.GetState()), Learner: row.GetLearner(),
			Reachable: n.GetReachable(), Error: n.GetError(), Uptime: time.Duration(n.GetUptimeMs()) * time.Millisecond, Version: n.GetVersion(),
		})
	}
	for _, st := range r.GetStores() {
		s.Stores = append(s.Stores, store(st, address))
	}
	s.judge()
	return s
}

func state(s clusterpb.NodeState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "NODE_"))
}

func store(in *clusterpb.StoreInfo, address map[string]string) Store {
	out := Store{
		Name: in.GetStore().GetName(), State: strings.ToLower(strings.TrimPrefix(in.GetStore().GetState().String(), "STORE_")),
		Leader: in.GetLeader(), Term: in.GetTerm(), Preferred: in.GetStore().GetPreferred(), Members: []Member{},
	}
	for _, m := range in.GetMembers() {
		w := m.GetMember()
		row := Member{
			Node: m.GetNode(), Address: address[m.GetNode()], Voter: m.GetVoter(), Reachable: m.GetReachable(),
			Leads: m.GetNode() == in.GetLeader(), Error: w.GetError(), Applied: w.GetApplied(), Lag: m.GetLag(),
			StateIndex: w.GetStateIndex(), StateBytes: w.GetStateBytes(), LogBytes: w.GetLogBytes(),
		}
		switch {
		case !row.Reachable:
			row.Health = "down"
		case row.Error != "":
			row.Health = "failed"
		case row.Lag > catchingUp:
			row.Health = "catching up"
		default:
			row.Health = "ok"
		}
		out.Members = append(out.Members, row)
	}
	return out
}

// judge says how healthy the cluster is, and why: lost when a store cannot be written to, degraded when
// it survives fewer losses than it is made for.
func (s *Status) judge() {
	s.Health = control.OK
	worse := func(h control.Health, format string, args ...any) {
		if h == control.Lost || s.Health == control.OK {
			s.Health = h
		}
		reason := fmt.Sprintf(format, args...)
		if !slices.Contains(s.Reasons, reason) {
			s.Reasons = append(s.Reasons, reason)
		}
	}
	for i := range s.Stores {
		st := &s.Stores[i]
		st.Health = control.OK
		voters, alive := 0, 0
		for _, m := range st.Members {
			good := m.Health == "ok" || m.Health == "catching up"
			if m.Voter {
				voters++
				if good {
					alive++
				}
			}
			if !good {
				st.Health = control.Degraded
			}
			if m.Health == "failed" {
				worse(control.Degraded, "store %s on %s has failed: %s", st.Name, m.Node, m.Error)
			}
		}
		switch {
		case alive < voters/2+1:
			st.Health = control.Lost
			worse(control.Lost, "store %s cannot be written to: %d of its %d voters serve", st.Name, alive, voters)
		case st.Leader == "":
			st.Health = control.Lost
			worse(control.Lost, "store %s has no leader at the moment", st.Name)
		case alive < voters:
			worse(control.Degraded, "store %s survives the loss of %d more of its voters instead of %d", st.Name, alive-(voters/2+1), (voters-1)/2)
		}
	}
	for _, n := range s.Nodes {
		if n.State != "removed" && !n.Reachable {
			worse(control.Degraded, "node %s at %s does not answer", n.ID, orUnknown(n.Address))
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown address"
	}
	return s
}

// Find returns the store of that name, or nil.
func (s *Status) Find(name string) *Store {
	for i := range s.Stores {
		if s.Stores[i].Name == name {
			return &s.Stores[i]
		}
	}
	return nil
}
