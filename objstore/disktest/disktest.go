// Package disktest is a disk in memory that fails on demand: the reference model of objstore.Disk, and
// the fake for the tests of the layers above.
package disktest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Disk is an objstore.Disk in memory. Safe for concurrent use.
type Disk struct {
	mu        sync.Mutex
	fragments map[objstore.FragmentKey]*fragment
	capacity  int64
	used      int64
	fault     Fault
	gate      chan struct{} // operations wait until it is closed; nil: they do not
	writeGate chan struct{} // so do puts and deletions at this one
	hanging   int           // puts and deletions that wait at writeGate
	closed    bool
	puts      int
	gets      int
	bytesRead int64
}

type fragment struct {
	data, recovery []byte
	sums           []uint32
}

// Fault is what is wrong with a disk. The zero value is nothing.
type Fault struct {
	ReadErr, WriteErr, ProbeErr error
	ReadDelay, WriteDelay       time.Duration
	// FailWriteAfter lets that many puts pass before WriteErr takes effect.
	FailWriteAfter int
}

var _ objstore.Disk = (*Disk)(nil)

// New returns an empty disk of capacity bytes; 0 means 1 GiB.
func New(capacity int64) *Disk {
	if capacity == 0 {
		capacity = 1 << 30
	}
	return &Disk{fragments: make(map[objstore.FragmentKey]*fragment), capacity: capacity}
}

// Set changes what is wrong with the disk.
func (d *Disk) Set(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
	d.puts = 0
}

// Hang makes reads and writes wait until the returned function is called.
func (d *Disk) Hang() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	d.gate = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.gate = nil
		close(gate)
	})
}

// HangWrites makes puts and deletions wait until the returned function is called.
func (d *Disk) HangWrites() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	gate := make(chan struct{})
	d.writeGate = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.writeGate = nil
		close(gate)
	})
}

// Hanging returns how many puts and deletions wait because of HangWrites.
func (d *Disk) Hanging() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hanging
}

// waitWrite lets HangWrites take effect.
func (d *Disk) waitWrite(ctx context.Context) error {
	d.mu.Lock()
	gate := d.writeGate
	if gate == nil {
		d.mu.Unlock()
		return nil
	}
	d.hanging++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hanging--
	}()
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reopen makes a closed disk usable again, with what it holds.
func (d *Disk) Reopen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = false
}

// Keys returns the keys of all fragments in order.
func (d *Disk) Keys() []objstore.FragmentKey {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Keys(d.fragments), objstore.FragmentKey.Compare)
}

// Lose drops a fragment behind everyone's back and tells whether there was one.
func (d *Disk) Lose(k objstore.FragmentKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.fragments[k]
	d.drop(k)
	return ok
}

// Corrupt flips a bit of a fragment.
func (d *Disk) Corrupt(k objstore.FragmentKey, at int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.fragments[k]; f != nil {
		f.data[at%len(f.data)] ^= 0x40
	}
}

// Shorten cuts a fragment to n bytes.
func (d *Disk) Shorten(k objstore.FragmentKey, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.fragments[k]; f != nil {
		f.data = f.data[:min(n, len(f.data))]
	}
}

// Resize changes the capacity.
func (d *Disk) Resize(capacity int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = capacity
}

// BytesRead returns how many bytes of fragments were read, in whole blocks as a disk verifies them.
func (d *Disk) BytesRead() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bytesRead
}

// wait lets the delay and the gate take effect.
func (d *Disk) wait(ctx context.Context, delay time.Duration) error {
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

func (d *Disk) faults() Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault
}

func (d *Disk) check(err error) error {
	if d.closed {
		return objstore.ErrClosed
	}
	return err
}

// PutFragment implements objstore.Disk.
func (d *Disk) PutFragment(ctx context.Context, key objstore.FragmentKey, recovery, data []byte, sums []uint32) error {
	if err := errors.Join(d.wait(ctx, d.faults().WriteDelay), d.waitWrite(ctx)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.puts++
	if err := d.check(nil); err != nil {
		return err
	}
	if d.fault.WriteErr != nil && d.puts > d.fault.FailWriteAfter {
		return d.fault.WriteErr
	}
	if got := crc.Blocks(nil, data); !slices.Equal(got, sums) {
		return fmt.Errorf("disktest: fragment %v was put with wrong checksums", key)
	}
	if d.used+int64(len(data)) > d.capacity {
		return objstore.ErrFull
	}
	d.drop(key)
	d.fragments[key] = &fragment{slices.Clone(data), slices.Clone(recovery), slices.Clone(sums)}
	d.used += int64(len(data))
	return nil
}

func (d *Disk) drop(k objstore.FragmentKey) {
	if f := d.fragments[k]; f != nil {
		d.used -= int64(len(f.data))
		delete(d.fragments, k)
	}
}

// ReadFragment implements objstore.Disk.
func (d *Disk) ReadFragment(ctx context.Context, key objstore.FragmentKey, off int64, p []byte) error {
	if err := d.wait(ctx, d.faults().ReadDelay); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gets++
	f, err := d.find(key)
	if err != nil {
		return err
	}
	if off < 0 || off+int64(len(p)) > int64(len(f.data)) {
		return &objstore.CorruptError{What: "fragment " + key.String(), Err: fmt.Errorf("%d bytes, %d at %d wanted", len(f.data), len(p), off)}
	}
	for b := off / crc.Block; b*crc.Block < off+int64(len(p)); b++ {
		block := f.data[b*crc.Block : min((b+1)*crc.Block, int64(len(f.data)))]
		d.bytesRead += int64(len(block))
		if crc.Sum(block) != f.sums[b] {
			return &objstore.CorruptError{What: "fragment " + key.String(), Err: errors.New("checksum")}
		}
	}
	copy(p, f.data[off:])
	return nil
}

func (d *Disk) find(key objstore.FragmentKey) (*fragment, error) {
	if err := d.check(d.fault.ReadErr); err != nil {
		return nil, err
	}
	f := d.fragments[key]
	if f == nil {
		return nil, objstore.ErrNoFragment
	}
	return f, nil
}

// ReadRecovery implements objstore.Disk.
func (d *Disk) ReadRecovery(_ context.Context, key objstore.FragmentKey) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.find(key)
	if err != nil {
		return nil, err
	}
	return slices.Clone(f.recovery), nil
}

// HasFragments implements objstore.Disk.
func (d *Disk) HasFragments(_ context.Context, keys []objstore.FragmentKey) ([]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(d.fault.ReadErr); err != nil {
		return nil, err
	}
	out := make([]bool, len(keys))
	for i, k := range keys {
		_, out[i] = d.fragments[k]
	}
	return out, nil
}

// DeleteFragments implements objstore.Disk.
func (d *Disk) DeleteFragments(ctx context.Context, keys []objstore.FragmentKey) error {
	if err := d.waitWrite(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(d.fault.WriteErr); err != nil {
		return err
	}
	for _, k := range keys {
		d.drop(k)
	}
	return nil
}

// Range implements objstore.Disk.
func (d *Disk) Range(_ context.Context, from, to objstore.FragmentKey, fn func(objstore.FragmentInfo) bool) error {
	d.mu.Lock()
	var all []objstore.FragmentInfo
	for k, f := range d.fragments {
		if k.Compare(from) >= 0 && k.Compare(to) < 0 {
			all = append(all, objstore.FragmentInfo{Key: k, Size: int64(len(f.data))})
		}
	}
	err := d.check(d.fault.ReadErr)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b objstore.FragmentInfo) int { return a.Key.Compare(b.Key) })
	for _, f := range all {
		if !fn(f) {
			break
		}
	}
	return nil
}

// Stat implements objstore.Disk.
func (d *Disk) Stat(context.Context) (objstore.DiskStat, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return objstore.DiskStat{Total: d.capacity, Used: d.used, Free: max(0, d.capacity-d.used),
		Fragments: int64(len(d.fragments)), Full: d.used >= d.capacity}, d.check(nil)
}

// Probe implements objstore.Disk.
func (d *Disk) Probe(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.check(d.fault.ProbeErr)
}

// Close implements objstore.Disk. What the disk holds stays, for Reopen.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}
