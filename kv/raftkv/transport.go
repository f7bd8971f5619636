package raftkv

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// loneTransport is the transport of a member without a network: it reaches nobody.
type loneTransport struct {
	addr raft.ServerAddress
	rpcs chan raft.RPC
}

var (
	_ raft.Transport   = (*loneTransport)(nil)
	_ raft.WithPreVote = (*loneTransport)(nil)

	errNoNetwork = errors.New("raftkv: this member has no network")
)

func newLoneTransport(id string) *loneTransport {
	return &loneTransport{addr: raft.ServerAddress("local:" + id), rpcs: make(chan raft.RPC, 1)}
}

// campaign makes the member stand for election now, rather than after its heartbeat timeout: it is the
// message with which a leader hands over.
func (t *loneTransport) campaign() { t.rpcs <- callToStand(t.addr) }

func callToStand(addr raft.ServerAddress) raft.RPC {
	return raft.RPC{
		Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(addr), Addr: []byte(addr)}},
		RespChan: make(chan raft.RPCResponse, 1),
	}
}

func (t *loneTransport) Consumer() <-chan raft.RPC     { return t.rpcs }
func (t *loneTransport) LocalAddr() raft.ServerAddress { return t.addr }

func (t *loneTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, errNoNetwork
}

func (t *loneTransport) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	return errNoNetwork
}

func (t *loneTransport) RequestVote(raft.ServerID, raft.ServerAddress, *raft.RequestVoteRequest, *raft.RequestVoteResponse) error {
	return errNoNetwork
}

func (t *loneTransport) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return errNoNetwork
}

func (t *loneTransport) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return errNoNetwork
}

func (t *loneTransport) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	return errNoNetwork
}

func (t *loneTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (t *loneTransport) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }
func (t *loneTransport) SetHeartbeatHandler(func(raft.RPC))                      {}
