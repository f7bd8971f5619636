package raftkv

import "github.com/hashicorp/raft"

// Configuration returns the group's latest configuration, as far as this member knows it, and whether it
// is known to be committed: one that is not may still be taken back.
func (s *Store) Configuration() (members []Member, committed bool) {
	f := s.raft.GetConfiguration()
	for _, m := range f.Configuration().Servers {
		members = append(members, Member{string(m.ID), string(m.Address), m.Suffrage == raft.Voter})
	}
	return members, f.Index() <= s.raft.CommitIndex()
}
