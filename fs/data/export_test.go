package data

import (
	"context"

	"github.com/gabionfs/gabion/fs"
)

// Fold brings the inline rows of ino into packs now, and waits for it.
func (s *Store) Fold(ctx context.Context, ino fs.Ino) error {
	return s.fold(ctx, ino)
}
