package asd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	formatMagic   = "GBNASDFM"
	formatVersion = 1
	formatSize    = 64
	formatName    = "format"
	segmentsName  = "segments"
	indexName     = "index"
)

// Identity is what the format file of a folder says.
type Identity struct {
	ASD     ID
	Cluster ID
	Version uint32 // of the format
	Created time.Time
}

// Format claims an empty folder for a cluster and returns the id of the new ASD. The folder is created
// when it is missing; its parent must exist. A lost+found folder in it, as on a fresh ext4, does not matter. Of
// several callers that claim the same folder at the same time one succeeds and the others get ErrClaimed.
// Errors are of type *OpenError.
func Format(dir string, cluster ID) (ID, error) {
	if cluster.IsZero() {
		return ID{}, &OpenError{dir, ErrInvalid, "the cluster id is zero"}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return ID{}, &OpenError{dir, err, "cannot create the folder"}
	}
	if err := checkEmpty(dir); err != nil {
		return ID{}, err
	}
	id := Identity{Cluster: cluster, Version: formatVersion, Created: time.Unix(time.Now().Unix(), 0)}
	rand.Read(id.ASD[:])
	if err := writeFormat(dir, &id); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return ID{}, &OpenError{dir, ErrClaimed, "another process was faster; use a different folder"}
		}
		return ID{}, &OpenError{dir, err, "cannot write the format file"}
	}
	return id.ASD, nil
}

func checkEmpty(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return &OpenError{dir, err, "cannot read the folder"}
	}
	for _, e := range list {
		switch name := e.Name(); {
		case name == formatName:
			hint := "open it instead, or use a different folder"
			if id, err := Inspect(dir); err == nil {
				hint = fmt.Sprintf("it holds ASD %s of cluster %s; %s", id.ASD, id.Cluster, hint)
			}
			return &OpenError{dir, ErrClaimed, hint}
		case name == "lost+found", len(name) > len(formatTemp) && name[:len(formatTemp)] == formatTemp:
		default:
			return &OpenError{dir, ErrNotEmpty, fmt.Sprintf("it holds %q; use an empty folder", name)}
		}
	}
	return nil
}

const formatTemp = ".format-"

// writeFormat makes the file appear whole, at once, and only if there is none.
func writeFormat(dir string, id *Identity) error {
	f, err := os.CreateTemp(dir, formatTemp)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(id.encode()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), filepath.Join(dir, formatName)); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

func (id *Identity) encode() []byte {
	b := make([]byte, formatSize)
	copy(b, formatMagic)
	le.PutUint32(b[8:], id.Version)
	copy(b[16:], id.ASD[:])
	copy(b[32:], id.Cluster[:])
	le.PutUint64(b[48:], uint64(id.Created.Unix()))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeFormat(b []byte) (*Identity, error) {
	if len(b) < 12 || string(b[:8]) != formatMagic {
		return nil, bad("it does not begin as a format file")
	}
	id := &Identity{Version: le.Uint32(b[8:])}
	sum := len(b) == formatSize && crc32.Checksum(b[:60], castagnoli) == le.Uint32(b[60:])
	if id.Version > formatVersion && (sum || len(b) != formatSize) {
		return id, ErrNewer
	}
	if !sum || id.Version == 0 {
		return nil, bad("it fails its checksum")
	}
	copy(id.ASD[:], b[16:])
	copy(id.Cluster[:], b[32:])
	id.Created = time.Unix(int64(le.Uint64(b[48:])), 0)
	return id, nil
}

// Inspect reads which ASD a folder holds, without opening it. Errors are of type *OpenError.
func Inspect(dir string) (Identity, error) {
	f, err := os.Open(filepath.Join(dir, formatName))
	if err != nil {
		return Identity{}, missing(dir, err)
	}
	defer f.Close()
	return readFormat(dir, f)
}

func missing(dir string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return &OpenError{dir, err, "cannot read the format file"}
	}
	if _, serr := os.Stat(dir); serr != nil {
		return &OpenError{dir, ErrMissing, "the folder does not exist; is the disk mounted?"}
	}
	return &OpenError{dir, ErrMissing, "the folder has no format file; is the disk mounted? An empty folder must be claimed first"}
}

func readFormat(dir string, f *os.File) (Identity, error) {
	b := make([]byte, formatSize+1)
	n, err := f.ReadAt(b, 0)
	if n == 0 && err != nil && !isEOF(err) {
		return Identity{}, &OpenError{dir, err, "cannot read the format file"}
	}
	id, err := decodeFormat(b[:n])
	if errors.Is(err, ErrNewer) {
		return Identity{}, &OpenError{dir, ErrNewer,
			fmt.Sprintf("format version %d, this program knows up to %d; use a later gabion", id.Version, formatVersion)}
	}
	if err != nil {
		return Identity{}, &OpenError{dir, ErrDamaged,
			fmt.Sprintf("the format file: %v; restore it from a copy, or treat the disk as lost and claim an empty folder", err)}
	}
	return *id, nil
}

// lockFormat opens and locks the format file. The lock lasts until the file is closed, or the process dies.
func lockFormat(dir string) (*os.File, error) {
	f, err := os.Open(filepath.Join(dir, formatName))
	if err != nil {
		return nil, missing(dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &OpenError{dir, ErrInUse, "stop " + holder(dir) + ", or use a different folder"}
		}
		return nil, &OpenError{dir, err, "cannot lock the format file"}
	}
	// Until it was locked, the claim may have been released, and the folder emptied.
	mine, err := f.Stat()
	if there, serr := os.Stat(f.Name()); err == nil && (serr != nil || !os.SameFile(mine, there)) {
		f.Close()
		return nil, &OpenError{dir, ErrMissing, "its claim was released just now"}
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
