package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv/cluster/identity"
)

func newCA(t testing.TB) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA(identity.NewClusterID())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *identity.CA, kind identity.Kind, name string) *identity.Credentials {
	t.Helper()
	c, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: kind, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shake makes a handshake over a pipe and returns what each side says.
func shake(t *testing.T, client, server *tls.Config) (cerr, serr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		err = s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	c := tls.Client(raw, client)
	cerr = c.Handshake()
	if cerr == nil { // in TLS 1.3 the server's refusal arrives with the first read
		_, cerr = c.Read(make([]byte, 1))
	} else {
		raw.Close()
	}
	return cerr, <-done
}

func TestHandshakes(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	// An authority that somebody else made under our cluster's name.
	fake, err := identity.NewCA(ca.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	a, b := issue(t, ca, identity.Node, "a"), issue(t, ca, identity.Node, "b")
	joe := issue(t, ca, identity.Client, "joe")
	onlyNodes := func(id identity.ID, _ *x509.Certificate) error {
		if id.Kind != identity.Node {
			return identity.ErrIdentity
		}
		return nil
	}
	for _, test := range []struct {
		what   string
		client *tls.Config
		server *tls.Config
		ok     bool
	}{
		{"node to node", a.ClientConfig("b", "h2"), b.ServerConfig(onlyNodes, "h2"), true},
		{"client to node", joe.ClientConfig("", "h2"), b.ServerConfig(nil, "h2"), true},
		{"to another node than was meant", a.ClientConfig("a", "h2"), b.ServerConfig(nil, "h2"), false},
		{"to a client that serves", a.ClientConfig("", "h2"), joe.ServerConfig(nil, "h2"), false},
		{"client where nodes are meant", joe.ClientConfig("", "h2"), b.ServerConfig(onlyNodes, "h2"), false},
		{"node of another cluster", issue(t, other, identity.Node, "a").ClientConfig("", "h2"), b.ServerConfig(nil, "h2"), false},
		{"of a made-up authority", issue(t, fake, identity.Node, "a").ClientConfig("", "h2"), b.ServerConfig(nil, "h2"), false},
		{"to a made-up authority", a.ClientConfig("b", "h2"), issue(t, fake, identity.Node, "b").ServerConfig(nil, "h2"), false},
		{"without a certificate", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}, b.ServerConfig(nil, "h2"), false},
		{"with TLS 1.2", func() *tls.Config {
			c := a.ClientConfig("b", "h2")
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), b.ServerConfig(nil, "h2"), false},
		{"of another protocol", a.ClientConfig("b", "smtp"), b.ServerConfig(nil, "h2"), false},
	} {
		cerr, serr := shake(t, test.client, test.server)
		if ok := cerr == nil && serr == nil; ok != test.ok {
			t.Errorf("%s: client says %v, server says %v", test.what, cerr, serr)
		}
	}
}

func TestJoinHandshake(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	self, err := identity.SelfSigned(key)
	if err != nil {
		t.Fatal(err)
	}
	token := &identity.Token{Cluster: ca.Cluster, CA: identity.Fingerprint(ca.Cert)}
	server := issue(t, ca, identity.Node, "a").Admitting("join")
	if cerr, serr := shake(t, identity.Asking(token, self, "join"), server); cerr != nil || serr != nil {
		t.Errorf("join: %v, %v", cerr, serr)
	}
	stranger := &identity.Token{Cluster: other.Cluster, CA: identity.Fingerprint(other.Cert)}
	if cerr, _ := shake(t, identity.Asking(stranger, self, "join"), server); !errors.Is(cerr, identity.ErrIdentity) {
		t.Errorf("join to another cluster than the token's: %v", cerr)
	}
	// What is good for joining is good for nothing else.
	strict := issue(t, ca, identity.Node, "a").ServerConfig(nil, "join")
	if _, serr := shake(t, identity.Asking(token, self, "join"), strict); serr == nil {
		t.Error("a self-signed certificate is admitted where it should not be")
	}
	client := issue(t, ca, identity.Client, "joe")
	if cerr, _ := shake(t, identity.Asking(token, self, "join"), client.Admitting("join")); !errors.Is(cerr, identity.ErrIdentity) {
		t.Errorf("join to a client: %v", cerr)
	}
}

func TestIssue(t *testing.T) {
	ca := newCA(t)
	key, _ := identity.NewKey()
	for _, id := range []identity.ID{
		{Cluster: identity.NewClusterID(), Kind: identity.Node, Name: "a"},
		{Cluster: ca.Cluster, Kind: identity.Node, Name: "A"},
		{Cluster: ca.Cluster, Kind: identity.Node, Name: "a/b"},
		{Cluster: ca.Cluster, Kind: identity.Node, Name: ""},
		{Cluster: ca.Cluster, Kind: 9, Name: "a"},
	} {
		if _, err := ca.Issue(id, key.Public()); !errors.Is(err, identity.ErrIdentity) {
			t.Errorf("a certificate for %v: %v", id, err)
		}
	}
	b, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := identity.ParseCA(b)
	if err != nil || again.Cluster != ca.Cluster {
		t.Fatalf("the authority read back: %v", err)
	}
	c := issue(t, again, identity.Node, "a")
	if c.ID.Name != "a" || !c.ID.MayAdminister() || issue(t, ca, identity.Client, "joe").ID.MayAdminister() {
		t.Errorf("issued %v", c.ID)
	}
	if _, err := identity.ParseCA(b[:len(b)/2]); err == nil {
		t.Error("half an authority was read")
	}
}

func TestBundleFile(t *testing.T) {
	ca := newCA(t)
	path := filepath.Join(t.TempDir(), "bundle")
	want := &identity.Bundle{Credentials: issue(t, ca, identity.Client, "joe"), Addrs: []string{"10.0.0.1:4000", "[::1]:2"}}
	if err := identity.WriteBundle(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := identity.ReadBundle(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != want.ID || strings.Join(got.Addrs, " ") != strings.Join(want.Addrs, " ") || !bytes.Equal(got.CA.Raw, want.CA.Raw) {
		t.Errorf("read %v %v", got.ID, got.Addrs)
	}
	// The parts of two bundles do not make one.
	mixed := &identity.Bundle{Credentials: issue(t, newCA(t), identity.Client, "joe")}
	mixed.CA = ca.Cert
	b, err := mixed.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.ParseBundle(b); !errors.Is(err, identity.ErrIdentity) {
		t.Errorf("a mixed bundle: %v", err)
	}
	key, _ := identity.NewKey()
	if err := identity.WriteKey(path, key); err != nil {
		t.Fatal(err)
	}
	if again, err := identity.ReadKey(path); err != nil || !again.Equal(key) {
		t.Errorf("the key read back: %v", err)
	}
	if _, err := identity.ReadBundle(path); err == nil {
		t.Error("a key was read as a bundle")
	}
}

func drawToken(t *rapid.T) *identity.Token {
	bytes32 := rapid.SliceOfN(rapid.Byte(), 32, 32)
	return &identity.Token{
		Cluster: identity.NewClusterID(),
		CA:      [32]byte(bytes32.Draw(t, "ca")), Secret: [32]byte(bytes32.Draw(t, "secret")),
		Expires: time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "expires"), 0),
		Addrs:   rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.]{1,20}:[0-9]{1,5}`), 0, 16).Draw(t, "addrs"),
	}
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawToken(t)
		s := want.String()
		got, err := identity.ParseToken(" " + s + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != s || got.Hash() != want.Hash() || !got.Expires.Equal(want.Expires) || len(got.Addrs) != len(want.Addrs) {
			t.Fatalf("%+v became %+v", want, got)
		}
		// One character wrong, or one missing, is noticed.
		i := rapid.IntRange(0, len(s)-1).Draw(t, "at")
		for _, bad := range []string{s[:i] + s[i+1:], s[:i] + "~" + s[i+1:], s[:i]} {
			if _, err := identity.ParseToken(bad); !errors.Is(err, identity.ErrToken) {
				t.Fatalf("%q: %v", bad, err)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add((&identity.Token{Cluster: identity.NewClusterID(), Expires: time.Unix(1, 0), Addrs: []string{"a:1", "b:2"}}).String())
	f.Add((&identity.Token{Cluster: identity.NewClusterID(), Expires: time.Unix(0, 0)}).String())
	whole := (&identity.Token{Cluster: identity.NewClusterID(), Expires: time.Unix(1, 0), Addrs: []string{"a:1"}}).String()
	f.Add(whole[:40] + "\n" + whole[40:])
	f.Add("gabion-token-")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := identity.ParseToken(s)
		if err != nil {
			if !errors.Is(err, identity.ErrToken) {
				t.Fatalf("%v", err)
			}
			return
		}
		if got := token.String(); got != strings.TrimSpace(s) {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

func FuzzBundle(f *testing.F) {
	ca, err := identity.NewCA(identity.NewClusterID())
	if err != nil {
		f.Fatal(err)
	}
	c, err := ca.New(identity.ID{Cluster: ca.Cluster, Kind: identity.Node, Name: "a"})
	if err != nil {
		f.Fatal(err)
	}
	b, err := (&identity.Bundle{Credentials: c, Addrs: []string{"a:1"}}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte("-----BEGIN GABION BUNDLE-----\nVersion: 1\n\n-----END GABION BUNDLE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := identity.ParseBundle(b)
		if err != nil {
			return
		}
		again, err := got.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.ParseBundle(again); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("gabion://0123456789abcdef0123456789abcdef/node/a")
	f.Add("gabion://0123456789abcdef0123456789abcdef/admin/joe-1.x")
	f.Add("gabion:///node/")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.Parse(s)
		if err != nil {
			if !errors.Is(err, identity.ErrIdentity) {
				t.Fatal(err)
			}
			return
		}
		if id.String() != s {
			t.Fatalf("%q became %q", s, id)
		}
	})
}
