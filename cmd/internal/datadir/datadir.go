// Package datadir owns the layout of gabion's data directory and the right to use it.
//
//	DIR/format        what the directory is: magic, version, cluster, disks, policies (below)
//	DIR/kv/           the key-value store, unless it is on a cluster
//	DIR/managers/     the stores of further namespace managers, by name
//	DIR/cluster.pem   then how to reach that cluster: a copy of the client's bundle
//	DIR/identity.pem  what is shown to the servers of disks of other processes, if not that bundle
//	DIR/asd-NN/       the disks that were made inside the directory
//	DIR/disks         where the disks are that are in use, see Places
//	DIR/keyring       a copy of the keyring of what is encrypted, itself sealed (objstore/crypt)
//	DIR/control.sock  the running process's control socket
//
// The format file:
//
//	+---------------------------------+
//	| "gabion-data " version "\n"     |  magic and version, a decimal number
//	+---------------------------------+
//	| JSON of Config, one line, "\n"  |
//	+---------------------------------+
//	| "crc32c " 8 hex digits "\n"     |  of everything above it
//	+---------------------------------+
//
// It is replaced by rename, so it is always whole. A directory is created in two steps: the file is
// written with State "creating", and again with State "ready" once every layer has been opened. What a
// crash leaves between the two holds no data; the next Create starts over.
//
// One process uses a directory at a time: it holds an exclusive flock on the directory itself.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore/remote"
)

// Errors of opening, to be matched with errors.Is.
var (
	// ErrAbsent: there is no data directory: it is missing or empty.
	ErrAbsent = errors.New("no gabion data here")
	// ErrForeign: the directory holds something that is not gabion's.
	ErrForeign = errors.New("not empty and not a gabion data directory")
	// ErrNewer: a newer gabion wrote it.
	ErrNewer = errors.New("written by a newer gabion")
	// ErrInUse: another process has it open.
	ErrInUse = errors.New("in use by another gabion process")
	// ErrDamaged: the format file does not decode.
	ErrDamaged = errors.New("the format file is damaged")
)

// Dir is a data directory that this process has locked. Not safe for concurrent use but for Path, KV,
// Control and Resolve.
type Dir struct {
	Path   string // absolute
	Config Config
	lock   *os.File
	fresh  bool // Create made the directory itself
}

// KV is the directory of the key-value store.
func (d *Dir) KV() string { return filepath.Join(d.Path, "kv") }

// Manager is the directory of the store of a namespace manager.
func (d *Dir) Manager(name string) string { return filepath.Join(d.Path, "managers", name) }

// Bundle is the file that says how to reach the cluster that Config.Remote is about.
func (d *Dir) Bundle() string { return filepath.Join(d.Path, bundleName) }

// Identity is the file with the bundle that is shown to the servers of disks of other processes.
func (d *Dir) Identity() string { return filepath.Join(d.Path, idName) }

// WriteIdentity replaces that file durably.
func (d *Dir) WriteIdentity(raw []byte) error { return d.replace(idName, raw) }

// WriteBundle replaces the bundle durably. It holds a private key: only its owner may read it.
func (d *Dir) WriteBundle(raw []byte) error { return d.replace(bundleName, raw) }

// Keyring returns the copy of the keyring, nil when there is none.
func (d *Dir) Keyring() ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(d.Path, keyringName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// WriteKeyring replaces the copy of the keyring durably.
func (d *Dir) WriteKeyring(raw []byte) error { return d.replace(keyringName, raw) }

// Resolve returns the absolute path of a folder that Config names.
func (d *Dir) Resolve(folder string) string {
	if filepath.IsAbs(folder) || remote.IsAddress(folder) {
		return folder
	}
	return filepath.Join(d.Path, folder)
}

// Probe reports what is at path without changing or locking anything: nil for a directory that Open
// would accept, else ErrAbsent, ErrForeign, ErrNewer, ErrDamaged or a system error, wrapped.
func Probe(path string) (Config, error) {
	names, err := entries(path)
	if err != nil {
		return Config{}, err
	}
	raw, err := os.ReadFile(filepath.Join(path, formatName))
	switch {
	case errors.Is(err, os.ErrNotExist) && onlyLeftovers(names):
		return Config{}, fmt.Errorf("%s: %w", path, ErrAbsent)
	case errors.Is(err, os.ErrNotExist):
		return Config{}, fmt.Errorf("%s: %w: it holds %q", path, ErrForeign, names[0])
	case err != nil:
		return Config{}, err
	}
	c, err := decode(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if c.State == Creating {
		return c, fmt.Errorf("%s: %w: its creation was interrupted", path, ErrAbsent)
	}
	return c, nil
}

// Open locks an existing data directory.
func Open(path string) (*Dir, error) {
	return enter(path, func(d *Dir) error {
		c, err := Probe(d.Path)
		d.Config = c
		return err
	})
}

// Create makes the data directory path with configuration c and locks it, or starts an interrupted
// creation over. The state is Creating until Finish.
func Create(path string, c Config) (*Dir, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	fresh := false
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err == nil {
		fresh = true
	} else if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	d, err := enter(path, func(d *Dir) error {
		_, err := Probe(d.Path)
		if err == nil {
			return fmt.Errorf("%s: already a gabion data directory", path)
		}
		if !errors.Is(err, ErrAbsent) {
			return err
		}
		if err := d.clear(); err != nil {
			return err
		}
		d.Config = c
		d.Config.State = Creating
		return d.write()
	})
	if err != nil {
		if fresh {
			os.Remove(path) // empty, or this does nothing
		}
		return nil, err
	}
	d.fresh = fresh
	return d, nil
}

// Finish marks the directory as ready: from now on it holds data.
func (d *Dir) Finish() error {
	if d.Config.State == Ready {
		return nil
	}
	return d.Update(func(c *Config) { c.State = Ready })
}

// Update changes the configuration durably.
func (d *Dir) Update(change func(*Config)) error {
	old := d.Config
	next := old.clone()
	change(&next)
	if err := next.validate(); err != nil {
		return err
	}
	d.Config = next
	if err := d.write(); err != nil {
		d.Config = old
		return err
	}
	return nil
}

// Abandon takes back a creation that was not finished, and unlocks. Folders outside the directory are
// not touched.
func (d *Dir) Abandon() error {
	if d.Config.State == Ready {
		return d.Close()
	}
	err := d.clear()
	if err == nil && d.fresh {
		err = os.Remove(d.Path)
	}
	return errors.Join(err, d.Close())
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// made matches the names that a creation makes, but for the format file.
var made = regexp.MustCompile(`^(kv|managers|asd-[0-9]{2}|control\.sock|format\.new|(cluster|identity)\.pem(\.new)?|keyring(\.new)?|disks(\.new)?)$`)

// clear removes what a creation makes. Only called while nothing was stored yet.
func (d *Dir) clear() error {
	names, err := entries(d.Path)
	if err != nil {
		return err
	}
	for _, n := range names {
		if made.MatchString(n) { // the marker goes last
			if err := os.RemoveAll(filepath.Join(d.Path, n)); err != nil {
				return err
			}
		}
	}
	err = os.Remove(filepath.Join(d.Path, formatName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// enter locks path and runs fn over it, unlocking again when fn fails.
func enter(path string, fn func(*Dir) error) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(abs)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", abs, ErrAbsent)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", abs, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", abs, err)
	}
	d := &Dir{Path: abs, lock: f}
	if err := fn(d); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// entries names what is in path, but for what a filesystem's root has by itself; an absent path is
// ErrAbsent.
func entries(path string) ([]string, error) {
	list, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrAbsent)
	}
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s: %w: it is a file", path, ErrForeign)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if e.Name() != "lost+found" {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// onlyLeftovers reports whether names can be left by a creation that was cut off before its marker.
func onlyLeftovers(names []string) bool {
	for _, n := range names {
		if n != formatName+".new" {
			return false
		}
	}
	return true
}
