package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Keyspaces of the directory store. Values are the messages of directory.proto, except in ksMeta.
const (
	ksNode   kv.Keyspace = "node"   // by ID
	ksStore  kv.Keyspace = "store"  // by name
	ksToken  kv.Keyspace = "token"  // by SHA-256 of the secret
	ksClient kv.Keyspace = "client" // by name
	ksMeta   kv.Keyspace = "meta"
)

// Keys of ksMeta.
var (
	keyVersion = []byte("version") // u32 big endian
	keyCA      = []byte("ca")      // identity.CA.Marshal
	keyRaftID  = []byte("raft-id") // u64 big endian: of the last store that was created
)

const directoryVersion = 1

// image is the directory at one index, for reading. It is replaced, never changed.
type image struct {
	// Everything up to index is in it, and nothing after upTo.
	index, upTo uint64

	nodes   map[string]*clusterpb.Node
	stores  map[string]*clusterpb.Store // without the directory itself
	byRaft  map[string]*clusterpb.Store // by raft ID
	revoked map[string]bool             // clients by name
}

var emptyImage = &image{}

// readImage reads the rows that everybody needs at all times.
func readImage(r kv.Reader) (*image, error) {
	im := &image{
		nodes:  map[string]*clusterpb.Node{},
		stores: map[string]*clusterpb.Store{}, byRaft: map[string]*clusterpb.Store{},
		revoked: map[string]bool{},
	}
	if v, err := r.Get(ksMeta, keyVersion); err == nil && (len(v) != 4 || binary.BigEndian.Uint32(v) > directoryVersion) {
		return nil, fmt.Errorf("cluster: the directory has a format that this release does not know (%x)", v)
	}
	err := eachRow(r, ksNode, func() *clusterpb.Node { return &clusterpb.Node{} }, func(k string, n *clusterpb.Node) { im.nodes[k] = n })
	if err != nil {
		return nil, err
	}
	err = eachRow(r, ksStore, func() *clusterpb.Store { return &clusterpb.Store{} }, func(k string, s *clusterpb.Store) {
		im.stores[k], im.byRaft[s.RaftId] = s, s
	})
	if err != nil {
		return nil, err
	}
	err = eachRow(r, ksClient, func() *clusterpb.Client { return &clusterpb.Client{} }, func(k string, c *clusterpb.Client) {
		if c.RevokedUnix != 0 {
			im.revoked[k] = true
		}
	})
	return im, err
}

func eachRow[M proto.Message](r kv.Reader, ks kv.Keyspace, empty func() M, fn func(string, M)) error {
	var bad error
	err := r.Range(ks, kv.Range{}, func(k, v []byte) bool {
		m := empty()
		if err := proto.Unmarshal(v, m); err != nil {
			bad = rowError(ks, k, err)
			return false
		}
		fn(string(k), m)
		return true
	})
	return errors.Join(err, bad)
}

func rowError(ks kv.Keyspace, key []byte, err error) error {
	return &kv.CorruptError{What: fmt.Sprintf("the directory's row %s %q", ks, key), Err: err}
}

// getRow reads one row into m; found is false when there is none.
func getRow(r kv.Reader, ks kv.Keyspace, key []byte, m proto.Message) (found bool, err error) {
	v, err := r.Get(ks, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	if err := proto.Unmarshal(v, m); err != nil {
		return false, rowError(ks, key, err)
	}
	return true, nil
}

func putRow(tx kv.Txn, ks kv.Keyspace, key []byte, m proto.Message) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err
	}
	tx.Put(ks, key, b)
	return nil
}

// getNode and getStore read rows that have to be there.
func getNode(r kv.Reader, id string) (*clusterpb.Node, error) {
	n := &clusterpb.Node{}
	found, err := getRow(r, ksNode, []byte(id), n)
	if err == nil && !found {
		err = fmt.Errorf("%w: %q", ErrNoNode, id)
	}
	return n, err
}

func getStore(r kv.Reader, name string) (*clusterpb.Store, error) {
	s := &clusterpb.Store{}
	found, err := getRow(r, ksStore, []byte(name), s)
	if err == nil && !found {
		err = fmt.Errorf("%w: %q", kv.ErrNoStore, name)
	}
	return s, err
}

func putNode(tx kv.Txn, n *clusterpb.Node) error   { return putRow(tx, ksNode, []byte(n.Id), n) }
func putStore(tx kv.Txn, s *clusterpb.Store) error { return putRow(tx, ksStore, []byte(s.Name), s) }

// nextRaftID returns a name for the group of a new store. None is used twice.
func nextRaftID(tx kv.Txn) (string, error) {
	v, err := tx.Get(ksMeta, keyRaftID)
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return "", err
	}
	var n uint64
	if len(v) == 8 {
		n = binary.BigEndian.Uint64(v)
	}
	n++
	tx.Put(ksMeta, keyRaftID, binary.BigEndian.AppendUint64(nil, n))
	return fmt.Sprintf("s%07d", n), nil
}

// authority reads the certificate authority with its key.
func authority(r kv.Reader) (*identity.CA, error) {
	b, err := r.Get(ksMeta, keyCA)
	if err != nil {
		return nil, fmt.Errorf("cluster: the certificate authority: %w", err)
	}
	return identity.ParseCA(b)
}

// wish is the membership that a store shall have: node IDs, true for voters.
type wish map[string]bool

func (w wish) voters() (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(w)) {
		if w[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// directoryWish is the membership that the directory shall have: every node, up to five of which vote.
// Those that vote already, which current says, go on. A node that is leaving follows to the end: it may lead a
// store, and must learn that it shall give that away.
func (im *image) directoryWish(current wish) wish {
	w := wish{}
	var can []string
	for _, id := range slices.Sorted(maps.Keys(im.nodes)) {
		n := im.nodes[id]
		if n.State != clusterpb.NodeState_NODE_REMOVED {
			w[id] = false
		}
		if n.State == clusterpb.NodeState_NODE_ACTIVE && !n.Learner {
			can = append(can, id)
		}
	}
	slices.SortStableFunc(can, func(a, b string) int {
		switch {
		case current[a] == current[b]:
			return int(im.nodes[a].JoinedUnix - im.nodes[b].JoinedUnix)
		case current[a]:
			return -1
		}
		return 1
	})
	n := min(len(can), maxDirectoryVoters)
	if n == 4 {
		n = 3 // a fourth voter tolerates no more losses than three
	}
	for _, id := range can[:n] {
		w[id] = true
	}
	return w
}

// wish is the membership that a store shall have. directory is the configuration of the directory.
func (im *image) wish(s *clusterpb.Store, directory wish) wish {
	w := wish{}
	add := func(id string, votes bool) {
		n := im.nodes[id]
		if n != nil && n.State == clusterpb.NodeState_NODE_ACTIVE {
			w[id] = votes && !n.Learner
		}
	}
	if s.All {
		for id, votes := range directory {
			if votes || im.nodes[id].GetLearner() {
				add(id, votes)
			}
		}
		return w
	}
	for _, id := range s.Learners {
		add(id, false)
	}
	for _, id := range s.Voters {
		add(id, true)
	}
	return w
}

// refused says why a peer is not admitted: it was removed, or revoked.
func (im *image) refused(peer identity.ID) error {
	if peer.Kind != identity.Node {
		if im.revoked[peer.Name] {
			return fmt.Errorf("%w: client %s was revoked", identity.ErrIdentity, peer.Name)
		}
		return nil
	}
	if n := im.nodes[peer.Name]; n != nil && n.State == clusterpb.NodeState_NODE_REMOVED {
		return fmt.Errorf("%w: node %s was removed from the cluster", identity.ErrIdentity, peer.Name)
	}
	return nil
}

// inDirectory evaluates fn at the directory's leader, which has to be this node.
func (n *Node) inDirectory(ctx context.Context, fn func(kv.Txn) error) error {
	d, err := n.member(Directory)
	if err != nil {
		return err
	}
	return n.redirect(Directory, d.Update(ctx, kv.Durable, fn))
}
