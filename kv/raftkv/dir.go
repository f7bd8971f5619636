package raftkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
)

const (
	lockFile      = "LOCK"
	formatFile    = "format"
	formatMagic   = "gabionkv"
	formatVersion = 1
	maxID         = 255
)

// LockedError reports that another process, or another store of this one, has the directory open.
type LockedError struct{ Dir string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("raftkv: %s is in use by another process", e.Dir)
}

// VersionError reports a directory that a newer release has written.
type VersionError struct {
	File         string
	Found, Known uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("raftkv: %s has format version %d, this release knows up to %d: use a newer release", e.File, e.Found, e.Known)
}

// IDError reports a directory that belongs to another member.
type IDError struct{ Dir, Found, Want string }

func (e *IDError) Error() string {
	return fmt.Sprintf("raftkv: %s belongs to member %q, not to %q", e.Dir, e.Found, e.Want)
}

// prepareDir creates dir when it is absent, and reports whether it holds no store yet.
func prepareDir(dir string) (fresh bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("raftkv: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("raftkv: %w", err)
	}
	for _, e := range entries {
		// A crash during the creation leaves the lock and perhaps half of the format file.
		if n := e.Name(); n != lockFile && n != formatFile+".new" {
			return false, nil
		}
	}
	return true, nil
}

// lockDir takes the lock that one open store has on its directory.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("raftkv: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &LockedError{Dir: dir}
		}
		return nil, fmt.Errorf("raftkv: lock %s: %w", dir, err)
	}
	return f, nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// checkFormat writes the format file of a new store, or reads that of an existing one.
//
//	0   magic "gabionkv"
//	8   version u32
//	12  length of the member's ID u32
//	16  ID
//	..  CRC-32C of all before u32
func checkFormat(dir, id string, fresh bool) error {
	path := filepath.Join(dir, formatFile)
	if fresh {
		if len(id) > maxID {
			return fmt.Errorf("raftkv: an ID of %d bytes, allowed are %d", len(id), maxID)
		}
		b := binary.LittleEndian.AppendUint32([]byte(formatMagic), formatVersion)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(id)))
		b = append(b, id...)
		return writeFileDurably(path, binary.LittleEndian.AppendUint32(b, crc(b)))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return &kv.CorruptError{What: path, Err: err}
	}
	got, err := parseFormat(path, b)
	if err != nil {
		return err
	}
	if got != id {
		return &IDError{Dir: dir, Found: got, Want: id}
	}
	return nil
}

func parseFormat(path string, b []byte) (id string, err error) {
	damaged := func(why string) (string, error) {
		return "", &kv.CorruptError{What: path, Err: errors.New(why)}
	}
	if len(b) < 20 || string(b[:8]) != formatMagic {
		return damaged("it does not begin like a format file")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc(body) != sum {
		return damaged("it does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return "", &VersionError{File: path, Found: v, Known: formatVersion}
	}
	if n := binary.LittleEndian.Uint32(b[12:]); n > maxID || int(n) != len(body)-16 {
		return damaged("the member's ID has the wrong length")
	}
	return string(body[16:]), nil
}

// writeFileDurably creates the file whole or not at all.
func writeFileDurably(path string, b []byte) (err error) {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func statFile(path string) (size int64, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}
