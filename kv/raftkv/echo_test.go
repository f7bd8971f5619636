package raftkv

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestEcho: a member's time comes back to it only when a quorum has followed the leader since, with a commit
// index that was read after that, and counts from when the member sent it.
func TestEcho(t *testing.T) {
	lead, member, third := newLink(newLoneTransport("a"), new(holds)), newLink(newLoneTransport("b"), new(holds)), newLink(newLoneTransport("c"), new(holds))
	defer lead.stop()
	defer member.stop()
	defer third.stop()
	voters := []Member{{ID: "a", Voter: true}, {ID: "b", Voter: true}, {ID: "c", Voter: true}, {ID: "d", Voter: true}, {ID: "l"}}
	lead.reigns(5, "a", func() []Member { return voters })

	beat := func(id raft.ServerID, from *link, term uint64, success bool) {
		began := time.Now()
		a := &raft.AppendEntriesResponse{Term: term, Success: success}
		a.Addr = from.stamps.now()
		lead.beat(id, began, &raft.AppendEntriesRequest{Term: 5}, a)
	}
	send := func(term, commit uint64) *raft.AppendEntriesRequest {
		q := &raft.AppendEntriesRequest{Term: term, LeaderCommitIndex: commit}
		lead.carry("b", q)
		lead.arm("b", term)
		return q
	}
	silent := func(why string) {
		t.Helper()
		send(5, 7) // arms what is ready
		if q := send(5, 7); carried(q) != nil {
			t.Errorf("a time is sent back although %s", why)
		}
	}
	begin := time.Now()
	beat("b", member, 5, true)
	sent := time.Now()
	silent("nobody followed since")
	beat("b", member, 5, true)
	silent("two of four followed")
	beat("c", third, 6, true)
	beat("c", third, 5, false)
	silent("the third is in another term, or refused")
	if !lead.confirmedAt(5).IsZero() {
		t.Error("the leader takes itself for confirmed")
	}
	beat("c", third, 5, true)
	if at := lead.confirmedAt(5); at.Before(begin) || !lead.confirmedAt(4).IsZero() {
		t.Errorf("confirmed at %v, begun at %v", at, begin)
	}
	if q := send(5, 7); carried(q) != nil {
		t.Error("a time is sent back with a commit index that was read before it was confirmed")
	}
	if q := send(4, 7); carried(q) != nil {
		t.Error("a time is sent back in another term")
	}
	q := send(5, 7)
	member.note(q)
	if at := member.freshAt(6); !at.IsZero() {
		t.Errorf("fresh at %v with entries missing", at)
	}
	if at := member.freshAt(7); at.Before(begin) || at.After(sent) {
		t.Errorf("fresh at %v, want the first time, between %v and %v", at, begin, sent)
	}
	third.note(q)
	if at := third.freshAt(7); !at.IsZero() {
		t.Error("a member believes in another one's time")
	}
}
