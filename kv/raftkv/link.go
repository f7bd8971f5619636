package raftkv

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// link stands between raft and the transport of a member with a network. It remembers when each peer was
// heard of, and how fresh what the leader told is; and it can fall silent, which raft has no
// means for: its heartbeats go on while its main loop waits for a disk.
type link struct {
	raft.Transport
	in      chan raft.RPC
	stalled atomic.Bool // silent until the disk answers again
	gone    atomic.Bool // silent for good
	quit    chan struct{}
	done    sync.WaitGroup

	beats sync.RWMutex // held shared while raft answers a heartbeat
	over  bool         // raft has stopped; guarded by beats

	stamps stamper
	holds  *holds

	mu     sync.Mutex
	heard  map[raft.ServerID]time.Time
	fresh  time.Time // when everything that this member has applied was all there was
	oldest told      // the oldest word of the leader that is not applied yet, or zero
	newest told
	reign  reign
	echoes map[raft.ServerID]*echo
}

// told is a word of the leader: that everything that was committed at a time is up to index.
type told struct {
	index uint64
	at    time.Time
}

var (
	_ raft.Transport   = (*link)(nil)
	_ raft.WithPreVote = (*link)(nil)
	_ raft.WithClose   = (*link)(nil)

	errSilent    = errors.New("raftkv: this member keeps silent, because its disk does not answer")
	errNoPreVote = errors.New("raftkv: the transport knows no pre-votes")
)

func newLink(inner raft.Transport, h *holds) *link {
	l := &link{
		Transport: inner, in: make(chan raft.RPC), quit: make(chan struct{}), stamps: newStamper(), holds: h,
		heard: map[raft.ServerID]time.Time{}, echoes: map[raft.ServerID]*echo{},
	}
	l.done.Go(l.forward)
	return l
}

// silent says whether nothing may be sent or answered.
func (l *link) silent() bool { return l.stalled.Load() || l.gone.Load() }

// canPreVote says whether the transport can carry pre-votes.
func (l *link) canPreVote() bool {
	_, ok := l.Transport.(raft.WithPreVote)
	return ok
}

// forward is the goroutine that hands requests of others to raft.
func (l *link) forward() {
	for {
		select {
		case rpc := <-l.Transport.Consumer():
			if l.silent() {
				rpc.Respond(nil, errSilent)
				continue
			}
			l.note(rpc.Command)
			if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				capCommit(a)
			}
			select {
			case l.in <- rpc:
			case <-l.quit:
				rpc.Respond(nil, raft.ErrRaftShutdown)
				return
			}
		case <-l.quit:
			return
		}
	}
}

// capCommit keeps the leader's commit index within what the request shows to agree with the leader: the
// entries in it and the one before them. Raft itself takes any index up to the end of its log. The leader
// may have committed more between choosing the entries and reading the index, and this member's log may go
// on with entries of a lost leadership: those would be applied. A heartbeat, which needs nothing, is not
// written to: a transport within one process passes the sender's own, who sends it again when it takes
// this one for lost.
func capCommit(a *raft.AppendEntriesRequest) {
	if most := a.PrevLogEntry + uint64(len(a.Entries)); a.LeaderCommitIndex > most {
		a.LeaderCommitIndex = most
	}
}

// stop ends forward, and waits for the heartbeats that are being answered: on the transport's goroutines, which raft does
// not wait for when it stops, and a new term that one brings is written to the log. Raft has stopped.
func (l *link) stop() {
	l.beats.Lock()
	l.over = true
	l.beats.Unlock()
	close(l.quit)
	l.done.Wait()
}

// note remembers who sent a request, and what a leader says in it.
func (l *link) note(command any) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := command.(raft.WithRPCHeader); ok {
		if id := raft.ServerID(c.GetRPCHeader().ID); id != "" {
			l.heard[id] = now
		}
	}
	// A heartbeat has no index and says nothing about how far the leader is.
	a, ok := command.(*raft.AppendEntriesRequest)
	if !ok || a.LeaderCommitIndex == 0 {
		return
	}
	if at, ok := l.stamps.time(carried(a)); ok && at.After(l.newest.at) {
		l.newest = told{a.LeaderCommitIndex, at}
		if l.oldest.index == 0 {
			l.oldest = l.newest
		}
	}
}

// freshAt returns when the state at index applied was the latest, as far as the leader told; the zero
// time when that is not known.
func (l *link) freshAt(applied uint64) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest.index > 0 && applied >= l.newest.index {
		l.fresh, l.oldest = l.newest.at, told{}
	} else if l.oldest.index > 0 && applied >= l.oldest.index {
		l.fresh, l.oldest = l.oldest.at, l.newest
	}
	return l.fresh
}

// heardSince says whether a peer was heard of after t.
func (l *link) heardSince(id raft.ServerID, t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard[id].After(t)
}

// ask sends a request to a peer with send, unless the link is silent.
func (l *link) ask(id raft.ServerID, send func() error) error {
	if l.silent() {
		return errSilent
	}
	err := send()
	if err == nil {
		l.mu.Lock()
		l.heard[id] = time.Now()
		l.mu.Unlock()
	}
	return err
}

func (l *link) Consumer() <-chan raft.RPC { return l.in }

// campaign makes a member that is alone in its group stand for election now.
func (l *link) campaign() {
	select {
	case l.in <- callToStand(l.LocalAddr()):
	case <-l.quit:
	}
}

func (l *link) SetHeartbeatHandler(handle func(raft.RPC)) {
	l.Transport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if l.silent() {
			rpc.Respond(nil, errSilent)
			return
		}
		l.note(rpc.Command)
		answer := make(chan raft.RPCResponse, 1)
		asked := rpc
		asked.RespChan = answer
		l.beats.RLock()
		if l.over {
			rpc.Respond(nil, raft.ErrRaftShutdown)
		} else {
			handle(asked) // answers at once, or never when raft has stopped
		}
		l.beats.RUnlock()
		select {
		case r := <-answer:
			if a, ok := r.Response.(*raft.AppendEntriesResponse); ok && a.Success {
				a.Addr = l.stamps.now()
			}
			rpc.RespChan <- r
		default:
		}
	})
}

func (l *link) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if l.silent() {
		return nil, errSilent
	}
	p, err := l.Transport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return newPipeline(p, l, id), nil
}

func (l *link) AppendEntries(id raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, a *raft.AppendEntriesResponse) error {
	if isHeartbeat(q) {
		began := time.Now()
		err := l.ask(id, func() error { return l.Transport.AppendEntries(id, to, q, a) })
		if err == nil {
			l.beat(id, began, q, a)
		}
		return err
	}
	l.carry(id, q)
	l.holds.advance(id, q.PrevLogEntry)
	defer l.arm(id, q.Term)
	return l.ask(id, func() error { return l.Transport.AppendEntries(id, to, q, a) })
}

func (l *link) RequestVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	return l.ask(id, func() error { return l.Transport.RequestVote(id, to, q, a) })
}

func (l *link) RequestPreVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, a *raft.RequestPreVoteResponse) error {
	return l.ask(id, func() error {
		if t, ok := l.Transport.(raft.WithPreVote); ok {
			return t.RequestPreVote(id, to, q, a)
		}
		return errNoPreVote
	})
}

func (l *link) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, q *raft.InstallSnapshotRequest, a *raft.InstallSnapshotResponse, data io.Reader) error {
	if f, ok := data.(*sentSnapshot); ok {
		l.holds.to(f.hold, id)
	}
	return l.ask(id, func() error { return l.Transport.InstallSnapshot(id, to, q, a, data) })
}

func (l *link) TimeoutNow(id raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, a *raft.TimeoutNowResponse) error {
	return l.ask(id, func() error { return l.Transport.TimeoutNow(id, to, q, a) })
}

// Close implements raft.WithClose.
func (l *link) Close() error {
	if c, ok := l.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
