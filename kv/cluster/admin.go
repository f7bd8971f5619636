package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// adminServer implements the service Cluster.
type adminServer struct {
	clusterpb.UnimplementedClusterServer
	n *Node
}

// MaxTokenTTL is how long a token may hold.
const MaxTokenTTL = 365 * 24 * time.Hour

const (
	maxStores    = 4096
	maxTokens    = 1024
	maxTokenUses = 1024
)

// redirect turns the refusal of a member that does not lead into one that says who does.
func (n *Node) redirect(store string, err error) error {
	var not *kv.NotLeaderError
	switch {
	case errors.As(err, &not):
		return &redirectError{not.Leader, n.address(not.Leader)}
	case errors.Is(err, kv.ErrClosed):
		// This node's member does not run: somebody else will know.
		for id := range n.image.Load().nodes {
			if id != n.id && n.image.Load().nodes[id].State == clusterpb.NodeState_NODE_ACTIVE {
				return &redirectError{"", ""}
			}
		}
	}
	if err != nil && store != Directory {
		return fmt.Errorf("store %s: %w", store, err)
	}
	return err
}

func (a adminServer) ListStores(ctx context.Context, _ *clusterpb.ListStoresRequest) (*clusterpb.ListStoresResponse, error) {
	im, err := a.n.learned(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &clusterpb.ListStoresResponse{Stores: im.sortedStores()}, nil
}

func (a adminServer) CreateStore(ctx context.Context, r *clusterpb.CreateStoreRequest) (*clusterpb.CreateStoreResponse, error) {
	if err := identity.CheckName(r.Name); err != nil || r.Name == Directory || len(r.Nonce) > 64 {
		return nil, toStatus(fmt.Errorf("%w: a store cannot be named %q: %w", ErrRefused, r.Name, err))
	}
	var row *clusterpb.Store
	err := a.n.inDirectory(ctx, func(tx kv.Txn) (err error) {
		row, err = a.n.createIn(tx, r)
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	row, err = a.n.waitStore(ctx, row)
	return &clusterpb.CreateStoreResponse{Store: row}, toStatus(err)
}

func (n *Node) createIn(tx kv.Txn, r *clusterpb.CreateStoreRequest) (*clusterpb.Store, error) {
	im, err := readImage(tx)
	if err != nil {
		return nil, err
	}
	if was := im.stores[r.Name]; was != nil {
		if r.IfAbsent || len(r.Nonce) > 0 && bytes.Equal(was.Nonce, r.Nonce) {
			return was, nil
		}
		return nil, fmt.Errorf("%w: store %q", ErrExists, r.Name)
	}
	if len(im.stores) >= maxStores {
		return nil, fmt.Errorf("%w: there are %d stores, more are not allowed", ErrRefused, maxStores)
	}
	s := &clusterpb.Store{
		Name: r.Name, State: clusterpb.StoreState_STORE_CREATING, All: len(r.Voters) == 0,
		Voters: r.Voters, Learners: r.Learners, Preferred: r.Preferred, Nonce: r.Nonce,
	}
	if err := im.checkMembers(s); err != nil {
		return nil, err
	}
	if s.Initial = im.wish(s, n.directoryConfig()).voters(); len(s.Initial) == 0 {
		return nil, fmt.Errorf("%w: no node can vote in store %q", ErrRefused, r.Name)
	}
	if s.RaftId, err = nextRaftID(tx); err != nil {
		return nil, err
	}
	return s, putStore(tx, s)
}

// checkMembers says whether a store's members and preferred leaders make sense.
func (im *image) checkMembers(s *clusterpb.Store) error {
	if s.All && len(s.Learners) > 0 {
		return fmt.Errorf("%w: learners are given only together with voters", ErrRefused)
	}
	seen := map[string]bool{}
	for _, id := range slices.Concat(s.Voters, s.Learners) {
		n := im.nodes[id]
		switch {
		case n == nil:
			return fmt.Errorf("%w: %q", ErrNoNode, id)
		case n.State != clusterpb.NodeState_NODE_ACTIVE:
			return fmt.Errorf("%w: node %s is being removed", ErrRefused, id)
		case seen[id]:
			return fmt.Errorf("%w: node %s is named twice", ErrRefused, id)
		case n.Learner && slices.Contains(s.Voters, id):
			return fmt.Errorf("%w: node %s never votes", ErrRefused, id)
		}
		seen[id] = true
	}
	for _, id := range s.Preferred {
		switch n := im.nodes[id]; {
		case n == nil:
			return fmt.Errorf("%w: %q", ErrNoNode, id)
		case n.Learner:
			return fmt.Errorf("%w: node %s never votes, so it cannot lead", ErrRefused, id)
		case !s.All && !slices.Contains(s.Voters, id):
			return fmt.Errorf("%w: node %s is not a voter of the store", ErrRefused, id)
		}
	}
	return nil
}

// waitStore waits until a store that was created can be used.
func (n *Node) waitStore(ctx context.Context, row *clusterpb.Store) (*clusterpb.Store, error) {
	for {
		changed := n.imageChanged()
		switch s := n.image.Load().stores[row.Name]; {
		case s == nil && n.image.Load().byRaft[row.RaftId] == nil:
			// Not there yet: this node's copy lags behind what it has just committed.
		case s == nil, s.RaftId != row.RaftId:
			return nil, fmt.Errorf("%w: store %q was deleted meanwhile", ErrRefused, row.Name)
		case ready(s):
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("store %s is created, but does not lead yet: %w", row.Name, ctx.Err())
		}
	}
}

func (a adminServer) DeleteStore(ctx context.Context, r *clusterpb.DeleteStoreRequest) (*clusterpb.DeleteStoreResponse, error) {
	err := a.n.inDirectory(ctx, func(tx kv.Txn) error {
		if _, err := getStore(tx, r.Name); err != nil {
			return err
		}
		tx.Delete(ksStore, []byte(r.Name))
		return nil
	})
	return &clusterpb.DeleteStoreResponse{}, toStatus(err)
}

// changeStore changes the row of a store.
func (n *Node) changeStore(ctx context.Context, name string, change func(im *image, s *clusterpb.Store) error) (s *clusterpb.Store, err error) {
	err = n.inDirectory(ctx, func(tx kv.Txn) error {
		im, err := readImage(tx)
		if err != nil {
			return err
		}
		if s = im.stores[name]; s == nil {
			return fmt.Errorf("%w: %q", kv.ErrNoStore, name)
		}
		if err := change(im, s); err != nil {
			return err
		}
		return putStore(tx, s)
	})
	return s, toStatus(err)
}

func (a adminServer) SetMembers(ctx context.Context, r *clusterpb.SetMembersRequest) (*clusterpb.SetMembersResponse, error) {
	s, err := a.n.changeStore(ctx, r.Name, func(im *image, s *clusterpb.Store) error {
		s.All, s.Voters, s.Learners = len(r.Voters) == 0, r.Voters, r.Learners
		if !s.All {
			s.Preferred = slices.DeleteFunc(s.Preferred, func(id string) bool { return !slices.Contains(s.Voters, id) })
		}
		return im.checkMembers(s)
	})
	return &clusterpb.SetMembersResponse{Store: s}, err
}

func (a adminServer) SetPreferred(ctx context.Context, r *clusterpb.SetPreferredRequest) (*clusterpb.SetPreferredResponse, error) {
	_, err := a.n.changeStore(ctx, r.Name, func(im *image, s *clusterpb.Store) error {
		s.Preferred = r.Preferred
		return im.checkMembers(s)
	})
	return &clusterpb.SetPreferredResponse{}, err
}

func (a adminServer) SetReady(ctx context.Context, r *clusterpb.SetReadyRequest) (*clusterpb.SetReadyResponse, error) {
	_, err := a.n.changeStore(ctx, r.Name, func(_ *image, s *clusterpb.Store) error {
		if s.RaftId != r.RaftId {
			return fmt.Errorf("%w: %q is another store by now", kv.ErrNoStore, r.Name)
		}
		s.State = clusterpb.StoreState_STORE_READY
		return nil
	})
	return &clusterpb.SetReadyResponse{}, err
}

func (a adminServer) TransferLeader(ctx context.Context, r *clusterpb.TransferLeaderRequest) (*clusterpb.TransferLeaderResponse, error) {
	n := a.n
	im := n.image.Load()
	row := im.stores[r.Name]
	if row == nil && r.Name != Directory {
		if !n.upToDate(im) {
			return nil, toStatus(&redirectError{}) // somebody else may know it
		}
		return nil, toStatus(fmt.Errorf("%w: %q", kv.ErrNoStore, r.Name))
	}
	store, err := n.member(r.Name)
	if err != nil && row == nil {
		return nil, toStatus(&redirectError{}) // the directory's member here does not run
	} else if err != nil {
		for id := range n.image.Load().wish(row, n.directoryConfig()) {
			if id != n.id { // any member knows more
				return nil, toStatus(&redirectError{id, n.address(id)})
			}
		}
		return nil, toStatus(err)
	}
	if st := store.Stats(); !st.Leads {
		if st.Leader == n.id {
			return nil, toStatus(&redirectError{}) // about to begin or to end
		}
		return nil, toStatus(&redirectError{st.Leader, n.address(st.Leader)})
	}
	if r.To == "" {
		err = store.TransferLeadership(ctx)
	} else if votes, ok := config(store)[r.To]; !ok || !votes {
		err = fmt.Errorf("%w: node %s has no vote in store %s", ErrRefused, r.To, r.Name)
	} else if r.To != n.id {
		err = store.TransferLeadershipTo(ctx, r.To, r.To)
	}
	return &clusterpb.TransferLeaderResponse{}, toStatus(n.redirect(r.Name, err))
}

func (a adminServer) NewToken(ctx context.Context, r *clusterpb.NewTokenRequest) (*clusterpb.NewTokenResponse, error) {
	n := a.n
	ttl, uses := time.Duration(r.TtlMs)*time.Millisecond, r.Uses
	if ttl == 0 {
		ttl = time.Hour
	}
	if uses == 0 {
		uses = 1
	}
	if r.TtlMs < 0 || r.TtlMs > MaxTokenTTL.Milliseconds() || uses > maxTokenUses {
		return nil, toStatus(fmt.Errorf("%w: a token holds for up to %v and %d uses", ErrRefused, MaxTokenTTL, maxTokenUses))
	}
	t := identity.Token{
		Cluster: n.ClusterID(), CA: identity.Fingerprint(n.creds.CA), Secret: identity.NewSecret(),
		Expires: time.Now().Add(ttl), Addrs: n.knownAddrs(),
	}
	hash := t.Hash()
	err := n.inDirectory(ctx, func(tx kv.Txn) error {
		if err := dropExpired(tx); err != nil {
			return err
		}
		return putRow(tx, ksToken, hash[:], &clusterpb.Token{ExpiresUnix: t.Expires.Unix(), UsesLeft: uses, Learner: r.Learner})
	})
	return &clusterpb.NewTokenResponse{Token: t.String()}, toStatus(err)
}

func dropExpired(tx kv.Txn) error {
	var old []string
	count := 0
	err := eachRow(tx, ksToken, func() *clusterpb.Token { return &clusterpb.Token{} }, func(k string, t *clusterpb.Token) {
		count++
		if time.Now().Unix() >= t.ExpiresUnix {
			old = append(old, k)
		}
	})
	if err != nil {
		return err
	}
	for _, k := range old {
		tx.Delete(ksToken, []byte(k))
	}
	if count-len(old) >= maxTokens {
		return fmt.Errorf("%w: there are %d tokens that have not expired", ErrRefused, maxTokens)
	}
	return nil
}
