package stacked

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// joinBelow is up to which size data and tail are copied together rather than streamed.
const joinBelow = 1 << 20

// PutFragment implements objstore.Disk.
func (d *Disk) PutFragment(ctx context.Context, k objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	if got := crc.Blocks(make([]uint32, 0, len(sums)), data); !slices.Equal(got, sums) {
		return &objstore.CorruptError{What: "fragment " + k.String() + " to be put", Err: errors.New("its checksums are others")}
	}
	mu := &d.locks[(k.Object*67+uint64(k.Chunk)*13+uint64(k.Fragment))%uint64(len(d.locks))]
	mu.Lock()
	err = d.put(ctx, k, recovery, data, sums)
	mu.Unlock()
	if err == nil {
		err = d.low.Namespace.Sync(ctx)
	}
	return err
}

// put makes an object the only one of its fragment. It gets a name that none of those before had: who still knows
// one of them must not read the new object as if it were that.
func (d *Disk) put(ctx context.Context, k objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	defer d.known.drop(k)
	for attempt := 0; ; attempt++ {
		old, err := d.objects(ctx, k)
		if err != nil {
			return err
		}
		least := 0
		for _, o := range old {
			least = max(least, o.tail+1)
		}
		tail := encodeTail(k, recovery, sums, least)
		if len(tail) > maxTail {
			return fmt.Errorf("objstore: fragment %v: %d bytes beside the data, at most %d are allowed", k, len(tail), maxTail)
		}
		name := nameOf(k, len(tail))
		switch {
		case len(old) > 0:
			err = d.exchange(ctx, old, name, data, tail)
		case len(data)+len(tail) <= joinBelow:
			_, err = d.low.Namespace.Put(ctx, name, slices.Concat(data, tail))
		default:
			_, err = d.low.Namespace.PutFrom(ctx, name, content(data, tail), int64(len(data)+len(tail)))
		}
		// Once more if another process was faster, or it took so long that its epoch is over.
		if again := errors.Is(err, objstore.ErrExists) || errors.Is(err, nsm.ErrExpired); !again || attempt == 2 {
			return err
		}
	}
}

func content(data, tail []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(data), bytes.NewReader(tail))
}

// exchange puts an object in the place of others, in one transaction.
func (d *Disk) exchange(ctx context.Context, old []object, name string, data, tail []byte) error {
	steps := make([]client.Step, 0, len(old)+1)
	for _, o := range old {
		steps = append(steps, client.Step{Op: nsm.Remove, Name: o.name})
	}
	steps = append(steps, client.Step{Op: nsm.Create, Name: name, Content: content(data, tail), Size: int64(len(data) + len(tail))})
	_, err := d.low.Namespace.ApplySequence(ctx, steps)
	return err
}

// ReadFragment implements objstore.Disk.
func (d *Disk) ReadFragment(ctx context.Context, k objstore.FragmentKey, off int64, p []byte) error {
	done, err := d.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return d.current(ctx, k, func(e entry) error {
		if off < 0 || off > e.size || int64(len(p)) > e.size-off {
			return &objstore.CorruptError{What: "fragment " + k.String(), Err: fmt.Errorf("it has %d bytes, %d at %d were asked for", e.size, len(p), off)}
		}
		if len(p) == 0 {
			return nil
		}
		if err := d.low.Namespace.ReadAt(ctx, e.name, off, p); err != nil {
			return err
		}
		if err := verify(e.sums, e.size, off, p); err != nil {
			return &objstore.CorruptError{What: "fragment " + k.String(), Err: err}
		}
		return nil
	})
}

// ReadRecovery implements objstore.Disk.
func (d *Disk) ReadRecovery(ctx context.Context, k objstore.FragmentKey) ([]byte, error) {
	done, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var recovery []byte
	err = d.current(ctx, k, func(e entry) error {
		recovery, _, err = d.readTail(ctx, e.object)
		return err
	})
	return recovery, err
}

// current calls fn with what is known of a fragment. What was remembered may be of an object that was exchanged or
// deleted since, by another process too: an error over that is none until it is the same with what is there now.
func (d *Disk) current(ctx context.Context, k objstore.FragmentKey, fn func(entry) error) error {
	e, ok, stamp := d.known.get(k)
	if ok {
		err := fn(e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		d.known.drop(k)
		_, _, stamp = d.known.get(k)
	}
	o, err := d.find(ctx, k)
	if err != nil {
		return err
	}
	_, sums, err := d.readTail(ctx, o)
	if err != nil {
		return translate(k, err)
	}
	e = entry{o, sums}
	d.known.put(e, stamp)
	return translate(k, fn(e))
}

// readTail reads and verifies what follows the data.
func (d *Disk) readTail(ctx context.Context, o object) (recovery []byte, sums []uint32, err error) {
	b := make([]byte, o.tail)
	if err := d.low.Namespace.ReadAt(ctx, o.name, o.size, b); err != nil {
		return nil, nil, err
	}
	if recovery, sums, err = decodeTail(b, o.key, o.size); err != nil {
		return nil, nil, &objstore.CorruptError{What: "fragment " + o.key.String(), Err: err}
	}
	return recovery, sums, nil
}
