package remote

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Options say how to reach a server. Address and Credentials are required, and Owner for disks that are used.
type Options struct {
	Address     string // host:port
	Credentials *identity.Credentials
	// Node is the id of the node that must answer; "" accepts any of the cluster.
	Node string
	// Owner is the cluster of disks that the caller works for.
	Owner asd.ID
	// Conns bounds the connections of one disk, and with it the calls that are under way at once; 32 when 0.
	// Further calls wait.
	Conns int
	// Timeout is how long a call may take, and each MiB of it beyond the first; 30 s when 0.
	Timeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Conns == 0 {
		o.Conns = 32
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	return o
}

// Disk is a disk of another process. Safe for concurrent use.
type Disk struct {
	p    *links
	node string
}

var (
	_ objstore.CachedDisk = (*Disk)(nil)
	_ objstore.MultiDisk  = (*Disk)(nil)
	_ objstore.RemoteDisk = (*Disk)(nil)
)

// Open connects to the disk of that id. It fails when the server cannot be reached, does not have the disk, or has
// it for another owner.
func Open(ctx context.Context, o Options, id asd.ID) (*Disk, error) {
	if id.IsZero() {
		return nil, errors.New("remote: which disk?")
	}
	p := newLinks(o.withDefaults(), hello{id, o.Owner})
	l, err := p.take(ctx, opHello)
	if err != nil {
		p.close()
		return nil, err
	}
	d := &Disk{p, l.c.Peer.Name}
	p.give(l)
	return d, nil
}

// Node is the id of the node that serves the disk, as its certificate says.
func (d *Disk) Node() string { return d.node }

// call does one exchange. What the other end said is in the error when it is the only one.
func (p *links) call(ctx context.Context, x *exchange) error {
	l, err := p.take(ctx, x.op)
	if err != nil {
		return p.explain(ctx, x, err)
	}
	err = l.do(ctx, p.o, x)
	if err == nil {
		if errors.Is(x.result, objstore.ErrClosed) {
			p.drop(l) // the server hangs up
		} else {
			p.give(l)
		}
		return x.result
	}
	p.drop(l)
	if errors.Is(err, errInterrupted) {
		return x.result
	}
	if ctx.Err() == nil {
		p.dropIdle()
	}
	return p.explain(ctx, x, err)
}

// explain turns an error of the connection into one that says what it means for the call.
func (p *links) explain(ctx context.Context, x *exchange, err error) error {
	var link *LinkError
	var disk *DiskError
	switch {
	case p.isClosed():
		return fmt.Errorf("remote: %v at %s: %w", x.op, p.o.Address, objstore.ErrClosed)
	case ctx.Err() != nil:
		return fmt.Errorf("remote: %v at %s: %w", x.op, p.o.Address, ctx.Err())
	case errors.As(err, &link), errors.As(err, &disk):
		return err
	}
	return &LinkError{Op: x.op.String(), Address: p.o.Address, Sent: x.sent, Err: err}
}

// PutFragment implements objstore.Disk.
func (d *Disk) PutFragment(ctx context.Context, key objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	if len(data) > MaxFragment || len(recovery) > maxRecovery {
		return fmt.Errorf("remote: put %v: %d and %d bytes: %w", key, len(recovery), len(data), asd.ErrTooLarge)
	}
	if len(sums) != (len(data)+crc.Block-1)/crc.Block {
		return fmt.Errorf("remote: put %v: %d checksums of %d bytes: %w", key, len(sums), len(data), asd.ErrInvalid)
	}
	m := putMeta{key, recovery, sums}
	return d.p.call(ctx, &exchange{op: opPut, meta: m.append, metaLen: m.len(), data: data})
}

// ReadFragment implements objstore.Disk.
func (d *Disk) ReadFragment(ctx context.Context, key objstore.FragmentKey, off int64, p []byte) error {
	if off < 0 || off > MaxFragment || len(p) > MaxFragment {
		return &objstore.CorruptError{What: "fragment " + key.String(), Err: fmt.Errorf("%d bytes at %d wanted", len(p), off)}
	}
	m := span{key, off, len(p)}
	return d.p.call(ctx, &exchange{op: opRead, meta: m.append, metaLen: spanLen, into: p})
}

// ReadCached reports false: nothing is kept on this side, and a call is no cheaper for what the server has.
func (d *Disk) ReadCached(context.Context, objstore.FragmentKey, int64, []byte) bool { return false }

// Prefetch implements objstore.CachedDisk: it asks the server to read ahead, and does not wait.
func (d *Disk) Prefetch(ctx context.Context, key objstore.FragmentKey, off int64, n int) {
	if off < 0 || off > MaxFragment || n <= 0 {
		return
	}
	m := span{key, off, min(n, MaxFragment)}
	d.p.background(func() {
		// Whoever reads finds out what is wrong.
		_ = d.p.call(context.WithoutCancel(ctx), &exchange{op: opPrefetch, meta: m.append, metaLen: spanLen})
	})
}

// background runs fn in a goroutine that close waits for, unless it is too late.
func (p *links) background(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.work.Go(fn)
	}
}

// ReadRecovery implements objstore.Disk.
func (d *Disk) ReadRecovery(ctx context.Context, key objstore.FragmentKey) ([]byte, error) {
	x := &exchange{op: opRecovery, meta: key.Append, metaLen: keyLen}
	err := d.p.call(ctx, x)
	return x.answer, err
}

// appendKeys returns a function that appends keys.
func appendKeys(keys []objstore.FragmentKey) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, k := range keys {
			b = k.Append(b)
		}
		return b
	}
}

// HasFragments implements objstore.Disk.
func (d *Disk) HasFragments(ctx context.Context, keys []objstore.FragmentKey) ([]bool, error) {
	out := make([]bool, 0, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), maxKeys)
		x := &exchange{op: opHas, meta: appendKeys(keys[:n]), metaLen: n * keyLen, into: make([]byte, n)}
		if err := d.p.call(ctx, x); err != nil {
			return nil, err
		}
		for _, b := range x.into {
			out = append(out, b != 0)
		}
		keys = keys[n:]
	}
	return out, nil
}

// DeleteFragments implements objstore.Disk.
func (d *Disk) DeleteFragments(ctx context.Context, keys []objstore.FragmentKey) error {
	for len(keys) > 0 {
		n := min(len(keys), maxKeys)
		if err := d.p.call(ctx, &exchange{op: opDelete, meta: appendKeys(keys[:n]), metaLen: n * keyLen}); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// Range implements objstore.Disk.
func (d *Disk) Range(ctx context.Context, from, to objstore.FragmentKey, fn func(objstore.FragmentInfo) bool) error {
	for from.Compare(to) < 0 {
		x := &exchange{op: opRange, metaLen: 2*keyLen + 4, meta: func(b []byte) []byte {
			return append(to.Append(from.Append(b)), 0, 0, maxRange>>8, maxRange&0xff)
		}}
		if err := d.p.call(ctx, x); err != nil {
			return err
		}
		l, err := parseListing(x.answer)
		if err != nil {
			return err
		}
		for _, f := range l.list {
			if f.Key.Compare(from) < 0 || f.Key.Compare(to) >= 0 {
				return violated("a listing out of order")
			}
			from = f.Key.Next()
			if !fn(f) {
				return nil
			}
		}
		if !l.more {
			return nil
		}
	}
	return nil
}

// Stat implements objstore.Disk.
func (d *Disk) Stat(ctx context.Context) (objstore.DiskStat, error) {
	x := &exchange{op: opStat}
	if err := d.p.call(ctx, x); err != nil {
		return objstore.DiskStat{}, err
	}
	s, err := parseStat(x.answer)
	if s.Device != 0 {
		// Disks share a device only with those at the same server.
		h := fnv.New64a()
		fmt.Fprint(h, d.p.o.Address, " ", s.Device)
		s.Device = h.Sum64() | 1<<63
	}
	return s, err
}

// Probe implements objstore.Disk.
func (d *Disk) Probe(ctx context.Context) error { return d.p.call(ctx, &exchange{op: opProbe}) }

// Close implements objstore.Disk: it cuts the connections. What was acknowledged needs no more.
func (d *Disk) Close() error {
	d.p.close()
	return nil
}

// once does one exchange over a connection of its own, for no disk.
func once(ctx context.Context, o Options, x *exchange) error {
	p := newLinks(o.withDefaults(), hello{owner: o.Owner})
	defer p.close()
	return p.call(ctx, x)
}

// List returns what a server announces.
func List(ctx context.Context, o Options) ([]Announcement, error) {
	x := &exchange{op: opList}
	if err := once(ctx, o, x); err != nil {
		return nil, err
	}
	return parseList(x.answer)
}

// Claim claims a disk of a server for o.Owner. See asd.Claim.
func Claim(ctx context.Context, o Options, id asd.ID) error {
	return once(ctx, o, &exchange{op: opClaim, metaLen: 2 * idLen, meta: func(b []byte) []byte {
		return append(append(b, id[:]...), o.Owner[:]...)
	}})
}

// Release takes the claim of o.Owner back. See asd.Release.
func Release(ctx context.Context, o Options, id asd.ID, wipe bool) error {
	return once(ctx, o, &exchange{op: opRelease, metaLen: 2*idLen + 1, meta: func(b []byte) []byte {
		return append(append(append(b, id[:]...), o.Owner[:]...), flag(wipe))
	}})
}
