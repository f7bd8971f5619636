// Package identity says who is who in a cluster: the certificate authority, the certificates of nodes and
// clients, the token with which a new node gets its own, and the file that carries a client's.
//
// A cluster has one certificate authority, made when the cluster is. Who somebody is stands in one URI of
// the certificate's alternative names, and nowhere else:
//
//	gabion://CLUSTER/node/ID        a node; it may do everything
//	gabion://CLUSTER/client/NAME    a client; it may use the stores
//	gabion://CLUSTER/admin/NAME     a client that may also administer the cluster
//
// CLUSTER is 16 random bytes in hex. Every connection is TLS 1.3 with certificates on both sides. Both
// sides check the chain, the cluster and the name before a byte of what comes after is decoded; a
// certificate of another cluster's authority, or of another cluster with a stolen authority's name, is
// refused in the handshake.
//
// What the package promises rests on the private keys being private: it writes them with mode 0600 and
// never logs them.
package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Kind is what a certificate is for.
type Kind uint8

// The kinds of certificate.
const (
	Node Kind = iota + 1
	Client
	Admin
)

func (k Kind) String() string {
	switch k {
	case Node:
		return "node"
	case Client:
		return "client"
	case Admin:
		return "admin"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

func parseKind(s string) (Kind, bool) {
	for _, k := range []Kind{Node, Client, Admin} {
		if s == k.String() {
			return k, true
		}
	}
	return 0, false
}

// ID is who a certificate belongs to.
type ID struct {
	Cluster string // 32 hex digits
	Kind    Kind
	Name    string // see CheckName
}

// URI returns the form that stands in the certificate.
func (i ID) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: i.Cluster, Path: "/" + i.Kind.String() + "/" + i.Name}
}

func (i ID) String() string { return i.URI().String() }

// MayAdminister says whether the cluster's administration is open to i.
func (i ID) MayAdminister() bool { return i.Kind == Node || i.Kind == Admin }

const (
	scheme     = "gabion"
	maxName    = 63
	clusterLen = 16 // bytes
)

// ErrIdentity matches every error that says that somebody is not who they would have to be.
var ErrIdentity = errors.New("identity refused")

// CheckName says whether s can name a node, a client or a store: [a-z0-9][a-z0-9.-]{0,62}.
func CheckName(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("name %.80q has %d characters, allowed are 1 to %d", s, len(s), maxName)
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '.')
		if !ok {
			return fmt.Errorf("name %q: allowed are small letters, digits, and after the first one also a dash or a dot", s)
		}
	}
	return nil
}

// NewClusterID returns the name of a new cluster.
func NewClusterID() string {
	var b [clusterLen]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func checkCluster(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != clusterLen || s != strings.ToLower(s) {
		return fmt.Errorf("cluster %.80q is not %d hex digits", s, 2*clusterLen)
	}
	return nil
}

// Parse reads the form that URI writes.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, scheme+"://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return ID{}, fmt.Errorf("%w: %.200q does not name a node or client of a cluster", ErrIdentity, s)
	}
	kind, ok := parseKind(parts[1])
	if !ok {
		return ID{}, fmt.Errorf("%w: %.200q has an unknown kind", ErrIdentity, s)
	}
	if err := errors.Join(checkCluster(parts[0]), CheckName(parts[2])); err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return ID{Cluster: parts[0], Kind: kind, Name: parts[2]}, nil
}

// FromCertificate returns who the certificate belongs to. It does not verify the certificate.
func FromCertificate(c *x509.Certificate) (ID, error) {
	if len(c.URIs) != 1 {
		return ID{}, fmt.Errorf("%w: the certificate has %d names, one is needed", ErrIdentity, len(c.URIs))
	}
	return Parse(c.URIs[0].String())
}
