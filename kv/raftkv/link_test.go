package raftkv

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// TestPipelineOfRefusals: a sender is not held up when nobody takes the answers, which is what raft does
// after the first refusal.
func TestPipelineOfRefusals(t *testing.T) {
	transport := func() *raft.NetworkTransport {
		n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, time.Minute, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	peer := transport()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case rpc := <-peer.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{}, errors.New("refused"))
			case <-stop:
				return
			}
		}
	}()
	l := newLink(transport(), new(holds))
	defer l.stop()
	p, err := l.AppendEntriesPipeline("peer", peer.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sent := make(chan error, 1)
	go func() {
		var err error
		for range maxAnswers / 2 {
			if _, err = p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, new(raft.AppendEntriesResponse)); err != nil {
				break
			}
		}
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the sender is held up")
	}
	if a := <-p.Consumer(); a.Error() == nil {
		t.Error("a refusal has become a success")
	}
}

// TestCommitOfLostEntries: a new leader's word that its entries are committed is not taken for one about
// the entries that an old leader left here in their places.
func TestCommitOfLostEntries(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	transport := func() *raft.NetworkTransport {
		n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, time.Minute, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	own, leaders := transport(), transport()
	defer leaders.Close()
	s, err := Open(ctx, Options{
		Dir: t.TempDir(), ID: "m0", Transport: own, HeartbeatTimeout: time.Hour,
		Bootstrap: []raft.Server{{ID: "m0", Address: own.LocalAddr()}, {ID: "m1", Address: "m1"}, {ID: "m2", Address: "m2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// tell sends entries that follow on the configuration, which is entry 1.
	tell := func(leader string, term, commit uint64, keys ...string) {
		t.Helper()
		q := raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: []byte(leader)},
			Term:      term, PrevLogEntry: 1, PrevLogTerm: 1, LeaderCommitIndex: commit,
		}
		for i, k := range keys {
			data, _, _ := appendOp(appendHeader(nil, term, uint64(i+1)), "a", []byte(k), nil, false)
			q.Entries = append(q.Entries, &raft.Log{Index: uint64(i + 2), Term: term, Type: raft.LogCommand, Data: data})
		}
		var a raft.AppendEntriesResponse
		if err := leaders.AppendEntries("m0", own.LocalAddr(), &q, &a); err != nil || !a.Success {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	tell("m1", 2, 1, "lost", "lost too")
	tell("m2", 3, 3)
	tell("m2", 3, 3, "kept", "kept too")
	if err := s.WaitApplied(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if err := s.View(ctx, kv.Stale, func(r kv.Reader) error {
		got, err := list(r, "a", kv.Range{})
		if want := "kept/4/kept= kept too/8/kept too= "; got != want {
			t.Errorf("the member shows %s, want %s", got, want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// beating is a transport whose heartbeats the test makes.
type beating struct {
	*loneTransport
	handle func(raft.RPC)
}

func (b *beating) SetHeartbeatHandler(handle func(raft.RPC)) { b.handle = handle }

// TestHeartbeatAtTheEnd: raft answers heartbeats on goroutines that it does not wait for, and may write to the log then. So the
// link does, and none follows.
func TestHeartbeatAtTheEnd(t *testing.T) {
	b := &beating{loneTransport: newLoneTransport("a")}
	l := newLink(b, new(holds))
	begun, finish := make(chan struct{}), make(chan struct{})
	handled := 0
	l.SetHeartbeatHandler(func(rpc raft.RPC) {
		handled++
		close(begun)
		<-finish
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	beat := func() error {
		answer := make(chan raft.RPCResponse, 1)
		b.handle(raft.RPC{Command: &raft.AppendEntriesRequest{}, RespChan: answer})
		return (<-answer).Error
	}
	first := make(chan error, 1)
	go func() { first <- beat() }()
	<-begun
	stopped := make(chan struct{})
	go func() { l.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("the link has stopped while a heartbeat is being answered")
	case <-time.After(10 * time.Millisecond): // it cannot pass by being slow
	}
	close(finish)
	<-stopped
	if err := <-first; err != nil {
		t.Errorf("the one under way: %v", err)
	}
	if err := beat(); !errors.Is(err, raft.ErrRaftShutdown) || handled != 1 {
		t.Errorf("one after the end: %v; raft got %d", err, handled)
	}
}
