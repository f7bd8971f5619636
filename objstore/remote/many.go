package remote

import (
	"context"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
)

// manyBytes is about how much one readmany asks for: more at once is no faster, and takes memory at both ends.
const manyBytes = 4 << 20

// ReadFragments implements objstore.MultiDisk.
func (d *Disk) ReadFragments(ctx context.Context, reads []objstore.FragmentRead) error {
	for len(reads) > 0 {
		n, size := 0, 0
		for n < min(len(reads), maxReads) && (n == 0 || size+len(reads[n].P) <= manyBytes) {
			r := &reads[n]
			if r.Off < 0 || r.Off > MaxFragment || len(r.P) > MaxFragment {
				return &objstore.CorruptError{What: "fragment " + r.Key.String(), Err: fmt.Errorf("%d bytes at %d wanted", len(r.P), r.Off)}
			}
			size += len(r.P)
			n++
		}
		if err := d.readMany(ctx, reads[:n], size); err != nil {
			return err
		}
		reads = reads[n:]
	}
	return nil
}

// readMany is one call, for size bytes in all.
func (d *Disk) readMany(ctx context.Context, reads []objstore.FragmentRead, size int) error {
	x := &exchange{op: opReadMany, metaLen: len(reads) * spanLen, into: make([]byte, size), meta: func(b []byte) []byte {
		for _, r := range reads {
			b = span{r.Key, r.Off, len(r.P)}.append(b)
		}
		return b
	}}
	if err := d.p.call(ctx, x); err != nil {
		return err
	}
	if len(x.answer) != len(reads) {
		return violated("%d answers to %d reads", len(x.answer), len(reads))
	}
	for i := range reads {
		r := &reads[i]
		st := status(x.answer[i])
		r.Err = errorOf(st, "the disk says so", opReadMany, d.p.o.Address)
		if st == statusOK {
			copy(r.P, x.into)
		}
		x.into = x.into[len(r.P):]
	}
	return nil
}

// readMany answers many reads at once.
func (v *visit) readMany(ctx context.Context, meta []byte) error {
	list, size, err := parseSpans(meta)
	if err != nil {
		return err
	}
	buf, free, err := v.reserve(size)
	if err != nil {
		return err
	}
	defer free()
	if c, ok := v.disk.(objstore.CachedDisk); ok && len(list) > 1 {
		for _, s := range list { // the device works on all while we wait for the first
			c.Prefetch(ctx, s.key, s.off, s.n)
		}
	}
	states := make([]byte, len(list))
	rest := buf.B
	for i, s := range list {
		p := rest[:s.n]
		rest = rest[s.n:]
		err := v.disk.ReadFragment(ctx, s.key, s.off, p)
		if ctx.Err() != nil {
			return v.reply(ctx.Err(), nil, nil)
		}
		st, _ := statusOf(err)
		if states[i] = byte(st); err != nil {
			clear(p) // what is in the buffer is somebody else's
		}
	}
	return v.reply(nil, states, buf.B)
}
