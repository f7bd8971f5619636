package objbench

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
	"github.com/gabionfs/gabion/objstore/stacked"
)

// Stack is a global backend over as many local ones as a chunk has fragments.
type Stack struct {
	Name     string
	Global   objstore.Policy
	Fragment int // most bytes in a fragment of the global backend
	Local    objstore.Policy
	ALBA     float64 // bytes of metadata that ALBA is said to take for 64 MiB
}

// localFragment is the most bytes in a fragment of a local backend.
const localFragment = 4 << 20

// Stacks are the two configurations that ALBA's figures of 10 KB, and 5 KB when tuned, are taken to be of
// (contrib/adr/0159): the second has one chunk for an object of 64 MiB where the first has two.
func Stacks(local objstore.Policy) []Stack {
	global := objstore.Policy{K: 8, M: 2, C: 10, X: 1}
	return []Stack{
		{Name: "stacked", Global: global, Fragment: 4 << 20, Local: local, ALBA: 10_000},
		{Name: "stacked, tuned", Global: global, Fragment: 8 << 20, Local: local, ALBA: 5_000},
	}
}

// StackedMetadata is Metadata of a stack: all rows of the global backend and of all local ones. The disks at the bottom keep
// nothing, since no metadata is on them. open opens an empty store; it is closed at the end.
func StackedMetadata(ctx context.Context, s Stack, size int, contents []string, open func(name string) (kv.Store, error)) (rows []Row, err error) {
	r := &stackRig{open: open}
	defer func() { err = errors.Join(err, r.close()) }()
	var disks []objstore.Disk
	for i := range s.Global.K + s.Global.M {
		name := fmt.Sprint("local", i)
		sinks := make([]objstore.Disk, s.Local.K+s.Local.M)
		for j := range sinks {
			sinks[j] = sink{}
		}
		preset := objstore.Preset{Name: "p", Policies: []objstore.Policy{s.Local}, FragmentSize: localFragment}
		ns, err := r.backend(ctx, name, sinks, preset)
		if err != nil {
			return nil, err
		}
		low := stacked.Lower{Namespace: ns, Backend: name, Room: func(context.Context) (objstore.Capacity, error) {
			return objstore.Capacity{Total: sinkSize, Free: sinkSize}, nil
		}}
		owner := asd.ID{1}
		if _, err := stacked.Claim(ctx, low, owner); err != nil {
			return nil, err
		}
		d, err := stacked.Open(ctx, low, owner)
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	ns, err := r.backend(ctx, "global", disks, objstore.Preset{Name: "p", Policies: []objstore.Policy{s.Global}, FragmentSize: s.Fragment, Compression: objstore.CompressS2})
	if err != nil {
		return nil, err
	}
	return Metadata(ctx, ns, size, contents, r.stores...)
}

// stackRig is what is open.
type stackRig struct {
	open    func(name string) (kv.Store, error)
	stores  []kv.Store
	closers []func()
}

// backend makes a backend over disks, each on a node of its own.
func (r *stackRig) backend(ctx context.Context, name string, disks []objstore.Disk, p objstore.Preset) (*client.Namespace, error) {
	store, err := r.open(name)
	if err != nil {
		return nil, err
	}
	r.stores = append(r.stores, store)
	m, err := manager.Open(ctx, store, nil)
	if err != nil {
		return nil, err
	}
	for i, d := range disks {
		if _, err := m.Attach(ctx, fmt.Sprint(name, "-", i), fmt.Sprint(name, "/", i), fmt.Sprint("node", i), d); err != nil {
			return nil, err
		}
	}
	c := client.New(client.Options{Disks: m})
	r.closers = append(r.closers, func() {
		c.Close()
		for _, d := range m.Disks() {
			d.Shutdown()
		}
	})
	return c.Namespace(nsm.Open(store, nsm.Options{Name: "bench", Number: 1, Policies: p.Policies, Disks: m}), p), nil
}

// close closes the global backend first, which is the last.
func (r *stackRig) close() error {
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
	var errs []error
	for _, s := range r.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// sink is a disk that takes everything and keeps nothing.
type sink struct{}

const sinkSize = 1 << 40

func (sink) PutFragment(context.Context, objstore.FragmentKey, []byte, []byte, []uint32) error {
	return nil
}
func (sink) ReadFragment(context.Context, objstore.FragmentKey, int64, []byte) error {
	return objstore.ErrNoFragment
}
func (sink) ReadRecovery(context.Context, objstore.FragmentKey) ([]byte, error) {
	return nil, objstore.ErrNoFragment
}
func (sink) HasFragments(_ context.Context, keys []objstore.FragmentKey) ([]bool, error) {
	return make([]bool, len(keys)), nil
}
func (sink) DeleteFragments(context.Context, []objstore.FragmentKey) error { return nil }
func (sink) Range(context.Context, objstore.FragmentKey, objstore.FragmentKey, func(objstore.FragmentInfo) bool) error {
	return nil
}
func (sink) Stat(context.Context) (objstore.DiskStat, error) {
	return objstore.DiskStat{Total: sinkSize, Free: sinkSize}, nil
}
func (sink) Probe(context.Context) error { return nil }
func (sink) Close() error                { return nil }
