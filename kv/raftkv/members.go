package raftkv

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
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

// AddVoter adds a member, which was opened with Options.Join, or gives an existing one a new address.
// It returns when the new configuration is committed. Leader only.
func (s *Store) AddVoter(ctx context.Context, id, address string) error {
	return s.reconfigure(ctx, func() raft.Future {
		return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, 0)
	})
}

// RemoveMember takes a member out of the group. Leader only.
func (s *Store) RemoveMember(ctx context.Context, id string) error {
	return s.reconfigure(ctx, func() raft.Future { return s.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

// TransferLeadership makes another member lead. Updates are refused while it is under way.
func (s *Store) TransferLeadership(ctx context.Context) error {
	return s.reconfigure(ctx, func() raft.Future { return s.raft.LeadershipTransfer() })
}

// reconfigure waits for a future of raft. Giving up waiting does not take the change back.
func (s *Store) reconfigure(ctx context.Context, change func() raft.Future) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	done := make(chan error, 1)
	go func() { done <- change().Error() }()
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) {
			return s.notLeader()
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
