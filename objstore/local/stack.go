package local

import (
	"context"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/stacked"
)

// Lower returns a namespace, made when there is none, for another backend to use as a disk: see Options.Lower there.
// name is what that backend calls this one. Its objects are a little longer than the fragments of the other's preset: fragments
// here should have room for that, or each becomes two chunks.
func (b *Backend) Lower(ctx context.Context, name, namespace string) (stacked.Lower, error) {
	if _, err := b.Namespace(ctx, namespace); err != nil {
		return stacked.Lower{}, err
	}
	b.mu.Lock()
	ns := b.namespaces[namespace]
	b.mu.Unlock()
	return stacked.Lower{Namespace: ns, Backend: name, Room: func(ctx context.Context) (objstore.Capacity, error) {
		for _, d := range b.disks.Disks() {
			if d.Readable() {
				return b.Capacity(ctx)
			}
		}
		return objstore.Capacity{}, &asd.OpenError{Dir: name, Err: asd.ErrMissing, Hint: "not one of the backend's disks is up"}
	}}, nil
}

// stack opens namespaces of other backends.
func (b *Backend) stack() stacked.Opener {
	return stacked.Opener{Owner: b.o.Cluster, Find: b.o.Lower}
}
