package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/cluster/mux"
)

// tryAs asks a node something with somebody's credentials, once.
func tryAs(t testing.TB, b *identity.Bundle, addr string) error {
	t.Helper()
	c, err := mux.Dial(within(t), addr, b.ClientConfig("", "h2"))
	if err != nil {
		return err
	}
	defer c.Close()
	// The server speaks first in neither protocol, but tells in TLS 1.3 that it refuses only now.
	return readSomething(c)
}

// readSomething returns nil when the peer keeps the connection open, or answers.
func readSomething(c *mux.Conn) error {
	// HTTP/2: the preface and an empty SETTINGS frame are answered with SETTINGS.
	_, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func bundleOf(t testing.TB, c *cluster.Client, name string, admin bool) *identity.Bundle {
	t.Helper()
	file, err := c.NewClient(within(t), name, admin)
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.ParseBundle(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	c := startTown(t, 1)
	addr := c.nodes["a"].Addr()
	for _, test := range []struct {
		admin bool
		want  error
	}{{false, cluster.ErrDenied}, {true, nil}} {
		b := bundleOf(t, c.admin(), "joe", test.admin)
		client, err := cluster.Dial(b)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Status(within(t)); err != nil {
			t.Errorf("status as %s: %v", client.Identity(), err)
		}
		if _, err := client.NewToken(within(t), cluster.TokenOptions{}); !errors.Is(err, test.want) {
			t.Errorf("a token for %s: %v", client.Identity(), err)
		}
		// A client is no node, whatever protocol it tries.
		if conn, err := mux.Dial(within(t), addr, b.ClientConfig("", "gabion-raft/1")); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a client speaks raft")
			}
			conn.Close()
		}
	}

	// Another cluster's client and node.
	other := newTown(t)
	other.found("a")
	for _, b := range []*identity.Bundle{bundleOf(t, other.admin(), "joe", true), other.nodes["a"].Bundle()} {
		if err := tryAs(t, b, addr); err == nil {
			t.Errorf("%s is admitted elsewhere", b.ID)
		}
		// And the other way: our nodes are none of theirs.
		if _, err := mux.Dial(within(t), addr, b.ClientConfig("", "h2")); !errors.Is(err, identity.ErrIdentity) {
			t.Errorf("%s trusts another cluster: %v", b.ID, err)
		}
	}
	// A node that answers where another one is meant.
	if _, err := mux.Dial(within(t), addr, c.nodes["a"].Bundle().ClientConfig("b", "h2")); !errors.Is(err, identity.ErrIdentity) {
		t.Errorf("a in the place of b: %v", err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	c := startTown(t, 1)
	join := func(id, token string) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return cluster.Join(ctx, cluster.JoinOptions{Dir: filepath.Join(c.dir, "join-"+id), ID: id, Token: token})
	}
	short := c.token(cluster.TokenOptions{TTL: time.Millisecond})
	time.Sleep(time.Second + 10*time.Millisecond) // expiry is in whole seconds
	if err := join("b", short); !errors.Is(err, cluster.ErrToken) {
		t.Errorf("an expired token: %v", err)
	}
	once := c.token(cluster.TokenOptions{})
	if err := join("c", once); err != nil {
		t.Fatal(err)
	}
	if err := join("d", once); !errors.Is(err, cluster.ErrToken) {
		t.Errorf("a token for one use, used twice: %v", err)
	}
	if err := join("c", c.token(cluster.TokenOptions{})); !errors.Is(err, cluster.ErrExists) {
		t.Errorf("join where a node lives: %v", err)
	}
	// The name of another node, with a good token.
	err := cluster.Join(within(t), cluster.JoinOptions{Dir: filepath.Join(c.dir, "thief"), ID: "c", Token: c.token(cluster.TokenOptions{})})
	if !errors.Is(err, cluster.ErrExists) {
		t.Errorf("the name of another node: %v", err)
	}
	// A token of another cluster, or one that was made up.
	other := newTown(t)
	other.found("a")
	stranger, err := identity.ParseToken(other.token(cluster.TokenOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	stranger.Addrs = []string{c.nodes["a"].Addr()}
	if err := join("e", stranger.String()); !errors.Is(err, identity.ErrIdentity) {
		t.Errorf("a token of another cluster: %v", err)
	}
	forged, _ := identity.ParseToken(once)
	forged.Secret = identity.NewSecret()
	if err := join("e", forged.String()); !errors.Is(err, cluster.ErrToken) {
		t.Errorf("a made-up secret: %v", err)
	}
	// One of the addresses leads elsewhere by now.
	moved, err := identity.ParseToken(c.token(cluster.TokenOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	moved.Addrs = append([]string{other.nodes["a"].Addr()}, moved.Addrs...)
	if err := join("f", moved.String()); err != nil {
		t.Errorf("a token whose first address is another cluster's: %v", err)
	}
}

// TestJoinAgain: an answer that is lost costs nothing; the node asks again with the same key.
func TestJoinAgain(t *testing.T) {
	t.Parallel()
	c := startTown(t, 1)
	token := c.token(cluster.TokenOptions{})
	dir := c.path("b")
	// As after a crash between the answer and the note of it: node.pem is missing, the key is there.
	if err := cluster.Join(within(t), cluster.JoinOptions{Dir: dir, ID: "b", Token: token}); err != nil {
		t.Fatal(err)
	}
	b, err := identity.ReadBundle(filepath.Join(dir, "node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	undo(t, dir, b)
	if err := cluster.Join(within(t), cluster.JoinOptions{Dir: dir, Token: token}); err != nil {
		t.Fatal(err)
	}
	again, err := identity.ReadBundle(filepath.Join(dir, "node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if again.ID != b.ID || bytes.Equal(again.Cert.Leaf.Raw, b.Cert.Leaf.Raw) {
		t.Errorf("joined again as %v", again.ID)
	}
	c.start("b")
	c.members(cluster.Directory, []string{"a", "b"}, nil)
	for _, n := range c.status().Nodes {
		if n.Node.Id == "b" && n.Node.State != clusterpb.NodeState_NODE_ACTIVE {
			t.Errorf("b is %v", n.Node.State)
		}
	}
}

// TestRevoke: a client that is revoked is refused by every node, on its open connections too, and nobody else is.
func TestRevoke(t *testing.T) {
	t.Parallel()
	c := startTown(t, 3)
	bundles := map[string]*identity.Bundle{}
	for _, name := range []string{"joe", "ann"} {
		bundles[name] = bundleOf(t, c.admin(), name, name == "ann")
	}
	open := map[string]*mux.Conn{}
	for id, n := range c.nodes {
		wait(t, "joe is let in by "+id, func() bool { return tryAs(t, bundles["joe"], n.Addr()) == nil })
		conn, err := mux.Dial(within(t), n.Addr(), bundles["joe"].ClientConfig("", "h2"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		open[id] = conn
	}
	if _, err := c.admin().RevokeClient(within(t), "jo", false); !errors.Is(err, cluster.ErrNoClient) {
		t.Errorf("a client that was never made: %v", err)
	}
	ann, err := cluster.Dial(bundles["ann"])
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	if _, err := ann.RevokeClient(within(t), "ann", false); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("ann revokes herself: %v", err)
	}
	for range 2 { // once more changes nothing
		if _, err := ann.RevokeClient(within(t), "joe", false); err != nil {
			t.Fatal(err)
		}
	}
	for id, n := range c.nodes { // each when it hears of it
		wait(t, id+" refuses joe", func() bool { return tryAs(t, bundles["joe"], n.Addr()) != nil })
		// What the server said before it closed may be read first.
		if err := open[id].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, open[id]); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s keeps the open connection of joe", id)
		}
		if err := tryAs(t, bundles["ann"], n.Addr()); err != nil {
			t.Errorf("%s refuses ann: %v", id, err)
		}
	}
	if _, err := ann.NewClient(within(t), "joe", false); !errors.Is(err, cluster.ErrRefused) {
		t.Errorf("the name of a revoked client: %v", err)
	}
	if _, err := ann.RevokeClient(within(t), "old", true); err != nil {
		t.Errorf("a client of which there is no row: %v", err)
	}
	list, err := ann.Clients(within(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, x := range list {
		got[x.Name] = x.RevokedUnix != 0
	}
	if want := map[string]bool{"ann": false, "joe": true, "old": true}; !maps.Equal(got, want) {
		t.Errorf("clients, and whether they are revoked: %v, want %v", got, want)
	}
	joe, err := cluster.Dial(bundles["joe"])
	if err != nil {
		t.Fatal(err)
	}
	defer joe.Close()
	if _, err := joe.Status(within(t)); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("status as joe: %v", err)
	}
}
