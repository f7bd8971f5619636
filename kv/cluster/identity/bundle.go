package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A bundle is everything that somebody needs to talk to a cluster, as one file of PEM blocks:
//
//	GABION BUNDLE   headers Version: 1, Identity: gabion://..., Addresses: host:port,host:port
//	CERTIFICATE     of the holder
//	CERTIFICATE     of the cluster's authority
//	PRIVATE KEY     of the holder
//
// It is the file of a client, and the file in which a node keeps its own identity.
type Bundle struct {
	*Credentials
	Addrs []string // of some nodes, host:port
}

const bundleVersion = "1"

// Marshal returns the bundle as a file.
func (b *Bundle) Marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(b.Cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, block := range []*pem.Block{
		{Type: pemBundle, Bytes: []byte("gabion"), Headers: map[string]string{
			"Version": bundleVersion, "Identity": b.ID.String(), "Addresses": strings.Join(b.Addrs, ",")}},
		{Type: pemCert, Bytes: b.Cert.Leaf.Raw},
		{Type: pemCert, Bytes: b.CA.Raw},
		{Type: pemKey, Bytes: key},
	} {
		out = append(out, pem.EncodeToMemory(block)...)
	}
	return out, nil
}

// ParseBundle reads what Marshal wrote.
func ParseBundle(data []byte) (*Bundle, error) {
	p, err := parsePEM(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("bundle: %w", err)
	case p.head == nil:
		return nil, errors.New("bundle: it does not hold the identity of a node or client")
	case p.head["Version"] != bundleVersion:
		return nil, fmt.Errorf("bundle: version %.20q, this release knows %s", p.head["Version"], bundleVersion)
	case len(p.certs) != 2 || p.key == nil:
		return nil, errors.New("bundle: two certificates and a key are needed")
	}
	c, err := NewCredentials(p.certs[1], p.certs[0], p.key)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	b := &Bundle{Credentials: c}
	for _, a := range strings.Split(p.head["Addresses"], ",") {
		if a == "" {
			continue
		}
		if err := CheckAddr(a); err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		b.Addrs = append(b.Addrs, a)
	}
	return b, nil
}

// ReadBundle reads a bundle's file.
func ReadBundle(path string) (*Bundle, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	b, err := ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// WriteBundle writes a bundle's file durably, for its owner's eyes only.
func WriteBundle(path string, b *Bundle) error {
	data, err := b.Marshal()
	if err != nil {
		return err
	}
	return WriteFile(path, data)
}

// WriteKey writes a private key durably, for its owner's eyes only.
func WriteKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}))
}

// ReadKey reads what WriteKey wrote.
func ReadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	p, err := parsePEM(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if p.key == nil {
		return nil, fmt.Errorf("%s: it holds no private key", path)
	}
	return p.key, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPEM+1))
}

// WriteFile creates or replaces a file whole or not at all, with mode 0600, and makes it durable.
func WriteFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
