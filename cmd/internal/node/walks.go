package node

import (
	"context"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore/maint"
)

// walk translates a walk for people and scripts.
func walk(w maint.Walk) control.Walk {
	out := control.Walk{Namespace: w.Namespace, Kind: w.Kind, Done: w.Done, Total: w.Total, Changed: w.Changed, Errors: w.Errors, Began: time.Unix(w.Began, 0).UTC()}
	if !w.Active() {
		t := time.Unix(w.Ended, 0).UTC()
		out.Ended = &t
	}
	return out
}

// walks lists the walks that are under way, or ended last.
func (n *Node) walks(ctx context.Context) ([]control.Walk, error) {
	out := []control.Walk{}
	all, err := n.objects.Walks(ctx)
	for _, w := range all {
		out = append(out, walk(w))
	}
	return out, err
}

// BeginWalk implements control.WalkBackend.
func (n *Node) BeginWalk(ctx context.Context, q control.WalkRequest) (control.Walk, error) {
	w, err := n.objects.BeginWalk(ctx, q.Namespace, q.Kind)
	if err != nil {
		return control.Walk{}, err
	}
	// It must not be forgotten if nothing runs and this ends.
	return walk(w), n.kv.Sync(ctx)
}
