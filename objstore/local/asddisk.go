package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// asdDisk makes an objstore.Disk of an ASD.
type asdDisk struct{ a *asd.ASD }

var _ objstore.CachedDisk = asdDisk{}

func key(k objstore.FragmentKey) []byte {
	return k.Append(make([]byte, 0, objstore.FragmentKeyLen))
}

// priority tells an ASD what is of the background.
func priority(ctx context.Context) context.Context {
	if objstore.IsBackground(ctx) {
		return asd.Background(ctx)
	}
	return ctx
}

// translate turns an ASD's error into the vocabulary of objstore.Disk.
func translate(k objstore.FragmentKey, err error) error {
	var corrupt *asd.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, asd.ErrNotFound):
		return objstore.ErrNoFragment
	case errors.As(err, &corrupt), errors.Is(err, asd.ErrInvalid):
		return &objstore.CorruptError{What: "fragment " + k.String(), Err: err}
	case errors.Is(err, asd.ErrFull):
		return fmt.Errorf("%w: %w", objstore.ErrFull, err)
	case errors.Is(err, asd.ErrClosed):
		return fmt.Errorf("%w: %w", objstore.ErrClosed, err)
	}
	return err
}

func (d asdDisk) PutFragment(ctx context.Context, k objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	var b asd.Batch
	b.PutSummed(key(k), recovery, sums, data)
	_, err := d.a.Apply(priority(ctx), &b, asd.Durable)
	return translate(k, err)
}

func (d asdDisk) ReadFragment(ctx context.Context, k objstore.FragmentKey, off int64, p []byte) error {
	return translate(k, d.a.PartialGet(priority(ctx), key(k), []asd.Section{{Off: off, Buf: p}}))
}

func (d asdDisk) ReadCached(ctx context.Context, k objstore.FragmentKey, off int64, p []byte) bool {
	return d.a.CachedGet(ctx, key(k), asd.Section{Off: off, Buf: p})
}

func (d asdDisk) Prefetch(ctx context.Context, k objstore.FragmentKey, off int64, n int) {
	d.a.Prefetch(ctx, key(k), off, n)
}

func (d asdDisk) ReadRecovery(ctx context.Context, k objstore.FragmentKey) ([]byte, error) {
	h, err := d.a.Head(ctx, key(k))
	return h.Info, translate(k, err)
}

func (d asdDisk) HasFragments(ctx context.Context, keys []objstore.FragmentKey) ([]bool, error) {
	raw := make([][]byte, len(keys))
	for i, k := range keys {
		raw[i] = key(k)
	}
	return d.a.Exists(ctx, raw...)
}

func (d asdDisk) DeleteFragments(ctx context.Context, keys []objstore.FragmentKey) error {
	for len(keys) > 0 {
		n := min(len(keys), asd.MaxBatchOps)
		var b asd.Batch
		for _, k := range keys[:n] {
			b.Delete(key(k))
		}
		// Written is enough: a deletion that is lost in a crash leaves garbage, which is collected.
		if _, err := d.a.Apply(ctx, &b, asd.Written); err != nil {
			return translate(keys[0], err)
		}
		keys = keys[n:]
	}
	return nil
}

func (d asdDisk) Range(ctx context.Context, from, to objstore.FragmentKey, fn func(objstore.FragmentInfo) bool) error {
	at, end := key(from), key(to)
	for {
		list, more, err := d.a.Range(ctx, at, end, asd.RangeOptions{Limit: 1000})
		if err != nil {
			return err
		}
		for _, h := range list {
			k, err := objstore.ParseFragmentKey(h.Key)
			if err != nil {
				return err
			}
			if !fn(objstore.FragmentInfo{Key: k, Size: h.Size}) {
				return nil
			}
		}
		if !more {
			return nil
		}
		at = append(list[len(list)-1].Key, 0)
	}
}

func (d asdDisk) Stat(context.Context) (objstore.DiskStat, error) {
	st := d.a.Stat()
	return objstore.DiskStat{Total: st.Capacity, Used: st.Live, Free: st.Free, Own: st.Own, Fragments: st.Records,
		Full: st.Free < fullBelow, Device: st.Device,
		Garbage: st.Garbage, Compacted: st.BytesCompacted, Reads: opTimes(st.ReadTime), Writes: opTimes(st.ApplyTime)}, nil
}

func opTimes(l asd.Latency) objstore.OpTimes {
	return objstore.OpTimes{Count: l.Count, P50: l.P50, P99: l.P99, Max: l.Max}
}

// fullBelow is how little room makes a disk be left alone, before it refuses.
const fullBelow = 1 << 20

func (d asdDisk) Probe(context.Context) error {
	if err := d.a.Err(); err != nil {
		return err
	}
	// Open files go on working when their folder is removed: look whether it is still there.
	id, err := asd.Inspect(d.a.Dir())
	if err != nil {
		return err
	}
	if id.ASD != d.a.Identity().ASD {
		return &asd.OpenError{Dir: d.a.Dir(), Err: asd.ErrForeign, Hint: fmt.Sprintf("it is ASD %s now", id.ASD)}
	}
	return nil
}

func (d asdDisk) Close() error { return d.a.Close() }

// asdOpener opens ASD folders.
type asdOpener struct{ o asd.Options }

func (p asdOpener) Open(ctx context.Context, dir, want string) (string, objstore.Disk, error) {
	o := p.o
	if want != "" {
		id, err := asd.ParseID(want)
		if err != nil {
			return "", nil, err
		}
		o.ASD = id
	}
	a, err := asd.Open(ctx, dir, o)
	if err != nil {
		return "", nil, err
	}
	return a.Identity().ASD.String(), asdDisk{a}, nil
}

func (p asdOpener) Claim(_ context.Context, dir string) error {
	_, err := asd.Format(dir, p.o.Cluster)
	return err
}
