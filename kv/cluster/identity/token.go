package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"time"
)

// Token is the right to join a cluster as a node, and what is needed to use it safely: where the cluster
// is, and which authority its nodes must have. As one string it is
//
//	"gabion-token-" base64url of
//	0    version u8 = 1
//	1    cluster, 16 bytes
//	17   SHA-256 of the authority's certificate, 32 bytes
//	49   secret, 32 bytes
//	81   expiry in seconds since 1970, u64
//	89   number of addresses, u8, up to 16
//	90   each address: length u8, bytes
//	..   CRC-32C of all before u32
//
// Numbers are big endian. The cluster stores only the SHA-256 of the secret.
type Token struct {
	Cluster string
	CA      [32]byte // Fingerprint of the authority
	Secret  [32]byte
	Expires time.Time // whole seconds
	Addrs   []string  // host:port of some nodes
}

const (
	tokenPrefix  = "gabion-token-"
	tokenVersion = 1
	tokenFixed   = 90
	maxAddrs     = 16
	maxToken     = 8 << 10 // characters
)

// ErrToken matches every error of a string that is not a token.
var ErrToken = errors.New("not a valid token")

// NewSecret makes the secret of a token.
func NewSecret() (s [32]byte) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Hash is what the cluster remembers of the token.
func (t *Token) Hash() [32]byte { return sha256.Sum256(t.Secret[:]) }

func (t *Token) String() string {
	b := make([]byte, tokenFixed, 256)
	b[0] = tokenVersion
	cluster, _ := hex.DecodeString(t.Cluster)
	copy(b[1:17], cluster)
	copy(b[17:49], t.CA[:])
	copy(b[49:81], t.Secret[:])
	binary.BigEndian.PutUint64(b[81:], uint64(t.Expires.Unix()))
	n := 0
	for _, a := range t.Addrs {
		if n < maxAddrs && CheckAddr(a) == nil {
			b = append(b, byte(len(a)))
			b = append(b, a...)
			n++
		}
	}
	b[89] = byte(n)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ParseToken reads what String wrote.
func ParseToken(s string) (*Token, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) > maxToken {
		return nil, fmt.Errorf("%w: a token begins with %q and has at most %d characters", ErrToken, tokenPrefix, maxToken)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < tokenFixed+4 || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, fmt.Errorf("%w: it is incomplete or has characters that do not belong", ErrToken)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: it does not match its checksum; part of it may be missing", ErrToken)
	}
	if body[0] != tokenVersion {
		return nil, fmt.Errorf("%w: version %d, this release knows %d", ErrToken, body[0], tokenVersion)
	}
	seconds := binary.BigEndian.Uint64(body[81:])
	if seconds > 1<<40 {
		return nil, fmt.Errorf("%w: its expiry is out of range", ErrToken)
	}
	t := &Token{
		Cluster: hex.EncodeToString(body[1:17]), CA: [32]byte(body[17:49]), Secret: [32]byte(body[49:81]),
		Expires: time.Unix(int64(seconds), 0),
	}
	if t.Addrs, err = parseAddrs(body[tokenFixed:], int(body[89])); err != nil {
		return nil, err
	}
	return t, nil
}

func parseAddrs(b []byte, n int) (addrs []string, err error) {
	if n > maxAddrs {
		return nil, fmt.Errorf("%w: %d addresses, allowed are %d", ErrToken, n, maxAddrs)
	}
	for range n {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return nil, fmt.Errorf("%w: an address is cut off", ErrToken)
		}
		a := string(b[1 : 1+b[0]])
		if err := CheckAddr(a); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		addrs, b = append(addrs, a), b[1+len(a):]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrToken, len(b))
	}
	return addrs, nil
}

// CheckAddr says whether a is host:port, of at most 255 bytes, without anything unprintable in it.
func CheckAddr(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %.300q: %w", a, err)
	}
	if host == "" || port == "" || len(a) > 255 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }) {
		return fmt.Errorf("address %.300q: host:port is needed, in plain characters", a)
	}
	return nil
}

func selfSign(key *ecdsa.PrivateKey) ([]byte, error) {
	t := template(pkix.Name{CommonName: "gabion, not yet a node"})
	t.KeyUsage = x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}
