package remote

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/disktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is a Host of disks in memory.
type shelf struct {
	mu     sync.Mutex
	disks  map[asd.ID]objstore.Disk
	owners map[asd.ID]asd.ID
	opened int
}

func (h *shelf) List(context.Context) []Announcement {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Announcement
	for id := range h.disks {
		a := Announcement{ASD: id, Owner: h.owners[id], Total: 1 << 30, Dir: "/disk", State: Ready}
		if a.Owner.IsZero() {
			a.State = Unclaimed
		}
		out = append(out, a)
	}
	return out
}

func (h *shelf) Open(_ context.Context, id, owner asd.ID) (objstore.Disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened++
	d := h.disks[id]
	switch {
	case d == nil:
		return nil, fmt.Errorf("disk %v: %w", id, asd.ErrMissing)
	case h.owners[id] != owner:
		return nil, &asd.ClaimedError{ASD: id, Owner: h.owners[id]}
	}
	return d, nil
}

func (h *shelf) Claim(_ context.Context, id, owner asd.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.owners[id]; !o.IsZero() {
		return &asd.ClaimedError{Dir: "/disk", ASD: id, Owner: o}
	}
	h.owners[id] = owner
	return nil
}

func (h *shelf) Release(_ context.Context, id, owner asd.ID, _ bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owners[id] != owner {
		return &asd.ClaimedError{ASD: id, Owner: h.owners[id]}
	}
	delete(h.owners, id)
	return nil
}

var (
	diskID  = asd.ID{1, 2, 3}
	owner   = asd.ID{7}
	authory = sync.OnceValues(func() (*identity.CA, error) { return identity.NewCA(identity.NewClusterID()) })
)

func credentials(t testing.TB, ca *identity.CA, kind identity.Kind, name string) *identity.Credentials {
	t.Helper()
	c, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: kind, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rig is a server with one disk of owner.
type rig struct {
	*shelf
	server *Server
	mux    *mux.Mux
	opts   Options
	serve  ServerOptions
	node   *identity.Credentials
	work   sync.WaitGroup
}

func newRig(t testing.TB, disk objstore.Disk, so ServerOptions) *rig {
	t.Helper()
	ca, err := authory()
	if err != nil {
		t.Fatal(err)
	}
	h := &shelf{disks: map[asd.ID]objstore.Disk{diskID: disk}, owners: map[asd.ID]asd.ID{diskID: owner}}
	so.Host = h
	r := &rig{shelf: h, serve: so, node: credentials(t, ca, identity.Node, "a")}
	r.opts = Options{Credentials: credentials(t, ca, identity.Client, "fs"), Owner: owner, Timeout: time.Minute}
	r.start(t, loopback())
	t.Cleanup(r.stop)
	return r
}

// loopback is an address of the loopback network that no other process has: what listened there can listen there
// again.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
}

func (r *rig) start(t testing.TB, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r.opts.Address = l.Addr().String()
	r.server = NewServer(r.serve)
	r.mux = mux.New(mux.Options{Listener: l})
	r.mux.Handle(Protocol, mux.Service{TLS: r.node.ServerConfig(nil, Protocol), Serve: r.server.Serve})
	r.work.Go(r.mux.Run)
}

func (r *rig) stop() {
	_ = r.mux.Close() // closed again at the end of a test that stopped it
	r.work.Wait()
}

func (r *rig) open(t testing.TB) *Disk {
	t.Helper()
	d, err := Open(context.Background(), r.opts, diskID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestContract(t *testing.T) {
	disktest.Run(t, func(t testing.TB) objstore.Disk { return newRig(t, disktest.New(0), ServerOptions{}).open(t) })
}
