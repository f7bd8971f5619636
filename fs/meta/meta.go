// Package meta keeps the namespace of a volume: inodes, directory entries, symlinks, extended
// attributes and orphans, as transactions over the keyspaces of a kv.Store.
//
// What it promises, when the store keeps the contract of package kv:
//
//   - Every method that changes something is one kv.Ordered update. It is evaluated under the store's
//     own serialisation, so this package has no locks around the tree, and a crash leaves a prefix of
//     the operations, each whole.
//   - The invariants that Check tests hold in every state that a crash can leave: each entry names an
//     inode, link counts are right, directories form one tree, an inode without links is an orphan.
//   - Inode numbers are never reused; directory cookies are stable for as long as the entry exists.
//
// Content is none of its business: package data changes size, times and blocks of regular files inside
// its own transactions with GetInode and PutInode, and frees an orphan's content before DropInode.
// Permissions are the exporter's.
//
// # Keyspaces
//
// All integers in keys are big-endian, so that keys sort by number.
//
//	volume   "format"                       -> format row, see format.go
//	         "next"                         -> uvarint: every inode number in use is below it
//	         "files"                        -> uvarint: how many inodes exist, orphans included
//	inode    [ino 8]                        -> inode row, see inode.go
//	dirent   [parent 8][cookie 8][name]     -> entry row, see dirent.go
//	xattr    [ino 8][name]                  -> the value as it was given
//	orphan   [ino 8]                        -> [kind 1]: the inode has no links and waits for the reaper
//
// # Costs
//
// A lookup is two reads, getattr one. Creating a file reads three rows and writes four (entry, inode,
// parent, files); the row of the parent directory carries its times and link count.
package meta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// The keyspaces that this package owns.
const (
	VolumeKeyspace kv.Keyspace = "volume"
	InodeKeyspace  kv.Keyspace = "inode"
	DirentKeyspace kv.Keyspace = "dirent"
	XattrKeyspace  kv.Keyspace = "xattr"
	OrphanKeyspace kv.Keyspace = "orphan"
)

// Options of Open. The zero value is usable.
type Options struct {
	Clock  func() time.Time // stamps inodes; nil is time.Now
	Logger *slog.Logger     // nil discards
}

// Tree is the namespace of one volume. Safe for concurrent use. Several trees may be open over one
// store; each draws inode numbers from ranges of its own.
//
// Methods whose context ends before the update was sequenced return its error and changed nothing.
// Errors match the fs.Err* values; those of reads on the hot paths (Lookup, Getattr, GetXattr) are the
// bare values, the others are wrapped in *fs.OpError. Damaged rows give a *DamagedError, which matches
// fs.ErrIO.
type Tree struct {
	store  kv.Store
	clock  func() time.Time
	log    *slog.Logger
	volume Volume
	inos   allocator
}

// Open opens the volume that Format made in store.
func Open(ctx context.Context, store kv.Store, o Options) (*Tree, error) {
	t := &Tree{store: store, clock: o.Clock, log: o.Logger}
	if t.clock == nil {
		t.clock = time.Now
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	err := store.View(ctx, kv.Pending, func(r kv.Reader) (err error) {
		if t.volume, err = GetVolume(r); err != nil {
			return err
		}
		// A volume whose root is damaged opens all the same, so that it can be checked and repaired.
		if root, err := GetInode(r, fs.Root); err != nil || !root.IsDir() {
			t.log.Error("the root directory is damaged: check and repair the volume", "err", err, "mode", root.Mode)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open volume: %w", translate(err))
	}
	return t, nil
}

// Volume returns the identity of the volume.
func (t *Tree) Volume() Volume { return t.volume }

// Files returns how many inodes exist, orphans included.
func (t *Tree) Files(ctx context.Context) (n uint64, err error) {
	err = t.view(ctx, func(r kv.Reader) (err error) {
		n, err = getCounter(r, filesKey)
		return err
	})
	return n, translate(err)
}

func (t *Tree) now() int64 { return t.clock().UnixNano() }

// update runs fn as one ordered transaction and says in the error which operation it was.
func (t *Tree) update(ctx context.Context, op string, ino fs.Ino, name string, fn func(*change) error) error {
	err := t.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		return fn(&change{Txn: tx, tree: t, now: t.now()})
	})
	if err != nil {
		return &fs.OpError{Op: op, Ino: ino, Name: name, Err: translate(err)}
	}
	return nil
}

func (t *Tree) view(ctx context.Context, fn func(kv.Reader) error) error {
	return t.store.View(ctx, kv.Pending, fn)
}

// change is one operation under evaluation. now is when it happens.
type change struct {
	kv.Txn
	tree *Tree
	now  int64
}

// dir returns a directory that entries can be added to or removed from.
func (c *change) dir(ino fs.Ino) (Inode, error) {
	in, err := GetInode(c, ino)
	if err != nil {
		return in, err
	}
	if !in.IsDir() {
		return in, fs.ErrNotDir
	}
	if in.Nlink == 0 { // removed, but still open somewhere
		return in, fs.ErrNotExist
	}
	return in, nil
}

// DamagedError reports a row that does not decode or contradicts another. It matches fs.ErrIO.
type DamagedError struct {
	Keyspace kv.Keyspace
	Key      []byte
	Reason   string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("row %s/%x is damaged: %s", e.Keyspace, e.Key, e.Reason)
}

// Is makes the error match fs.ErrIO.
func (e *DamagedError) Is(target error) bool { return target == fs.ErrIO }

func damaged(ks kv.Keyspace, key []byte, format string, args ...any) error {
	return &DamagedError{Keyspace: ks, Key: append([]byte(nil), key...), Reason: fmt.Sprintf(format, args...)}
}

// translate makes the store's own errors match the vocabulary of package fs.
func translate(err error) error {
	if errors.Is(err, kv.ErrClosed) {
		return fmt.Errorf("%w: %w", fs.ErrClosed, err)
	}
	return err
}
