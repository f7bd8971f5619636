package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Announce notes where the calling node listens, at once for this node and, when it leads the directory,
// for all.
func (a adminServer) Announce(ctx context.Context, r *clusterpb.AnnounceRequest) (*clusterpb.AnnounceResponse, error) {
	n := a.n
	who, err := caller(ctx)
	if err == nil {
		err = identity.CheckAddr(r.Address)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	if who.Name != n.id {
		n.learnAddresses([]*clusterpb.Address{{Id: who.Name, Address: r.Address, Generation: r.Generation}})
	}
	out := &clusterpb.AnnounceResponse{Known: n.book.all()}
	err = n.inDirectory(ctx, func(tx kv.Txn) error {
		row, err := getNode(tx, who.Name)
		if err != nil {
			return err
		}
		if row.Address == r.Address && row.Generation == r.Generation || row.Generation > r.Generation {
			return nil
		}
		row.Address, row.Generation = r.Address, r.Generation
		return putNode(tx, row)
	})
	var re *redirectError
	if errors.As(err, &re) {
		out.Leader = &clusterpb.Redirect{Node: re.node, Address: re.address}
		err = nil
	}
	return out, toStatus(err)
}

// changeNode changes the row of a node that is not removed.
func (n *Node) changeNode(ctx context.Context, id string, change func(tx kv.Txn, im *image, row *clusterpb.Node) error) error {
	err := n.inDirectory(ctx, func(tx kv.Txn) error {
		im, err := readImage(tx)
		if err != nil {
			return err
		}
		row := im.nodes[id]
		if row == nil || row.State == clusterpb.NodeState_NODE_REMOVED {
			return fmt.Errorf("%w: %q", ErrNoNode, id)
		}
		if err := change(tx, im, row); err != nil {
			return err
		}
		return putNode(tx, row)
	})
	return toStatus(err)
}

func (a adminServer) SetLearner(ctx context.Context, r *clusterpb.SetLearnerRequest) (*clusterpb.SetLearnerResponse, error) {
	err := a.n.changeNode(ctx, r.Node, func(_ kv.Txn, im *image, row *clusterpb.Node) error {
		row.Learner = r.Learner
		return im.checkVoters(r.Node)
	})
	return &clusterpb.SetLearnerResponse{}, err
}

// checkVoters says whether the directory and every store can go on without a node.
func (im *image) checkVoters(without string) error {
	can := func(id string) bool {
		n := im.nodes[id]
		return id != without && n != nil && n.State == clusterpb.NodeState_NODE_ACTIVE && !n.Learner
	}
	if n := im.nodes[without]; n.State == clusterpb.NodeState_NODE_ACTIVE && !n.Learner {
		return nil
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(im.nodes)), can) {
		return fmt.Errorf("%w: no other node can vote", ErrRefused)
	}
	for _, s := range im.stores {
		if !s.All && !slices.ContainsFunc(s.Voters, can) {
			return fmt.Errorf("%w: node %s is the only voter of store %s: give the store other members first", ErrRefused, without, s.Name)
		}
	}
	return nil
}

func (a adminServer) RemoveNode(ctx context.Context, r *clusterpb.RemoveNodeRequest) (*clusterpb.RemoveNodeResponse, error) {
	err := a.n.changeNode(ctx, r.Node, func(tx kv.Txn, im *image, row *clusterpb.Node) error {
		row.State = clusterpb.NodeState_NODE_LEAVING
		if err := im.checkVoters(r.Node); err != nil {
			return err
		}
		if !r.Force {
			return nil
		}
		row.State = clusterpb.NodeState_NODE_REMOVED
		return im.strip(tx, r.Node)
	})
	return &clusterpb.RemoveNodeResponse{}, err
}

// strip takes a node out of the lists of every store.
func (im *image) strip(tx kv.Txn, id string) error {
	is := func(x string) bool { return x == id }
	for _, s := range im.stores {
		n := len(s.Voters) + len(s.Learners) + len(s.Preferred)
		s.Voters = slices.DeleteFunc(s.Voters, is)
		s.Learners = slices.DeleteFunc(s.Learners, is)
		s.Preferred = slices.DeleteFunc(s.Preferred, is)
		if n != len(s.Voters)+len(s.Learners)+len(s.Preferred) {
			if err := putStore(tx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a adminServer) ReplaceNode(ctx context.Context, r *clusterpb.ReplaceNodeRequest) (*clusterpb.ReplaceNodeResponse, error) {
	err := a.n.changeNode(ctx, r.Node, func(tx kv.Txn, im *image, row *clusterpb.Node) error {
		by := im.nodes[r.By]
		switch {
		case by == nil:
			return fmt.Errorf("%w: %q", ErrNoNode, r.By)
		case r.By == r.Node || by.State != clusterpb.NodeState_NODE_ACTIVE:
			return fmt.Errorf("%w: node %s cannot take the place of %s", ErrRefused, r.By, r.Node)
		case by.Learner && !row.Learner:
			return fmt.Errorf("%w: node %s never votes, node %s does", ErrRefused, r.By, r.Node)
		}
		for _, s := range im.stores {
			if err := substitute(tx, s, r.Node, r.By); err != nil {
				return err
			}
		}
		row.State = clusterpb.NodeState_NODE_LEAVING
		return im.checkVoters(r.Node)
	})
	return &clusterpb.ReplaceNodeResponse{}, err
}

// substitute puts a node in the place of another one in a store's lists.
func substitute(tx kv.Txn, s *clusterpb.Store, old, by string) error {
	changed := false
	for _, list := range []*[]string{&s.Voters, &s.Learners, &s.Preferred} {
		i := slices.Index(*list, old)
		if i < 0 {
			continue
		}
		changed = true
		if slices.Contains(*list, by) {
			*list = slices.Delete(*list, i, i+1)
		} else {
			(*list)[i] = by
		}
	}
	s.Learners = slices.DeleteFunc(s.Learners, func(id string) bool { return slices.Contains(s.Voters, id) })
	if !changed {
		return nil
	}
	return putStore(tx, s)
}

// finishRemovals removes the nodes that are leaving and that no store counts on any more. The leader of
// the directory does it.
func (n *Node) finishRemovals(ctx context.Context, im *image) error {
	var leaving []string
	for id, x := range im.nodes {
		if x.State == clusterpb.NodeState_NODE_LEAVING {
			leaving = append(leaving, id)
		}
	}
	if len(leaving) == 0 {
		return nil
	}
	leaders := leaders(n.askAll(ctx, im))
	for _, id := range leaving {
		left := true
		for _, raftID := range append(slices.Collect(maps.Keys(im.byRaft)), Directory) {
			m := leaders[raftID]
			left = left && m != nil && m.ConfigCommitted && !slices.Contains(m.Voters, id) &&
				(raftID == Directory || !slices.Contains(m.Learners, id)) // the directory it follows to the end
		}
		if !left {
			continue
		}
		err := n.inDirectory(ctx, func(tx kv.Txn) error {
			now, err := readImage(tx)
			if err != nil {
				return err
			}
			row := now.nodes[id]
			if row.GetState() != clusterpb.NodeState_NODE_LEAVING || len(now.byRaft) != len(im.byRaft) {
				return nil // something happened meanwhile: look again
			}
			row.State = clusterpb.NodeState_NODE_REMOVED
			if err := now.strip(tx, id); err != nil {
				return err
			}
			return putNode(tx, row)
		})
		if err != nil {
			return fmt.Errorf("remove node %s: %w", id, err)
		}
		n.log.Info("a node was removed", "id", id)
	}
	return nil
}

// knownAddrs returns the addresses of the active nodes, this one's first.
func (n *Node) knownAddrs() []string {
	im := n.image.Load()
	out := []string{n.advertise}
	for _, id := range slices.Sorted(maps.Keys(im.nodes)) {
		if x := im.nodes[id]; id != n.id && x.State == clusterpb.NodeState_NODE_ACTIVE && x.Address != "" {
			out = append(out, x.Address)
		}
	}
	return out
}

// saveAddrs keeps the addresses in node.pem, for the next start and for those who administer the cluster
// with this node's directory.
func (n *Node) saveAddrs() {
	addrs := n.knownAddrs()
	addrs = addrs[:min(len(addrs), 64)]
	n.peers.learn(addrs)
	if slices.Equal(addrs, n.addrs) {
		return
	}
	err := identity.WriteBundle(filepath.Join(n.opts.Dir, nodeFile), &identity.Bundle{Credentials: n.creds, Addrs: addrs})
	if err != nil {
		n.log.Warn("cannot note the addresses of the nodes", "cause", err)
		return
	}
	n.addrs = addrs
}
