package cluster

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"crypto/rand"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// DefaultID makes the ID of a node from the machine's name and four random digits.
func DefaultID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, host)
	host = strings.Trim(host[:min(len(host), 40)], "-")
	if host == "" {
		host = "node"
	}
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return host + "-" + hex.EncodeToString(b[:])
}

// Init makes a new cluster whose first node lives in o.Dir: the certificate authority, the node's
// certificate, and the directory with this node as its only voter. It may be repeated when it was cut off.
func Init(ctx context.Context, o InitOptions) error {
	if o.ID == "" {
		o.ID = DefaultID()
	}
	if err := errors.Join(identity.CheckName(o.ID), checkAdvertise(o.Advertise)); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := prepareDir(o.Dir); err != nil {
		return err
	}
	ca, err := identity.NewCA(identity.NewClusterID())
	if err != nil {
		return err
	}
	creds, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: identity.Node, Name: o.ID})
	if err != nil {
		return err
	}
	if err := initDirectory(ctx, o, ca, creds); err != nil {
		return fmt.Errorf("cluster: the directory: %w", err)
	}
	// The node exists from here on.
	bundle := &identity.Bundle{Credentials: creds}
	if o.Advertise != "" {
		bundle.Addrs = []string{o.Advertise}
	}
	return identity.WriteBundle(filepath.Join(o.Dir, nodeFile), bundle)
}

func checkAdvertise(a string) error {
	if a == "" {
		return nil
	}
	return identity.CheckAddr(a)
}

func initDirectory(ctx context.Context, o InitOptions, ca *identity.CA, creds *identity.Credentials) (err error) {
	dir := filepath.Join(o.Dir, storesDir, Directory)
	if err := os.RemoveAll(dir); err != nil { // of an attempt that was cut off
		return err
	}
	if err := writeMark(o.Dir, Directory, mark{created: true, store: Directory}); err != nil {
		return err
	}
	key, err := ca.Marshal()
	if err != nil {
		return err
	}
	// The address of a member is its ID; until there are others, no network is needed.
	store, err := raftkv.Open(ctx, raftkv.Options{
		Dir: dir, ID: o.ID, Logger: o.Logger, FlushBytes: 4 << 20, SegmentBytes: 4 << 20,
		Bootstrap: []raft.Server{{ID: raft.ServerID(o.ID), Address: raft.ServerAddress(o.ID)}},
	})
	if err != nil {
		return err
	}
	err = store.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(ksMeta, keyVersion, binary.BigEndian.AppendUint32(nil, directoryVersion))
		tx.Put(ksMeta, keyCA, key)
		return putNode(tx, newNode(creds, o.Advertise, false))
	})
	return errors.Join(err, store.Close())
}

// newNode is the row of a node.
func newNode(creds *identity.Credentials, address string, learner bool) *clusterpb.Node {
	leaf := creds.Cert.Leaf
	fp := identity.KeyFingerprint(leaf)
	return &clusterpb.Node{
		Id: creds.ID.Name, Address: address, State: clusterpb.NodeState_NODE_ACTIVE, Learner: learner,
		KeySha256: fp[:], Serial: leaf.SerialNumber.Text(16), JoinedUnix: time.Now().Unix(),
	}
}
