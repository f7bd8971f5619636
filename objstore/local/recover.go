package local

import (
	"context"
	"fmt"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
)

// RecoverOptions for Recover.
type RecoverOptions struct {
	// Names of the namespaces to recover; none: all of which the disks hold something.
	Names []string
	// Rename chooses the names of namespaces that the store does not know any more; nil: those they had.
	Rename func(string) string
	// Done is called after each namespace; nil: it is not.
	Done func(maint.Recovered)
	maint.RecoverOptions
}

// Found returns the namespaces of which the disks hold something, by number. One of which no label is left has
// only a number.
func (b *Backend) Found(ctx context.Context) ([]manager.Label, error) {
	return maint.Namespaces(ctx, b.disks)
}

// Recover makes namespaces exist that the store has lost, and rebuilds their manifests, from what is on the
// disks. See maint.Recover for what comes back. Nobody must write meanwhile.
func (b *Backend) Recover(ctx context.Context, o RecoverOptions) ([]maint.Recovered, error) {
	labels, err := b.Found(ctx)
	if err != nil {
		return nil, err
	}
	// None of these numbers must go to another namespace, whatever is recovered now.
	highest := uint32(0)
	for i, l := range labels {
		if highest = max(highest, l.Number); l.Name == "" {
			labels[i].Name = fmt.Sprintf("recovered-%d", l.Number)
		}
	}
	names, err := b.disks.Adopt(ctx, labels, highest, PresetName, o.Rename)
	if err != nil {
		return nil, err
	}
	if err := b.disks.Deliver(ctx, b.host); err != nil {
		return nil, err
	}
	all, err := b.disks.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if _, err := b.addNamespace(ctx, r); err != nil {
			return nil, err
		}
	}
	for _, n := range o.Names {
		if !slices.ContainsFunc(b.list(), func(ns *client.Namespace) bool { return ns.NSM().Name() == n }) {
			return nil, fmt.Errorf("namespace %q: %w on the disks that are here", n, objstore.ErrNotFound)
		}
	}
	var out []maint.Recovered
	for _, ns := range b.list() {
		name := ns.NSM().Name()
		if names[ns.NSM().Number()] == "" || len(o.Names) > 0 && !slices.Contains(o.Names, name) {
			continue
		}
		r, err := b.maint.Recover(ctx, ns, o.RecoverOptions)
		if err != nil {
			return out, err
		}
		out = append(out, r)
		if o.Done != nil {
			o.Done(r)
		}
	}
	return out, nil
}
