// Package node puts the layers of one machine together over a data directory: the key-value store, the
// disks and the objects on them, and the filesystem. It is what `gabion up` exports, and what the other
// commands open for themselves when nothing runs.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/volume"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/local"
)

// volumeNamespace holds the content of the filesystem.
const volumeNamespace = "fs"

// Options of Open.
type Options struct {
	Version string   // of the program, for the status
	Claim   []string // absolute folders to use as disks besides those that are known
	Quiet   bool     // nothing works in the background: for a look, not for a run
	Steal   bool     // take a store of a cluster from whoever uses it
	Logger  *slog.Logger
	// Secret opens what is encrypted; a filesystem that is being created is encrypted if it is given.
	Secret *crypt.Secret
	// Cache says what of fragments is kept near.
	Cache local.CacheOptions
	// Compaction of the disks of this process.
	Compaction asd.Compaction
	// Store opens the key-value store when it is not the one in the data directory. The node closes it.
	Store func(context.Context) (Store, error)
}

// Node is an open data directory. Safe for concurrent use.
type Node struct {
	o        Options
	dir      *datadir.Dir
	kv       Store
	objects  *local.Backend
	managers managerStores
	content  objstore.Namespace // of the volume
	volume   *volume.Volume     // nil: it is locked
	session  fs.FS              // for our own questions

	placing sync.Mutex // held while the directory is told where the disks are
}

// Open opens every layer over d, which stays the caller's. While d is being created, so are they.
func Open(ctx context.Context, d *datadir.Dir, o Options) (_ *Node, err error) {
	n := &Node{o: o, dir: d}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if o.Logger == nil {
		n.o.Logger = slog.New(slog.DiscardHandler)
	}
	creating := d.Config.State == datadir.Creating
	if n.kv, err = openStore(ctx, d, o); err != nil {
		return nil, err
	}
	if r, ok := n.kv.(*remote); ok {
		existing, err := claimStore(ctx, r, d)
		if err != nil {
			return nil, err
		}
		creating = creating && !existing
	}
	cluster, err := asd.ParseID(d.Config.Cluster)
	if err != nil {
		return nil, err
	}
	lo := local.Options{
		KV: n.kv, Cluster: cluster, Base: d.Path, Dirs: o.Claim, Compression: objstore.CompressS2, Logger: o.Logger, NoMaint: o.Quiet,
		Cache: o.Cache, Compaction: o.Compaction,
	}
	if lo.Remote.Credentials, err = Credentials(d); err != nil {
		return nil, err
	}
	if lo.Keys, err = keyOptions(d, o); err != nil {
		return nil, err
	}
	n.managers.main, n.managers.dir, n.managers.o = n.kv, d.Manager, n.o
	lo.Stores = n.managers.Open
	if creating {
		lo.Policies = d.Config.Policies
		if o.Secret != nil {
			lo.Encryption = objstore.EncryptAES
		}
	}
	if d.Config.State == datadir.Creating {
		for _, f := range d.Config.ASDs {
			lo.Dirs = append(lo.Dirs, d.Resolve(f))
		}
	}
	if n.objects, err = local.Open(ctx, lo); err != nil {
		return nil, err
	}
	if n.content, err = n.objects.Namespace(ctx, volumeNamespace); err != nil {
		return nil, explainLocked(err)
	}
	err = n.openVolume(ctx, volume.Options{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Capacity: n.capacity, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Failed returns why the node cannot go on, or nil.
func (n *Node) Failed() error { return errors.Join(n.kv.Err(), n.managers.Err()) }

// empty reports whether dir is missing or has no entries.
func empty(dir string) bool {
	list, err := os.ReadDir(dir)
	return errors.Is(err, os.ErrNotExist) || err == nil && len(list) == 0
}

// capacity of the disks for the filesystem, which asks for it now and then.
func (n *Node) capacity() objstore.Capacity {
	c, err := n.objects.Capacity(context.Background())
	if err != nil {
		n.o.Logger.Warn("the capacity of the disks is not known", "err", err)
	}
	return c
}

// Close writes everything out and closes the layers, top first. Nothing must use them any more.
func (n *Node) Close() error {
	var errs []error
	if n.volume != nil {
		errs = append(errs, n.volume.Close(context.Background()))
	}
	if n.objects != nil {
		errs = append(errs, n.objects.Close())
	}
	if n.kv != nil {
		errs = append(errs, n.kv.Close())
	}
	return errors.Join(errs...)
}

// Volume is the filesystem.
func (n *Node) Volume() *volume.Volume { return n.volume }

// KV is the key-value store.
func (n *Node) KV() kv.Store { return n.kv }

// Namespace returns the objects of namespace name, or objstore.ErrNotFound; with write it is made when
// there is none. The filesystem's own is for reading only.
func (n *Node) Namespace(ctx context.Context, name string, write bool) (objstore.Namespace, error) {
	if !write {
		return n.objects.Existing(name)
	}
	if name == volumeNamespace {
		return nil, fmt.Errorf("%w: namespace %q belongs to the filesystem", objstore.ErrReadOnly, name)
	}
	return n.objects.Namespace(ctx, name)
}
