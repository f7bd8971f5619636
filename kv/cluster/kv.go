package cluster

import (
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// Procedure is a transaction that clients call by name; see Options.Procedures.
type Procedure = kvrpc.Procedure

// newKV returns the server of the stores.
func (n *Node) newKV() *kvrpc.Server {
	return kvrpc.NewServer(kvrpc.ServerOptions{
		Stores: func(name string) (kvrpc.Member, error) {
			m, err := n.Member(name)
			if err != nil {
				return nil, err // a typed nil would not be nil
			}
			return m, nil
		},
		NodeID: n.id, Addr: n.address, Procedures: n.opts.Procedures, Version: n.opts.Version, Logger: n.log,
	})
}
