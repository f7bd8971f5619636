package cluster

import (
	"google.golang.org/grpc"

	"github.com/gabionfs/gabion/kv"
)

// Procedure is a transaction that clients call by name; see Options.Procedures.
type Procedure = func(tx kv.Txn, args []byte) (result []byte, err error)

// registerKV adds the service of the stores.
func (n *Node) registerKV(*grpc.Server) {}
