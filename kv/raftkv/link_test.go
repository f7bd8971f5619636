package raftkv

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
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
	l := newLink(transport())
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
