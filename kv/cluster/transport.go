package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv/cluster/mux"
)

// A connection of protocol gabion-raft/1 belongs to one store. Who dials says which:
//
//	0   magic "gbrs"
//	4   version u8 = 1
//	5   length of the store's raft ID u8, 1 to 64
//	6   raft ID
//
// and is answered with one byte, one of the codes below. Then the messages of raft.NetworkTransport follow.
const (
	streamMagic   = "gbrs"
	streamVersion = 1
	maxRaftID     = 64

	streamAccepted  = 0
	streamNoMember  = 1 // no member of that store here
	streamNotMember = 2 // the peer is not a member
	streamBusy      = 3 // too many connections from that peer
)

const (
	// streamTimeout bounds the exchange above.
	streamTimeout = 3 * time.Second
	// raftTimeout bounds a message and its answer. Behind it is a sync of the peer's log.
	raftTimeout = 5 * time.Second
	// maxStreams is how many connections one peer may have open to one member.
	maxStreams = 32
)

func encodeStreamHeader(raftID string) []byte {
	b := append([]byte(streamMagic), streamVersion, byte(len(raftID)))
	return append(b, raftID...)
}

var errStreamHeader = errors.New("cluster: a connection for raft that does not begin like one")

func readStreamHeader(r io.Reader) (raftID string, err error) {
	var head [len(streamMagic) + 2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", fmt.Errorf("%w: %w", errStreamHeader, err)
	}
	size := int(head[5])
	if string(head[:4]) != streamMagic || head[4] != streamVersion || size == 0 || size > maxRaftID {
		return "", fmt.Errorf("%w: %x", errStreamHeader, head)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("%w: %w", errStreamHeader, err)
	}
	return string(b), nil
}

// acceptStream serves a connection of protocol gabion-raft/1.
func (n *Node) acceptStream(c *mux.Conn) {
	code, m, err := n.openStream(c)
	if err == nil {
		_, err = c.Write([]byte{code})
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil || code != streamAccepted {
		n.log.Debug("refused a raft connection", "from", c.Peer, "code", code, "cause", err)
		_ = c.Close()
		return
	}
	m.streams().deliver(c)
}

func (n *Node) openStream(c *mux.Conn) (code byte, m *member, err error) {
	if err := c.SetDeadline(time.Now().Add(streamTimeout)); err != nil {
		return 0, nil, err
	}
	raftID, err := readStreamHeader(c)
	if err != nil {
		return 0, nil, err
	}
	n.mu.Lock()
	m = n.members[raftID]
	n.mu.Unlock()
	if m != nil {
		if _, err := m.running(); err != nil {
			m = nil // nobody would take the connection
		}
	}
	switch {
	case m == nil:
		return streamNoMember, nil, nil
	case !n.mayReplicate(m, c.Peer.Name):
		return streamNotMember, nil, nil
	case m.streams().count(c.Peer.Name) >= maxStreams:
		return streamBusy, nil, nil
	}
	return streamAccepted, m, nil
}

// mayReplicate says whether a node, which was not removed, may send raft's messages to a member.
func (n *Node) mayReplicate(m *member, peer string) bool {
	if m.raftID == Directory {
		return true // every node has a copy; a configuration that lags must not keep the leader out
	}
	im := n.image.Load()
	if s := im.byRaft[m.raftID]; s != nil {
		if s.All && im.nodes[peer] != nil {
			return true
		}
		for _, ids := range [][]string{s.Voters, s.Learners, s.Initial} {
			for _, id := range ids {
				if id == peer {
					return true
				}
			}
		}
	}
	if store, err := m.running(); err == nil {
		for _, x := range store.Members() {
			if x.ID == peer {
				return true
			}
		}
	}
	return false
}

// streams is the raft.StreamLayer of one member. Addresses are node IDs.
type streams struct {
	n      *Node
	raftID string
	conns  chan net.Conn
	stop   chan struct{}

	mu     sync.Mutex
	open   map[*stream]struct{}
	closed bool
}

// stream is a connection, in either direction.
type stream struct {
	*mux.Conn
	s *streams
}

func (c *stream) Close() error {
	c.s.mu.Lock()
	delete(c.s.open, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

var _ raft.StreamLayer = (*streams)(nil)

func newStreams(n *Node, raftID string) *streams {
	return &streams{n: n, raftID: raftID, conns: make(chan net.Conn), stop: make(chan struct{}), open: map[*stream]struct{}{}}
}

// keep notes a connection, so that it ends with the member.
func (s *streams) keep(c *mux.Conn) (*stream, error) {
	k := &stream{c, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	s.open[k] = struct{}{}
	return k, nil
}

// count returns how many connections a peer has opened.
func (s *streams) count(peer string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.Peer.Name == peer {
			n++
		}
	}
	return n
}

func (s *streams) deliver(c *mux.Conn) {
	k, err := s.keep(c)
	if err != nil {
		return
	}
	select {
	case s.conns <- k:
	case <-c.Done():
		_ = k.Close()
	case <-s.stop:
		_ = k.Close()
	}
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.stop:
		return nil, net.ErrClosed
	}
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(address raft.ServerAddress, _ time.Duration) (net.Conn, error) {
	node := string(address)
	c, err := s.n.dialStream(node, s.raftID)
	if err != nil {
		return nil, fmt.Errorf("cluster: connect to the member of %s on node %s: %w", s.raftID, node, err)
	}
	k, err := s.keep(c)
	if err != nil {
		return nil, err // a typed nil would not be nil
	}
	return k, nil
}

func (n *Node) dialStream(node, raftID string) (*mux.Conn, error) {
	address, err := n.resolve(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(n.ctx, mux.DialTimeout)
	defer cancel()
	c, err := mux.Dial(ctx, address, n.creds.ClientConfig(node, protoRaft))
	if err != nil {
		return nil, err
	}
	var answer [1]byte
	err = c.SetDeadline(time.Now().Add(streamTimeout))
	if err == nil {
		_, err = c.Write(encodeStreamHeader(raftID))
	}
	if err == nil {
		_, err = io.ReadFull(c, answer[:])
	}
	if err == nil && answer[0] != streamAccepted {
		err = fmt.Errorf("refused with code %d", answer[0])
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// cut closes every connection; further ones are refused.
func (s *streams) cut() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	var all []*stream
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// Close implements net.Listener. Raft's transport leaves connections open that others made: they end here.
func (s *streams) Close() error {
	s.cut()
	return nil
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return nodeAddr(s.n.id) }

// nodeAddr is the address of a node among raft's: its ID.
type nodeAddr string

func (nodeAddr) Network() string  { return "gabion" }
func (a nodeAddr) String() string { return string(a) }
