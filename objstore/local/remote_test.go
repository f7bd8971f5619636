package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/disktest"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/remote"
)

// loopback is an address of the loopback network that no other process has: what listened there can listen there
// again.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
}

// farm is a cluster's authority and servers of disks.
type farm struct {
	ca     *identity.CA
	client *identity.Credentials
}

func newFarm(t testing.TB) *farm {
	t.Helper()
	ca, err := identity.NewCA(identity.NewClusterID())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: identity.Client, Name: "fs"})
	if err != nil {
		t.Fatal(err)
	}
	return &farm{ca, c}
}

// server serves folders as a process of its own would.
type server struct {
	address string
	host    *Host
	mux     *mux.Mux
	work    sync.WaitGroup
	once    sync.Once
}

func (f *farm) serve(t testing.TB, node, address string, dirs ...string) *server {
	t.Helper()
	c, err := f.ca.New(identity.ID{Cluster: f.ca.Cluster, Kind: identity.Node, Name: node})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{}
	if s.host, err = OpenHost(context.Background(), HostOptions{Dirs: dirs, Capacity: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.mux = mux.New(mux.Options{Listener: l})
	s.mux.Handle(remote.Protocol, mux.Service{TLS: c.ServerConfig(nil, remote.Protocol), Serve: remote.NewServer(remote.ServerOptions{Host: s.host}).Serve})
	s.work.Go(s.mux.Run)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *server) stop(t testing.TB) {
	s.once.Do(func() {
		if err := errors.Join(s.mux.Close(), s.host.Close()); err != nil {
			t.Error(err)
		}
		s.work.Wait()
	})
}

func (s *server) places() []string {
	var out []string
	for _, a := range s.host.List(context.Background()) {
		out = append(out, remote.Address{Server: s.address, ASD: a.ASD}.String())
	}
	return out
}

// TestHostContract is the contract over the network, with an ASD at the other end.
func TestHostContract(t *testing.T) {
	f := newFarm(t)
	disktest.Run(t, func(t testing.TB) objstore.Disk {
		s := f.serve(t, "n", loopback(), filepath.Join(t.TempDir(), "asd"))
		o := anywhere{o: remote.Options{Credentials: f.client, Owner: cluster}}
		at := s.places()[0]
		if _, _, err := o.Open(context.Background(), at, ""); !errors.Is(err, asd.ErrMissing) {
			t.Fatalf("opened a disk that nobody has claimed: %v", err)
		}
		if err := o.Claim(context.Background(), at); err != nil {
			t.Fatal(err)
		}
		_, d, err := o.Open(context.Background(), at, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	})
}

// TestRemoteDisks runs on disks of three servers and two of its own; one server goes and comes back.
func TestRemoteDisks(t *testing.T) {
	f := newFarm(t)
	store := memkv.New()
	all := dirs(t, 6)
	var servers []*server
	o := options(store, all[4:])
	o.Base = filepath.Dir(all[0])
	for i := range 2 {
		s := f.serve(t, fmt.Sprint("node", i), loopback(), all[2*i], all[2*i+1])
		servers = append(servers, s)
		o.Dirs = append(o.Dirs, s.places()...)
	}
	o.Remote.Credentials = f.client
	b := open(t, o)
	ns := namespace(t, b)
	content := objects{}
	content.fill(t, ns, 8)
	nodes := map[string]int{}
	for _, d := range b.Disks() {
		nodes[d.Node]++
	}
	if fmt.Sprint(nodes) != "map[local:2 node0:2 node1:2]" {
		t.Fatal(nodes)
	}
	if c, err := b.Capacity(context.Background()); err != nil || c.Free <= 0 {
		t.Fatal(c, err)
	}

	down := func(n int) func() bool {
		return func() bool {
			for _, d := range b.Disks() {
				if d.State != manager.Up {
					n--
				}
			}
			return n == 0
		}
	}
	is := func(n int) { t.Helper(); waitFor(t, fmt.Sprint(n, " disks down"), func() bool { return down(n)() }) }
	servers[1].stop(t)
	is(2)
	content.check(t, ns)
	content.fill(t, ns, 4)
	servers[1] = f.serve(t, "node1", servers[1].address, all[2], all[3])
	is(0)
	content.check(t, ns)
	if err := b.Repair(context.Background()); err != nil {
		t.Fatal(err)
	}

	// The places are remembered, also those below what looks like the base.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o.Dirs = nil
	b = open(t, o)
	is(0)
	ns = namespace(t, b)
	content.check(t, ns)
	if p := problems(t, b, maint.Warning); len(p) > 0 {
		t.Fatal(p)
	}

	// Another cluster of disks gets none of them.
	other := options(memkv.New(), servers[0].places())
	other.Cluster, other.Remote.Credentials = asd.ID{9}, f.client
	if b, err := Open(context.Background(), other); !errors.Is(err, asd.ErrClaimed) {
		if err == nil {
			_ = b.Close()
		}
		t.Fatal(err)
	}
}

// TestHostRelease gives a disk back, which is then another one.
func TestHostRelease(t *testing.T) {
	ctx := context.Background()
	f := newFarm(t)
	s := f.serve(t, "n", loopback(), filepath.Join(t.TempDir(), "asd"))
	o := remote.Options{Address: s.address, Credentials: f.client, Owner: cluster}
	id := s.host.List(ctx)[0].ASD
	if err := remote.Claim(ctx, o, id); err != nil {
		t.Fatal(err)
	}
	d, err := remote.Open(ctx, o, id)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p := disktest.Bytes(1, 100)
	if err := d.PutFragment(ctx, objstore.FragmentKey{Namespace: 1}, nil, p, []uint32{0}); err != nil {
		t.Fatal(err)
	}
	if err := remote.Release(ctx, o, id, false); !errors.Is(err, asd.ErrNotEmpty) {
		t.Fatal(err)
	}
	if err := d.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := remote.Release(ctx, o, id, true); err != nil {
		t.Fatal(err)
	}
	if err := d.Probe(ctx); err == nil {
		t.Fatal("a released disk is used on")
	}
	if _, err := remote.Open(ctx, o, id); !errors.Is(err, asd.ErrMissing) {
		t.Fatal(err)
	}
	l, err := remote.List(ctx, o)
	if err != nil || len(l) != 1 || l[0].ASD == id || l[0].State != remote.Unclaimed {
		t.Fatal(l, err)
	}
}
