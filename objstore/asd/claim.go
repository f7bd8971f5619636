package asd

import (
	"context"
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

// A folder that is announced before it is claimed has an id already, in a file of its own:
//
//	 0        8     12    16               32     60     64
//	+--------+-----+-----+----------------+------+-----+
//	|"GBNASDID"| ver | 0 | ASD id (16)    | 0    | CRC |
//	+--------+-----+-----+----------------+------+-----+
//
// The claim is the format file, which link(2) makes appear whole, at once, and only if there is none. Releasing
// a claim begins with the renaming of the format file: from then on the folder belongs to nobody, and what
// is in it is removed before it can be claimed again. Both files have names that Format takes for leftovers.
const (
	idMagic      = "GBNASDID"
	idName       = formatTemp + "id"
	releasedName = formatTemp + "released"
)

// ClaimedError says that a folder belongs to a cluster already. It is ErrClaimed.
type ClaimedError struct {
	Dir   string
	ASD   ID
	Owner ID // the cluster
}

func (e *ClaimedError) Error() string {
	return fmt.Sprintf("asd %s: %v: it belongs to cluster %s, which must release it first", e.Dir, ErrClaimed, e.Owner)
}

// Is makes a ClaimedError ErrClaimed.
func (e *ClaimedError) Is(target error) bool { return target == ErrClaimed }

// Announce returns which ASD a folder holds, or will hold when it is claimed: then Cluster is zero. An empty
// folder, made when it is missing, gets its id now and keeps it. A release that was cut off is finished.
// Errors are of type *OpenError.
func Announce(dir string) (Identity, error) { return claimer{dir: dir}.announce() }

// Claim makes a folder that was announced the ASD id of a cluster, durably. A zero id accepts any. Of several
// callers one succeeds; the others, and all later ones, get a *ClaimedError. Other errors are of type *OpenError.
func Claim(dir string, id, cluster ID) (Identity, error) {
	return claimer{dir: dir}.claim(id, cluster)
}

// Release takes a claim of cluster back and empties the folder, which becomes another ASD, with an id that
// nobody has seen. It is refused with ErrNotEmpty while there are records in it, unless wipe, with ErrInUse while
// somebody has it open, and with a *ClaimedError when it belongs to another cluster. Released again it is
// ErrMissing.
func Release(ctx context.Context, dir string, cluster ID, wipe bool) error {
	return claimer{dir: dir}.release(ctx, cluster, wipe)
}

// claimer does the steps; at, unless nil, is called between them, for tests that stop there.
type claimer struct {
	dir string
	at  func(step string) error
}

func (c claimer) step(name string) error {
	if c.at == nil {
		return nil
	}
	return c.at(name)
}

func (c claimer) path(name string) string { return filepath.Join(c.dir, name) }

// locked runs fn while no other claimer is at work in the folder.
func (c claimer) locked(fn func() error) error {
	d, err := os.Open(c.dir)
	if err != nil {
		return missing(c.dir, err)
	}
	defer d.Close()
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		err = fn()
	}
	var oe *OpenError
	var ce *ClaimedError
	if err == nil || errors.As(err, &oe) || errors.As(err, &ce) {
		return err
	}
	return &OpenError{c.dir, err, "the claim cannot be changed"}
}

func (c claimer) announce() (id Identity, err error) {
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return id, &OpenError{c.dir, err, "cannot create the folder"}
	}
	err = c.locked(func() error {
		if err := c.finish(); err != nil {
			return err
		}
		id, err = Inspect(c.dir)
		if !errors.Is(err, ErrMissing) {
			return err
		}
		if err := checkEmpty(c.dir); err != nil {
			return err
		}
		id = Identity{Version: formatVersion}
		id.ASD, err = c.ensureID()
		return err
	})
	return id, err
}

func (c claimer) claim(want, cluster ID) (id Identity, err error) {
	if cluster.IsZero() {
		return id, &OpenError{c.dir, ErrInvalid, "the cluster id is zero"}
	}
	err = c.locked(func() error {
		if err := c.finish(); err != nil {
			return err
		}
		if err := c.claimed(); err != nil {
			return err
		}
		if err := checkEmpty(c.dir); err != nil {
			return err
		}
		id = Identity{Cluster: cluster, Version: formatVersion, Created: time.Unix(time.Now().Unix(), 0)}
		if id.ASD, err = c.ensureID(); err != nil {
			return err
		}
		if !want.IsZero() && want != id.ASD {
			return &OpenError{c.dir, ErrForeign, fmt.Sprintf("it is ASD %s, not %s", id.ASD, want)}
		}
		if err := c.step("claim"); err != nil {
			return err
		}
		err := writeFormat(c.dir, &id)
		if errors.Is(err, fs.ErrExist) {
			return errors.Join(c.claimed(), err) // by Format, which takes no lock
		}
		if err != nil {
			return err
		}
		if err := c.step("claimed"); err != nil {
			return err
		}
		if err := os.Remove(c.path(idName)); err != nil {
			return err
		}
		return syncDir(c.dir)
	})
	return id, err
}

// claimed returns a *ClaimedError when the folder belongs to somebody.
func (c claimer) claimed() error {
	id, err := Inspect(c.dir)
	switch {
	case errors.Is(err, ErrMissing):
		return nil
	case err != nil:
		return err
	}
	return &ClaimedError{c.dir, id.ASD, id.Cluster}
}

// ensureID returns the id that the folder will have, and gives it one.
func (c claimer) ensureID() (id ID, err error) {
	b, err := os.ReadFile(c.path(idName))
	if err == nil && len(b) == formatSize && string(b[:8]) == idMagic && le.Uint32(b[8:]) == formatVersion &&
		crc32.Checksum(b[:60], castagnoli) == le.Uint32(b[60:]) {
		return ID(b[16:32]), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	return c.newID()
}

// newID gives the folder an id that was never used; it means nothing until a claim, so a damaged one is replaced.
func (c claimer) newID() (id ID, err error) {
	rand.Read(id[:]) // never fails
	b := make([]byte, formatSize)
	copy(b, idMagic)
	le.PutUint32(b[8:], formatVersion)
	copy(b[16:], id[:])
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	f, err := os.CreateTemp(c.dir, formatTemp)
	if err != nil {
		return id, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return id, err
	}
	if err := os.Rename(f.Name(), c.path(idName)); err != nil {
		return id, err
	}
	return id, syncDir(c.dir)
}

func (c claimer) release(ctx context.Context, cluster ID, wipe bool) error {
	return c.locked(func() error {
		if err := c.finish(); err != nil {
			return err
		}
		lock, err := c.vacate(ctx, cluster, wipe)
		if err != nil {
			return err
		}
		defer lock.Close()
		if err := c.step("release"); err != nil {
			return err
		}
		if err := os.Rename(c.path(formatName), c.path(releasedName)); err != nil {
			return err
		}
		if err := errors.Join(syncDir(c.dir), c.step("released")); err != nil {
			return err
		}
		return c.finish()
	})
}

// vacate sees to it that nobody has the folder open and that it may be emptied. The file that it returns keeps
// others from opening it.
func (c claimer) vacate(ctx context.Context, cluster ID, wipe bool) (*os.File, error) {
	id, err := Inspect(c.dir)
	if err != nil {
		return nil, err
	}
	if id.Cluster != cluster {
		return nil, &ClaimedError{c.dir, id.ASD, id.Cluster}
	}
	if wipe {
		return lockFormat(c.dir)
	}
	a, err := Open(ctx, c.dir, Options{Cluster: cluster})
	if err != nil {
		return nil, err
	}
	n := a.Stat().Records
	// The lock belongs to the open file, whichever descriptor holds it.
	fd, err := unix.FcntlInt(a.lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	lock := os.NewFile(uintptr(fd), a.lock.Name())
	err = a.Close()
	if err == nil && n > 0 {
		err = &OpenError{c.dir, ErrNotEmpty, fmt.Sprintf("it holds %d records: drain the disk first, or wipe it", n)}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// finish completes a release that has begun, however far it came.
func (c claimer) finish() error {
	if _, err := os.Lstat(c.path(releasedName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, name := range []string{segmentsName, indexName, indexName + ".rebuild", ballastName} {
		if err := os.RemoveAll(c.path(name)); err != nil {
			return err
		}
		if err := c.step("removed " + name); err != nil {
			return err
		}
	}
	if err := syncDir(c.dir); err != nil {
		return err
	}
	if _, err := c.newID(); err != nil {
		return err
	}
	if err := c.step("new id"); err != nil {
		return err
	}
	if err := os.Remove(c.path(releasedName)); err != nil {
		return err
	}
	return syncDir(c.dir)
}
