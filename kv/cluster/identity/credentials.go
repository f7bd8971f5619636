package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Credentials are a certificate with its private key, and the authority that it and its peers come from.
// They do not change; safe for concurrent use.
type Credentials struct {
	ID   ID
	CA   *x509.Certificate
	Cert tls.Certificate // the chain ends with the CA
}

// NewCredentials checks that the parts belong together.
func NewCredentials(ca, cert *x509.Certificate, key *ecdsa.PrivateKey) (*Credentials, error) {
	cluster, err := clusterOf(ca)
	if err != nil {
		return nil, err
	}
	id, err := FromCertificate(cert)
	if err != nil {
		return nil, err
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("%w: the certificate of %s is not from its cluster: %w", ErrIdentity, id, err)
	}
	if id.Cluster != cluster || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: certificate, key and authority of %s do not belong together", ErrIdentity, id)
	}
	return &Credentials{ID: id, CA: ca, Cert: tls.Certificate{
		Certificate: [][]byte{cert.Raw, ca.Raw}, PrivateKey: key, Leaf: cert,
	}}, nil
}

// Checker decides whether a peer whose certificate is in order may connect.
type Checker func(peer ID, cert *x509.Certificate) error

// verify checks the chain of a peer and returns who it is.
func (c *Credentials) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage) (ID, error) {
	if len(certs) == 0 {
		return ID{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.CA)
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: time.Now(),
	})
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	id, err := FromCertificate(certs[0])
	if err != nil {
		return ID{}, err
	}
	if id.Cluster != c.ID.Cluster {
		return ID{}, fmt.Errorf("%w: %s is of another cluster", ErrIdentity, id)
	}
	return id, nil
}

// ServerConfig returns the configuration for accepting peers of the cluster that check (when not nil)
// admits. Protocols are ALPN names.
func (c *Credentials) ServerConfig(check Checker, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Cert},
		NextProtos:             protocols,
		ClientAuth:             tls.RequireAnyClientCert, // VerifyConnection checks it
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := c.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth)
			if err == nil && check != nil {
				err = check(id, s.PeerCertificates[0])
			}
			return err
		},
	}
}

// ClientConfig returns the configuration for dialling the node of that ID, or any node of the cluster
// when it is empty.
func (c *Credentials) ClientConfig(node string, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{c.Cert},
		NextProtos:   protocols,
		// The name of a node is in its certificate's URI, not its address: the package verifies it.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := c.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth)
			switch {
			case err != nil:
				return err
			case id.Kind != Node:
				return fmt.Errorf("%w: %s is not a node", ErrIdentity, id)
			case node != "" && id.Name != node:
				return fmt.Errorf("%w: node %s answers at the address of node %s", ErrIdentity, id.Name, node)
			}
			return nil
		},
	}
}

// Peer returns who is at the other end of a connection whose handshake is done under one of the
// configurations above.
func Peer(s tls.ConnectionState) (ID, error) {
	if !s.HandshakeComplete || len(s.PeerCertificates) == 0 {
		return ID{}, fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	return FromCertificate(s.PeerCertificates[0])
}

// Admitting returns the configuration for accepting somebody who has no certificate of the cluster yet
// but can prove, with a token, the right to one: any certificate will do, because it only carries the key
// that the new certificate will be for.
func (c *Credentials) Admitting(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c.Cert},
		NextProtos:             []string{protocol},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
	}
}

// Asking is the other side of Admitting: cert is the self-signed certificate of the key that wants to be
// certified, and the peer must be a node of the cluster that the token names.
func Asking(t *Token, cert tls.Certificate, protocol string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{cert},
		NextProtos:         []string{protocol},
		InsecureSkipVerify: true, // verified below: the token knows the authority only by its fingerprint
		VerifyConnection: func(s tls.ConnectionState) error {
			ca, err := authority(s, t.CA)
			if err != nil {
				return err
			}
			self := &Credentials{ID: ID{Cluster: t.Cluster}, CA: ca}
			id, err := self.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth)
			if err == nil && id.Kind != Node {
				err = fmt.Errorf("%w: %s is not a node", ErrIdentity, id)
			}
			return err
		},
	}
}

// authority finds the certificate with that fingerprint in what the peer sent.
func authority(s tls.ConnectionState, fingerprint [32]byte) (*x509.Certificate, error) {
	for _, c := range s.PeerCertificates {
		if Fingerprint(c) == fingerprint {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: the peer is not of the cluster that the token is for", ErrIdentity)
}

// Authority returns the certificate of the authority that the peer sent, when it has that fingerprint.
func Authority(s tls.ConnectionState, fingerprint [32]byte) (*x509.Certificate, error) {
	return authority(s, fingerprint)
}

// SelfSigned wraps a key in a certificate that says nothing.
func SelfSigned(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	if key == nil {
		return tls.Certificate{}, errors.New("no key")
	}
	der, err := selfSign(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
