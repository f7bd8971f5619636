package local

import (
	"context"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/maint"
)

// Walks returns the last pass of each kind of maintenance over each namespace.
func (b *Backend) Walks(ctx context.Context) ([]maint.Walk, error) { return b.maint.Walks(ctx) }

// BeginWalk begins a pass over a namespace: maint.WalkScrub verifies its objects, maint.WalkRewrite codes anew
// those that are not as its preset has them. It goes on in the background, also after a restart.
func (b *Backend) BeginWalk(ctx context.Context, namespace, kind string) (maint.Walk, error) {
	if kind != maint.WalkScrub && kind != maint.WalkRewrite {
		return maint.Walk{}, fmt.Errorf("walk %q: it is %q or %q", kind, maint.WalkScrub, maint.WalkRewrite)
	}
	b.mu.Lock()
	ns := b.namespaces[namespace]
	b.mu.Unlock()
	if ns == nil {
		return maint.Walk{}, fmt.Errorf("namespace %q: %w", namespace, objstore.ErrNotFound)
	}
	if err := b.maint.BeginWalk(ctx, ns, kind); err != nil {
		return maint.Walk{}, err
	}
	all, err := b.maint.Walks(ctx)
	for _, w := range all {
		if w.Namespace == namespace && w.Kind == kind {
			return w, err
		}
	}
	return maint.Walk{}, err
}
