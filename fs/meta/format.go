package meta

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// The format row, 8+1+16+8+16+32 = 81 bytes:
//
//	0        8         9      25            33             49         81
//	+--------+---------+------+-------------+--------------+----------+
//	| magic  | version | uuid | created     | cookie key   | secret   |
//	| GABIONFS  1      |      | ns, 8 BE    | SipHash-2-4  |          |
//	+--------+---------+------+-------------+--------------+----------+
const (
	formatMagic   = "GABIONFS"
	FormatVersion = 1
	formatSize    = 81
)

// inodeRange is how many inode numbers a tree reserves at once; a crash skips at most so many.
const inodeRange = 4096

var (
	formatKey = []byte("format")
	nextKey   = []byte("next")
	filesKey  = []byte("files")
)

// Volume is the identity of a volume, made by Format and never changed.
type Volume struct {
	UUID      [16]byte
	Created   time.Time
	CookieKey [16]byte // of the hash that directory cookies are made with
	Secret    [32]byte // random; other keys of the volume are derived from it
}

// String returns the UUID in its usual form.
func (v Volume) String() string {
	h := hex.EncodeToString(v.UUID[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// VersionError reports a volume whose format this program does not know.
type VersionError struct{ Found, Known int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the volume has format %d and this program knows up to %d: use a newer one", e.Found, e.Known)
}

// ErrNotFormatted: the store holds no volume.
var ErrNotFormatted = errors.New("the store holds no volume")

// FormatOptions of Format. The zero value is usable.
type FormatOptions struct {
	Clock    func() time.Time // nil is time.Now
	RootMode uint32           // permission bits of the root directory; 0 is 0755
	UID, GID uint32           // who owns it
}

// Format makes an empty volume in store and returns once it is durable. A store that holds one already
// is left as it is, and the error matches fs.ErrExist.
func Format(ctx context.Context, store kv.Store, o FormatOptions) (Volume, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	v := Volume{Created: time.Unix(0, o.Clock().UnixNano())}
	rand.Read(v.UUID[:])      // crypto/rand.Read never fails
	rand.Read(v.CookieKey[:]) //
	rand.Read(v.Secret[:])    //
	v.UUID[6] = v.UUID[6]&0x0f | 0x40
	v.UUID[8] = v.UUID[8]&0x3f | 0x80

	now := v.Created.UnixNano()
	root := Inode{Parent: fs.Root, Attr: fs.Attr{Ino: fs.Root, Mode: fs.TypeDir | o.RootMode&permMask,
		Nlink: 2, UID: o.UID, GID: o.GID, Size: dirSize, Blocks: dirBlocks,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Version: 1}}
	err := store.Update(ctx, kv.Durable, func(t kv.Txn) error {
		switch _, err := t.Get(VolumeKeyspace, formatKey); {
		case err == nil:
			return fs.ErrExist
		case !errors.Is(err, kv.ErrNotFound):
			return err
		}
		t.Put(VolumeKeyspace, formatKey, encodeVolume(v))
		putCounter(t, nextKey, uint64(fs.Root)+1)
		putCounter(t, filesKey, 1)
		PutInode(t, &root)
		return nil
	})
	if err != nil {
		return Volume{}, fmt.Errorf("format volume: %w", translate(err))
	}
	return v, nil
}

// GetVolume reads the identity of the volume: ErrNotFormatted when there is none, a *VersionError when
// it is of a newer format.
func GetVolume(r kv.Reader) (Volume, error) {
	b, err := r.Get(VolumeKeyspace, formatKey)
	if errors.Is(err, kv.ErrNotFound) {
		return Volume{}, ErrNotFormatted
	}
	if err != nil {
		return Volume{}, err
	}
	return decodeVolume(b)
}

func encodeVolume(v Volume) []byte {
	b := make([]byte, 0, formatSize)
	b = append(b, formatMagic...)
	b = append(b, FormatVersion)
	b = append(b, v.UUID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Created.UnixNano()))
	b = append(b, v.CookieKey[:]...)
	return append(b, v.Secret[:]...)
}

func decodeVolume(b []byte) (v Volume, err error) {
	if len(b) < len(formatMagic)+1 || string(b[:len(formatMagic)]) != formatMagic {
		return v, damaged(VolumeKeyspace, formatKey, "no magic")
	}
	if version := int(b[8]); version != FormatVersion {
		if version > FormatVersion {
			return v, &VersionError{Found: version, Known: FormatVersion}
		}
		return v, damaged(VolumeKeyspace, formatKey, "version %d", version)
	}
	if len(b) != formatSize {
		return v, damaged(VolumeKeyspace, formatKey, "%d bytes, not %d", len(b), formatSize)
	}
	copy(v.UUID[:], b[9:])
	v.Created = time.Unix(0, int64(binary.BigEndian.Uint64(b[25:])))
	copy(v.CookieKey[:], b[33:])
	copy(v.Secret[:], b[49:])
	return v, nil
}

func getCounter(r kv.Reader, key []byte) (uint64, error) {
	b, err := r.Get(VolumeKeyspace, key)
	if errors.Is(err, kv.ErrNotFound) {
		return 0, damaged(VolumeKeyspace, key, "missing")
	}
	if err != nil {
		return 0, err
	}
	n, size := binary.Uvarint(b)
	if size <= 0 || size != len(b) {
		return 0, damaged(VolumeKeyspace, key, "not a number")
	}
	return n, nil
}

func putCounter(t kv.Txn, key []byte, n uint64) {
	t.Put(VolumeKeyspace, key, binary.AppendUvarint(nil, n))
}

// addFiles changes the number of inodes. It is one more row in each create, which was measured to be
// worth an exact figure that every member and fsck can rely on: see ADR 0041.
func addFiles(t kv.Txn, delta int64) error {
	n, err := getCounter(t, filesKey)
	if err != nil {
		return err
	}
	if delta < 0 && n < uint64(-delta) {
		return damaged(VolumeKeyspace, filesKey, "%d inodes, fewer than are being dropped", n)
	}
	putCounter(t, filesKey, n+uint64(delta))
	return nil
}
