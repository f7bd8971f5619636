package raftkv

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
)

// Member is one server of the group.
type Member struct {
	ID, Address string
	Voter       bool
}

// Members returns the group's latest configuration, as far as this member knows it.
func (s *Store) Members() []Member {
	var out []Member
	for _, m := range s.raft.GetConfiguration().Configuration().Servers {
		out = append(out, Member{string(m.ID), string(m.Address), m.Suffrage == raft.Voter})
	}
	return out
}

// explain returns what a call ran into, as a *kv.NoQuorumError when so many voters do not answer that the
// rest is no quorum.
func (s *Store) explain(cause error) error {
	if s.link == nil {
		return cause
	}
	voters, missing := 0, []string(nil)
	since := time.Now().Add(-s.silence())
	for _, m := range s.Members() {
		if !m.Voter {
			continue
		}
		if voters++; m.ID != s.opts.ID && !s.link.heardSince(raft.ServerID(m.ID), since) {
			missing = append(missing, m.ID)
		}
	}
	if len(missing) <= (voters-1)/2 || since.Before(s.opened) {
		return cause
	}
	return &kv.NoQuorumError{Missing: missing, Err: cause}
}

// silence is how long a peer may not be heard of before it counts as missing. A leader sends heartbeats
// all the time, a member without a leader asks for votes.
func (s *Store) silence() time.Duration {
	if s.raft.State() == raft.Leader {
		return s.opts.HeartbeatTimeout / 2
	}
	return 4 * s.opts.HeartbeatTimeout
}

// AddVoter adds a member, which was opened with Options.Join, or gives an existing one a new address.
// It returns when the new configuration is committed. Leader only.
func (s *Store) AddVoter(ctx context.Context, id, address string) error {
	return s.reconfigure(ctx, func() raft.Future {
		return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0)
	})
}

// AddLearner adds a member that receives everything and never votes, or gives an existing one a new
// address; a voter stays one. Leader only.
func (s *Store) AddLearner(ctx context.Context, id, address string) error {
	return s.reconfigure(ctx, func() raft.Future {
		return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0)
	})
}

// Demote makes a learner of a voter. Leader only.
func (s *Store) Demote(ctx context.Context, id string) error {
	return s.reconfigure(ctx, func() raft.Future { return s.raft.DemoteVoter(raft.ServerID(id), 0, 0) })
}

// RemoveMember takes a member out of the group. Leader only.
func (s *Store) RemoveMember(ctx context.Context, id string) error {
	return s.reconfigure(ctx, func() raft.Future { return s.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

// TransferLeadership makes another member lead. Updates are refused while it is under way.
func (s *Store) TransferLeadership(ctx context.Context) error {
	return s.reconfigure(ctx, func() raft.Future { return s.raft.LeadershipTransfer() })
}

// TransferLeadershipTo makes that voter lead. Updates are refused while it is under way. Leader only.
func (s *Store) TransferLeadershipTo(ctx context.Context, id, address string) error {
	return s.reconfigure(ctx, func() raft.Future {
		return s.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(address))
	})
}

// reconfigure waits for a future of raft. Giving up waiting does not take the change back.
func (s *Store) reconfigure(ctx context.Context, change func() raft.Future) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	done := make(chan error, 1)
	go func() { done <- s.await(change()) }()
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrRaftShutdown) {
			return s.proposalError(err)
		}
		return err
	case <-ctx.Done():
		return s.explain(ctx.Err())
	}
}
