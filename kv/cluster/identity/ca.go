package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// validity is how long the certificates of a cluster hold, all until the same day: a cluster whose
// certificates ran out would stop all at once. A node or a client loses its rights by being removed, not by
// waiting.
//
// They hold since 1970, so that neither a node whose clock is behind is shut out, nor one whose certificate
// was issued while the issuer's clock was ahead.
const validity = 20 * 365 * 24 * time.Hour

// NewKey makes a private key for a certificate.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// CA is a cluster's certificate authority.
type CA struct {
	Cluster string
	Cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewCA makes the authority of a new cluster.
func NewCA(cluster string) (*CA, error) {
	if err := checkCluster(cluster); err != nil {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: "gabion cluster " + cluster})
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	t.URIs = []*url.URL{{Scheme: scheme, Host: cluster, Path: "/ca"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{Cluster: cluster, Cert: cert, key: key}, nil
}

func template(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      subject,
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Now().Add(validity),
	}
}

// Issue makes the certificate of id for the holder of the private key of pub.
func (a *CA) Issue(id ID, pub crypto.PublicKey) (*x509.Certificate, error) {
	if _, err := Parse(id.String()); err != nil {
		return nil, err
	}
	if id.Cluster != a.Cluster {
		return nil, fmt.Errorf("%w: %s is not of cluster %s", ErrIdentity, id, a.Cluster)
	}
	if k, ok := pub.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key of %s is not on the curve P-256", ErrIdentity, id)
	}
	t := template(pkix.Name{CommonName: id.Kind.String() + " " + id.Name})
	t.NotBefore, t.NotAfter = a.Cert.NotBefore, a.Cert.NotAfter
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.Kind == Node {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	t.URIs = []*url.URL{id.URI()}
	der, err := x509.CreateCertificate(rand.Reader, t, a.Cert, pub, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// New makes a key and its certificate.
func (a *CA) New(id ID) (*Credentials, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := a.Issue(id, key.Public())
	if err != nil {
		return nil, err
	}
	return NewCredentials(a.Cert, cert, key)
}

// Fingerprint names a certificate: the SHA-256 of it.
func Fingerprint(c *x509.Certificate) [32]byte { return sha256.Sum256(c.Raw) }

// KeyFingerprint names a public key.
func KeyFingerprint(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// The types of PEM blocks.
const (
	pemCert   = "CERTIFICATE"
	pemKey    = "PRIVATE KEY"
	pemBundle = "GABION BUNDLE"
)

// Marshal returns the authority with its private key, as PEM.
func (a *CA) Marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: a.Cert.Raw})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: key})...), nil
}

// ParseCA reads what Marshal wrote.
func ParseCA(b []byte) (*CA, error) {
	p, err := parsePEM(b)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if len(p.certs) != 1 || p.key == nil || !p.certs[0].IsCA || !p.key.PublicKey.Equal(p.certs[0].PublicKey) {
		return nil, errors.New("certificate authority: a certificate and its key are needed")
	}
	cluster, err := clusterOf(p.certs[0])
	if err != nil {
		return nil, err
	}
	return &CA{Cluster: cluster, Cert: p.certs[0], key: p.key}, nil
}

// clusterOf returns the cluster whose authority c is.
func clusterOf(c *x509.Certificate) (string, error) {
	if !c.IsCA || len(c.URIs) != 1 || c.URIs[0].Scheme != scheme || c.URIs[0].Path != "/ca" {
		return "", fmt.Errorf("%w: the certificate is not that of a cluster's authority", ErrIdentity)
	}
	if err := checkCluster(c.URIs[0].Host); err != nil {
		return "", fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return c.URIs[0].Host, nil
}

// maxPEM bounds a file of keys and certificates.
const maxPEM = 64 << 10

type pemParts struct {
	head  map[string]string
	certs []*x509.Certificate
	key   *ecdsa.PrivateKey
}

func parsePEM(b []byte) (p pemParts, err error) {
	if len(b) > maxPEM {
		return p, fmt.Errorf("%d bytes, allowed are %d", len(b), maxPEM)
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return p, nil
		}
		switch block.Type {
		case pemBundle:
			p.head = block.Headers
		case pemCert:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return p, err
			}
			p.certs = append(p.certs, c)
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return p, err
			}
			key, ok := k.(*ecdsa.PrivateKey)
			if !ok {
				return p, errors.New("the private key is of a kind that is not used here")
			}
			p.key = key
		}
	}
}
