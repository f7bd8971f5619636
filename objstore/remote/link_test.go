package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

var key = objstore.FragmentKey{Namespace: 1, Object: 2, Chunk: 3, Fragment: 4, Version: 5}

func put(t testing.TB, d objstore.Disk, n int) []byte {
	t.Helper()
	p := disktest.Bytes(n, n)
	if err := d.PutFragment(context.Background(), key, []byte("info"), p, crc.Blocks(nil, p)); err != nil {
		t.Fatal(err)
	}
	return p
}

func check(t testing.TB, d objstore.Disk, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := d.ReadFragment(context.Background(), key, 0, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v, equal %v", err, bytes.Equal(got, want))
	}
}

// within fails the test when fn takes a minute.
func within(t testing.TB, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}

// TestStrangers shows certificates that must not get in: of another authority, of another authority with the cluster's name.
func TestStrangers(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{})
	ours, err := authory()
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []string{identity.NewClusterID(), ours.Cluster} {
		ca, err := identity.NewCA(cluster)
		if err != nil {
			t.Fatal(err)
		}
		o := r.opts
		o.Credentials = credentials(t, ca, identity.Node, "b")
		if _, err := Open(context.Background(), o, diskID); !errors.Is(err, ErrUnreachable) {
			t.Fatalf("a stranger was let in: %v", err)
		}
	}
	o := r.opts
	o.Node = "b"
	if _, err := Open(context.Background(), o, diskID); !errors.Is(err, identity.ErrIdentity) {
		t.Fatalf("node a passed for node b: %v", err)
	}
	if r.opened != 0 {
		t.Fatal("somebody was heard")
	}
	if d := r.open(t); d.Node() != "a" {
		t.Fatal(d.Node())
	}
}

func TestOwners(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, disktest.New(0), ServerOptions{})
	other := r.opts
	other.Owner = asd.ID{8}
	var claimed *asd.ClaimedError
	if _, err := Open(ctx, other, diskID); !errors.As(err, &claimed) || claimed.Owner != owner {
		t.Fatalf("another's disk was opened: %v", err)
	}
	if err := Claim(ctx, other, diskID); !errors.As(err, &claimed) || claimed.Owner != owner || !errors.Is(err, asd.ErrClaimed) {
		t.Fatalf("another's disk was claimed: %v", err)
	}
	if err := Release(ctx, other, diskID, true); !errors.Is(err, asd.ErrClaimed) {
		t.Fatalf("another's disk was released: %v", err)
	}
	if _, err := Open(ctx, r.opts, asd.ID{9}); !errors.Is(err, asd.ErrMissing) {
		t.Fatal(err)
	}
	if err := Release(ctx, r.opts, diskID, true); err != nil {
		t.Fatal(err)
	}
	if l, err := List(ctx, r.opts); err != nil || len(l) != 1 || l[0].ASD != diskID || l[0].State != Unclaimed {
		t.Fatal(l, err)
	}
	if err := Claim(ctx, other, diskID); err != nil {
		t.Fatal(err)
	}
	if l, err := List(ctx, r.opts); err != nil || len(l) != 1 || l[0].Owner != other.Owner || l[0].State != Ready {
		t.Fatal(l, err)
	}
}

// TestClaimRace lets many clients claim a disk of a server; one wins, and the others are told who.
func TestClaimRace(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{})
	delete(r.owners, diskID)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			o := r.opts
			o.Owner = asd.ID{byte(i + 1)}
			errs[i] = Claim(context.Background(), o, diskID)
		})
	}
	wg.Wait()
	for i, err := range errs {
		var claimed *asd.ClaimedError
		if won := r.owners[diskID] == (asd.ID{byte(i + 1)}); won != (err == nil) {
			t.Fatalf("client %d: %v", i, err)
		} else if !won && (!errors.As(err, &claimed) || claimed.Owner != r.owners[diskID]) {
			t.Fatalf("client %d: %v", i, err)
		}
	}
}

// TestRestart ends the server under a call; the call fails with what it is, and the next one dials anew.
func TestRestart(t *testing.T) {
	model := disktest.New(0)
	r := newRig(t, model, ServerOptions{})
	d := r.open(t)
	p := put(t, d, 100_000)
	for range 3 { // also with connections that were idle when the server went
		release := model.Hang()
		result := make(chan error, 1)
		go func() { result <- d.ReadFragment(context.Background(), key, 0, make([]byte, 10)) }()
		waitFor(t, "the call", func() bool { return r.mux.Conns() > 0 && len(d.p.slots) == 1 })
		address := r.opts.Address
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			r.stop()
		}()
		var link *LinkError
		if err := <-result; !errors.As(err, &link) || !errors.Is(err, ErrUnreachable) || errors.Is(err, context.Canceled) {
			t.Fatalf("cut off: %v", err)
		}
		release()
		<-stopped
		if err := d.Probe(context.Background()); !errors.As(err, &link) || link.Sent {
			t.Fatalf("without a server: %v", err)
		}
		r.start(t, address)
		check(t, d, p)
	}
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

// TestCancel ends calls that hang by their context; the memory they were given is left alone from then on.
func TestCancel(t *testing.T) {
	model := disktest.New(0)
	r := newRig(t, model, ServerOptions{})
	d := r.open(t)
	p := put(t, d, 100_000)
	release := model.Hang()
	for _, n := range []int{10, 100_000} {
		ctx, cancel := context.WithCancel(context.Background())
		into := make([]byte, n)
		result := make(chan error, 1)
		go func() { result <- d.ReadFragment(ctx, key, 0, into) }()
		waitFor(t, "the call", func() bool { return len(d.p.slots) == 1 })
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
		if err := d.ReadFragment(ctx, key, 0, into); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
	}
	release()
	check(t, d, p)
}

// TestHungServer meets a server that takes a request and says nothing.
func TestHungServer(t *testing.T) {
	model := disktest.New(0)
	r := newRig(t, model, ServerOptions{})
	d := r.open(t)
	p := put(t, d, 10)
	r.opts.Timeout = 20 * time.Millisecond
	impatient := r.open(t)
	release := model.Hang()
	if err := impatient.ReadFragment(context.Background(), key, 0, make([]byte, 10)); !errors.Is(err, errNoAnswer) ||
		!errors.Is(err, ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	release()
	check(t, d, p)
}

// TestMoreCallsThanConnections has them wait for each other.
func TestMoreCallsThanConnections(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{})
	r.opts.Conns = 2
	d := r.open(t)
	p := put(t, d, 50_000)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 5 {
				got := make([]byte, len(p))
				if err := d.ReadFragment(context.Background(), key, 0, got); err != nil || !bytes.Equal(got, p) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := r.mux.Conns(); n > 2 {
		t.Fatalf("%d connections", n)
	}
}

// TestDiskErrors sends errors of every kind across.
func TestDiskErrors(t *testing.T) {
	ctx := context.Background()
	model := disktest.New(0)
	d := newRig(t, model, ServerOptions{}).open(t)
	p := put(t, d, 200_000)
	model.Corrupt(key, 70_000)
	var corrupt *objstore.CorruptError
	if err := d.ReadFragment(ctx, key, 0, make([]byte, 200_000)); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	if err := d.ReadFragment(ctx, key, 0, make([]byte, 60_000)); err != nil {
		t.Fatal(err) // another block
	}
	for _, want := range []error{asd.ErrFailed, objstore.ErrFull, asd.ErrMissing, asd.ErrInUse, asd.ErrForeign, asd.ErrDamaged, asd.ErrNewer} {
		model.Set(disktest.Fault{WriteErr: want, ProbeErr: want})
		if err := d.PutFragment(ctx, key, nil, p, crc.Blocks(nil, p)); !errors.Is(err, want) || errors.Is(err, ErrUnreachable) {
			t.Fatalf("%v became %v", want, err)
		}
		if err := d.Probe(ctx); !errors.Is(err, want) {
			t.Fatalf("%v became %v", want, err)
		}
	}
	model.Set(disktest.Fault{})
	if err := model.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Probe(ctx); !errors.Is(err, objstore.ErrClosed) {
		t.Fatal(err)
	}
	model.Reopen()
	if err := d.Probe(ctx); err != nil { // over a new connection
		t.Fatal(err)
	}
}

// raw is a connection for those who do not keep to the protocol.
func raw(t testing.TB, r *rig, greet bool) *mux.Conn {
	t.Helper()
	c, err := mux.Dial(context.Background(), r.opts.Address, r.opts.Credentials.ClientConfig("", Protocol))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if greet {
		h := hello{diskID, owner}
		b := h.append(request{op: opHello, meta: 38}.append(nil))
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		var a [headerLen]byte
		if _, err := io.ReadFull(c, a[:]); err != nil || a[0] != 0 {
			t.Fatalf("%x, %v", a, err)
		}
	}
	return c
}

// TestLiars sends what must not be sent. The server hangs up, and has changed nothing.
func TestLiars(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{Patience: 100 * time.Millisecond})
	d := r.open(t)
	p := put(t, d, 1000)
	other := objstore.FragmentKey{Namespace: 9}
	meta := func(data, recovery int, sums ...uint32) []byte {
		m := putMeta{other, nil, sums}.append(nil)
		binary.BigEndian.PutUint32(m[keyLen:], uint32(recovery))
		return append(request{op: opPut, meta: len(m), data: data}.append(nil), m...)
	}
	for name, b := range map[string][]byte{
		"no op":                   request{op: 77}.append(nil),
		"hello again":             hello{diskID, owner}.append(request{op: opHello, meta: 38}.append(nil)),
		"too much meta":           request{op: opPut, meta: maxPut + 1}.append(nil),
		"too much data":           request{op: opPut, meta: 26, data: MaxFragment + 1}.append(nil),
		"all there is":            {byte(opPut), 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0},
		"data for a read":         request{op: opRead, meta: keyLen + 12, data: 1}.append(nil),
		"reserved bytes":          {byte(opStat), 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"more recovery than sent": meta(1000, 1<<20, 1),
		"fewer sums than blocks":  meta(100_000, 0, 1),
		"more sums than blocks":   meta(1000, 0, 1, 2),
		"less data than promised": append(meta(1000, 0, 1), make([]byte, 999)...),
		"nothing of much":         meta(4<<20, 0, make([]uint32, 4<<4)...),
		"less meta than promised": request{op: opRecovery, meta: keyLen}.append(nil),
		"half a key":              append(request{op: opHas, meta: keyLen + 3}.append(nil), make([]byte, keyLen+3)...),
		"a key that is none":      append(request{op: opRecovery, meta: keyLen}.append(nil), make([]byte, keyLen)...),
		"a read beyond everything": func() []byte {
			b := request{op: opRead, meta: keyLen + 12}.append(nil)
			return span{key, 0, 1 << 31}.append(b)
		}(),
		"an empty range": append(key.Append(key.Append(request{op: opRange, meta: 2*keyLen + 4}.append(nil))), 0, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(t, r, true)
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			within(t, func() {
				if n, err := io.Copy(io.Discard, c); n != 0 {
					t.Errorf("%d bytes of an answer, %v", n, err)
				}
			})
		})
	}
	t.Run("before hello", func(t *testing.T) {
		c := raw(t, r, false)
		if _, err := c.Write(request{op: opStat}.append(nil)); err != nil {
			t.Fatal(err)
		}
		within(t, func() {
			if n, err := io.Copy(io.Discard, c); n != 0 {
				t.Errorf("%d bytes of an answer, %v", n, err)
			}
		})
	})
	check(t, d, p)
	has, err := d.HasFragments(context.Background(), []objstore.FragmentKey{other})
	if err != nil || has[0] {
		t.Fatal("a liar's fragment is there", err)
	}
}

// TestLyingServer answers with what was not asked for.
func TestLyingServer(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{})
	r.stop()
	var reply []byte
	r.start(t, loopback())
	r.mux.Handle(Protocol, mux.Service{TLS: r.node.ServerConfig(nil, Protocol), Serve: func(c *mux.Conn) {
		defer c.Close()
		b := make([]byte, 1<<10)
		for i := 0; ; i++ {
			if _, err := c.Read(b); err != nil {
				return
			}
			out := answer{}.append(nil)
			if i > 0 {
				out = reply
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}})
	for name, b := range map[string][]byte{
		"more data":       append(answer{data: 11}.append(nil), make([]byte, 11)...),
		"less data":       append(answer{data: 9}.append(nil), make([]byte, 9)...),
		"a huge meta":     answer{meta: 1 << 30, data: 10}.append(nil),
		"an endless text": answer{status: statusFull, meta: 1 << 20}.append(nil),
		"error with data": answer{status: statusFull, data: 10}.append(nil),
		"reserved":        {0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0},
	} {
		reply = b
		d := r.open(t)
		err := d.ReadFragment(context.Background(), key, 0, make([]byte, 10))
		if !errors.Is(err, errProtocol) || !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		_ = d.Close()
	}
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{MaxConns: 2})
	a, b := raw(t, r, true), raw(t, r, true)
	if _, err := Open(context.Background(), r.opts, diskID); !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	_, _ = a.Close(), b.Close()
	waitFor(t, "room", func() bool {
		d, err := Open(context.Background(), r.opts, diskID)
		if err == nil {
			_ = d.Close()
		}
		return err == nil
	})
}

func TestIdleIsClosed(t *testing.T) {
	r := newRig(t, disktest.New(0), ServerOptions{Idle: 20 * time.Millisecond})
	d := r.open(t)
	p := disktest.Bytes(1, 10)
	for range 3 {
		waitFor(t, "the server to hang up", func() bool { return r.mux.Conns() == 0 })
		if err := d.PutFragment(context.Background(), key, nil, p, crc.Blocks(nil, p)); err != nil {
			// The server may have hung up at the very moment in which the connection was taken.
			if !errors.Is(err, ErrUnreachable) {
				t.Fatal(err)
			}
		}
	}
}
