package cluster_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
)

// blackhole forwards connections to a node until it is shut: then it takes everything and passes nothing
// on, in either direction, and closes nothing. That is a peer whose packets are lost.
type blackhole struct {
	net.Listener

	mu    sync.Mutex
	to    string
	shut  chan struct{} // not nil while nothing passes; closed when it is opened again
	conns []net.Conn
	work  sync.WaitGroup
}

func dig(t *testing.T) *blackhole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &blackhole{Listener: l}
	h.work.Go(h.run)
	t.Cleanup(func() {
		l.Close()
		h.open()
		h.mu.Lock()
		for _, c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		h.work.Wait()
	})
	return h
}

func (h *blackhole) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut = make(chan struct{})
}

func (h *blackhole) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shut != nil {
		close(h.shut)
		h.shut = nil
	}
}

func (h *blackhole) gate() {
	h.mu.Lock()
	shut := h.shut
	h.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func (h *blackhole) run() {
	for {
		in, err := h.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.conns = append(h.conns, in)
		h.mu.Unlock()
		h.work.Go(func() {
			defer in.Close()
			h.gate()
			h.mu.Lock()
			to := h.to
			h.mu.Unlock()
			out, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns = append(h.conns, out)
			h.mu.Unlock()
			h.work.Go(func() { defer out.Close(); h.copy(out, in) })
			h.copy(in, out)
		})
	}
}

func (h *blackhole) copy(to io.WriteCloser, from io.Reader) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		h.gate()
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// TestSilentPeer: a node that can be written to but never answers holds up neither the stores that it is
// in, nor others, nor the administration; when it is heard again it catches up.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	c := newTown(t)
	hole := dig(t)
	c.edit = func(id string, o *cluster.Options) {
		if id == "c" {
			o.Advertise = hole.Addr().String()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			o.Listener = l
			hole.mu.Lock()
			hole.to = l.Addr().String()
			hole.mu.Unlock()
		}
	}
	c.grow(3)
	c.create("three")
	c.create("two", "a", "b")
	c.put("three", "x", "1")
	c.put("two", "x", "1")
	c.shows("c", "three", "x", "1")
	// The others lead: c can still send, and would go on leading what it leads.
	if err := c.admin().SetPreferred(within(t), "three", []string{"a"}); err != nil {
		t.Fatal(err)
	}
	if err := c.admin().TransferLeader(within(t), cluster.Directory, "a"); err != nil {
		t.Fatal(err)
	}
	wait(t, "a leads", func() bool { id, _ := c.leader("three"); return id == "a" })

	hole.close()
	for _, store := range []string{"two", "three"} {
		c.put(store, "x", "2")
		c.shows("a", store, "x", "2")
		c.shows("b", store, "x", "2")
	}
	wait(t, "the status shows who does not answer", func() bool {
		st, err := c.nodes["a"].Admin().Status(within(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range st.Nodes {
			if n.Reachable != (n.Node.Id != "c") {
				return false // a or b may be slow to answer
			}
		}
		return true
	})
	// Membership changes too.
	c.join("d")
	if err := c.nodes["a"].Admin().ReplaceNode(within(t), "c", "d"); err != nil {
		t.Fatal(err)
	}
	// c asks for votes: with its log behind and others leading it gets none.
	wait(t, "d has taken the place of c", func() bool {
		_, s := c.leader("three")
		got := map[string]bool{}
		for _, m := range s.Members() {
			got[m.ID] = m.Voter
		}
		return len(got) == 3 && got["a"] && got["b"] && got["d"]
	})
	c.put("three", "x", "3")
	c.shows("d", "three", "x", "3")
	hole.open()
	select {
	case <-c.nodes["c"].Done():
	case <-within(t).Done():
		t.Error("the node that was replaced does not notice")
	}
}

// TestNoQuorum: with the quorum gone a write fails within its deadline.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	c.create("s")
	c.put("s", "x", "1")
	client := dialKV(t, bundleOf(t, c.admin(), "joe", false))
	c.kill("b")
	c.kill("c")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := client.Store("s").Set(ctx, kv.Durable, "k", []byte("x"), []byte("2")); err == nil {
		t.Error("a write without a quorum was acknowledged")
	}
	c.start("b")
	c.put("s", "x", "3")
}
