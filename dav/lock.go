package dav

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// lock is one WebDAV lock. Its record in keyspace davlock:
//
//	key    'p' path 0x00 token(16)
//	value  "gdl" version(1) flags(1) expiry(8, ns since the epoch, big endian)
//	       len owner ... len user ...           (uvarint lengths)
//
// and, to find it by its token:
//
//	key    't' token(16)
//	value  path
type lock struct {
	token  token
	path   string
	shared bool
	deep   bool      // Depth: infinity
	expiry time.Time // it does not exist from then on
	owner  string    // the inner XML of DAV:owner, with its namespaces declared
	user   string    // who made it; only that user may use its token
}

// token is a random (version 4) UUID, written as a URN.
type token [16]byte

const tokenScheme = "urn:uuid:"

func newToken() token {
	var t token
	rand.Read(t[:]) // never fails
	t[6] = t[6]&0x0f | 0x40
	t[8] = t[8]&0x3f | 0x80
	return t
}

func (t token) String() string {
	h := hex.EncodeToString(t[:])
	return tokenScheme + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// parseToken reads what String wrote; anything else is no token of ours.
func parseToken(s string) (t token, ok bool) {
	if len(s) != len(tokenScheme)+36 || s[:len(tokenScheme)] != tokenScheme {
		return t, false
	}
	s = s[len(tokenScheme):]
	if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return t, false
	}
	n, err := hex.Decode(t[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	return t, err == nil && n == len(t) && t.String()[len(tokenScheme):] == s
}

const (
	lockMagic  = "gdl\x01"
	lockShared = 1
	lockDeep   = 2
)

var errBadRecord = errors.New("dav: a stored record is damaged")

func (l *lock) encode() []byte {
	var flags byte
	if l.shared {
		flags |= lockShared
	}
	if l.deep {
		flags |= lockDeep
	}
	b := append([]byte(lockMagic), flags)
	b = binary.BigEndian.AppendUint64(b, uint64(l.expiry.UnixNano()))
	b = appendString(b, l.owner)
	return appendString(b, l.user)
}

// decodeLock reads the record with the given key.
func decodeLock(key, value []byte) (l lock, err error) {
	i := bytes.IndexByte(key, 0)
	if i < 1 || key[0] != 'p' || len(key) != i+1+len(l.token) {
		return l, fmt.Errorf("%w: key of a lock %q", errBadRecord, key)
	}
	l.path = string(key[1:i])
	copy(l.token[:], key[i+1:])
	rest, ok := bytes.CutPrefix(value, []byte(lockMagic))
	if !ok || len(rest) < 9 {
		return l, fmt.Errorf("%w: lock on %q", errBadRecord, l.path)
	}
	l.shared, l.deep = rest[0]&lockShared != 0, rest[0]&lockDeep != 0
	l.expiry = time.Unix(0, int64(binary.BigEndian.Uint64(rest[1:])))
	var ok1, ok2 bool
	l.owner, rest, ok1 = cutString(rest[9:], maxOwner)
	l.user, rest, ok2 = cutString(rest, maxOwner)
	if !ok1 || !ok2 || len(rest) != 0 {
		return l, fmt.Errorf("%w: lock on %q", errBadRecord, l.path)
	}
	return l, nil
}

// appendString appends s after its length; cutString reads it back, refusing lengths over limit.
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func cutString(b []byte, limit int) (s string, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(limit) || n > uint64(len(b)-w) {
		return "", nil, false
	}
	return string(b[w : w+int(n)]), b[w+int(n):], true
}
