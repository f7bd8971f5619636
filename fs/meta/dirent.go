package meta

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/dchest/siphash"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// A row of the dirent keyspace:
//
//	key    [parent 8 BE] [cookie 8 BE] [name 1..255]
//	value  [version 1 << 4 | type of the inode, S_IFMT >> 12] [ino uvarint]
//
// The cookie is a hash of the name under the volume's key, so that a lookup is one read, a position in
// the directory outlives every change of other entries, and nobody can make names that collide. Where
// two names collide all the same (one in 10^9 directories of 100,000 entries has such a pair), both
// entries work; a reader that stops exactly between the two misses the second.
const (
	direntVersion = 1
	direntPrefix  = 8 + 8
	cookieMask    = 1<<63 - 1
	firstCookie   = 3 // 0, 1 and 2 belong to the exporter
)

// entry is the value of a dirent row.
type entry struct {
	ino fs.Ino
	typ uint32 // fs.TypeDir, ...
}

// checkName says whether a name can be an entry's.
func checkName(name string) error {
	if len(name) > fs.MaxName {
		return fs.ErrNameTooLong
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fs.ErrInvalid
	}
	return nil
}

// Cookie returns the position that an entry of this name has in any directory of the volume.
func (v *Volume) Cookie(name string) uint64 {
	k0 := binary.LittleEndian.Uint64(v.CookieKey[:8])
	k1 := binary.LittleEndian.Uint64(v.CookieKey[8:])
	h := siphash.Hash(k0, k1, []byte(name)) & cookieMask
	return max(h, firstCookie)
}

func (v *Volume) direntKey(parent fs.Ino, name string) []byte {
	k := make([]byte, 0, direntPrefix+len(name))
	k = binary.BigEndian.AppendUint64(k, uint64(parent))
	k = binary.BigEndian.AppendUint64(k, v.Cookie(name))
	return append(k, name...)
}

// direntRange selects the entries of dir with a cookie above after.
func direntRange(dir fs.Ino, after uint64) kv.Range {
	from := binary.BigEndian.AppendUint64(inodeKey(dir), after+1)
	return kv.Range{From: from, To: inodeKey(dir + 1)}
}

func encodeEntry(e entry) []byte {
	b := append(make([]byte, 0, 8), direntVersion<<4|byte(e.typ>>12))
	return binary.AppendUvarint(b, uint64(e.ino))
}

func decodeEntry(key, b []byte) (entry, error) {
	d := decoder{rest: b}
	head := d.byte()
	e := entry{typ: uint32(head&0xf) << 12, ino: fs.Ino(d.uvarint(uint64(maxIno), "inode number"))}
	switch {
	case d.reason != "":
	case head>>4 != direntVersion:
		d.fail("version")
	case !validType(e.typ):
		d.fail("type")
	case e.ino == 0:
		d.fail("inode number")
	case len(d.rest) != 0:
		d.fail("length")
	}
	if d.reason != "" {
		return entry{}, damaged(DirentKeyspace, key, "%s", d.reason)
	}
	return e, nil
}

func validType(t uint32) bool {
	switch t {
	case fs.TypeDir, fs.TypeRegular, fs.TypeSymlink, fs.TypeFifo, fs.TypeSocket, fs.TypeChar, fs.TypeBlock:
		return true
	}
	return false
}

// parseDirentKey takes the key of a dirent row apart. name shares memory with key.
func parseDirentKey(key []byte) (parent fs.Ino, cookie uint64, name []byte, err error) {
	if len(key) <= direntPrefix || len(key) > direntPrefix+fs.MaxName {
		return 0, 0, nil, damaged(DirentKeyspace, key, "a key of %d bytes", len(key))
	}
	if parent = inoOf(key); !validIno(parent) {
		return 0, 0, nil, damaged(DirentKeyspace, key, "inode number %d", parent)
	}
	return parent, binary.BigEndian.Uint64(key[8:]), key[direntPrefix:], nil
}

// getEntry reads one entry; fs.ErrNotExist (bare) when there is none.
func (v *Volume) getEntry(r kv.Reader, parent fs.Ino, name string) (entry, error) {
	key := v.direntKey(parent, name)
	b, err := r.Get(DirentKeyspace, key)
	if err != nil {
		if errors.Is(err, kv.ErrNotFound) {
			err = fs.ErrNotExist
		}
		return entry{}, err
	}
	return decodeEntry(key, b)
}

func (v *Volume) putEntry(t kv.Txn, parent fs.Ino, name string, in *Inode) {
	t.Put(DirentKeyspace, v.direntKey(parent, name), encodeEntry(entry{in.Ino, in.Mode & fs.TypeMask}))
}

func (v *Volume) deleteEntry(t kv.Txn, parent fs.Ino, name string) {
	t.Delete(DirentKeyspace, v.direntKey(parent, name))
}

// empty reports whether dir has no entries.
func empty(r kv.Reader, dir fs.Ino) (bool, error) {
	none := true
	g := direntRange(dir, 0)
	g.Limit = 1
	err := r.Range(DirentKeyspace, g, func(_, _ []byte) bool { none = false; return false })
	return none, err
}
