package data

import (
	"context"
	"time"

	"github.com/gabionfs/gabion/fs"
)

// Fold brings the inline rows of ino into packs now, and waits for it.
func (s *Store) Fold(ctx context.Context, ino fs.Ino) error {
	return s.fold(ctx, ino)
}

// RewriteAfter sets how long a sparse pack must have lost nothing before it is rewritten.
func (s *Store) RewriteAfter(d time.Duration) {
	s.rewriter.mu.Lock()
	defer s.rewriter.mu.Unlock()
	s.rewriter.quiet = d
}
