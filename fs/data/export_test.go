package data

import (
	"context"

	"github.com/gabionfs/gabion/fs"
)

// Fold brings the inline rows of ino into packs now, and waits for it.
func (s *Store) Fold(ctx context.Context, ino fs.Ino) error {
	g, err := s.fold(ctx, ino)
	if err != nil || g == nil {
		return err
	}
	return g.wait(ctx)
}
