package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
)

// lostSuffix is added to the name of the filesystem's namespace when the store that made files of its content
// is lost: a new filesystem has its own.
const lostSuffix = ".lost"

// RecoverOptions of Recover.
type RecoverOptions struct {
	Logger     *slog.Logger
	Names      []string // of namespaces; none: all that are on the disks
	ASDs       []string // absolute folders, or addresses, of disks besides those that are known
	Everything bool     // see maint.RecoverOptions
	List       bool     // only tell what is on the disks
	Progress   func(maint.Recovered)
	Done       func(maint.Recovered)
}

// Recovery is what Recover did.
type Recovery struct {
	StoreLost  bool              `json:"store_lost"` // there was no key-value store at all
	Absent     []string          `json:"absent"`     // folders in which a disk should be and none can be used
	Found      []FoundNamespace  `json:"found"`
	Namespaces []maint.Recovered `json:"namespaces"`
}

// FoundNamespace is a namespace of which the disks hold something.
type FoundNamespace struct {
	Number uint32 `json:"number"`
	Name   string `json:"name"` // "": no label is left of it
}

// addDisks takes the disks into use that the store does not know of. Without any disk nothing can be recovered.
func addDisks(ctx context.Context, d *datadir.Dir, objects *local.Backend, o RecoverOptions, out *Recovery) error {
	for _, dir := range o.ASDs {
		if err := addDisk(ctx, objects, dir); err != nil {
			return fmt.Errorf("--asd %s: %w", dir, err)
		}
	}
	known := map[string]bool{}
	for _, s := range objects.Disks() {
		known[s.Dir] = true
	}
	places, err := d.Places()
	if err != nil {
		return fmt.Errorf("%w: remove it, and give all disks with --asd", err)
	}
	for _, dir := range places {
		if known[dir] {
			continue
		}
		if err := addDisk(ctx, objects, dir); err != nil {
			o.Logger.Warn("recovering without a disk", "dir", dir, "err", err)
			out.Absent = append(out.Absent, dir)
		}
	}
	if !slices.ContainsFunc(objects.Disks(), func(s manager.Status) bool { return s.State == manager.Up }) {
		return errors.New("none of the disks can be used: see that they are mounted, or served, and try again; nothing was recovered, and nothing is lost that was there before")
	}
	return nil
}

// addDisk takes a disk into use if there is one: a place without one must not become a new disk now.
func addDisk(ctx context.Context, objects *local.Backend, dir string) error {
	if err := objects.Holds(ctx, dir); err != nil {
		return err
	}
	for _, s := range objects.Disks() {
		if s.Dir == dir && s.State == manager.Up {
			return nil
		}
	}
	_, err := objects.AddDisk(ctx, dir)
	return err
}

// Recover rebuilds the manifests of namespaces from the disks of d, on which nothing runs. When the
// key-value store in d is gone it makes a new one, without a filesystem: `gabion up` makes a new and empty
// one.
func Recover(ctx context.Context, d *datadir.Dir, o RecoverOptions) (_ Recovery, err error) {
	out := Recovery{Absent: []string{}, Found: []FoundNamespace{}, Namespaces: []maint.Recovered{}}
	if d.Config.State != datadir.Ready {
		return out, errors.New("the data directory holds nothing yet")
	}
	out.StoreLost = d.Config.Remote == nil && (d.Config.Recovering || empty(d.KV()))
	if out.StoreLost && o.List {
		return out, errors.New("the key-value store is gone: recovering makes a new one, and lists what it finds")
	}
	no := Options{Logger: o.Logger, Quiet: true}
	if out.StoreLost {
		if err := d.Update(func(c *datadir.Config) { c.Recovering = true }); err != nil {
			return out, err
		}
		no.Store = func(ctx context.Context) (Store, error) {
			s, err := raftkv.Open(ctx, raftkv.Options{Dir: d.KV(), Logger: o.Logger})
			if err != nil {
				return nil, err
			}
			return embedded{s}, nil
		}
	}
	made := out.StoreLost
	store, err := openStore(ctx, d, no)
	if err != nil {
		return out, err
	}
	defer func() {
		err = errors.Join(err, store.Close())
		if made && err != nil && len(out.Namespaces) == 0 {
			// An empty store in the place of the lost one would let a filesystem start over the old content.
			err = errors.Join(err, os.RemoveAll(d.KV()))
		}
	}()
	if d.Config.Remote == nil && !out.StoreLost { // a recovery may have been cut off before
		err := store.View(ctx, kv.Pending, func(r kv.Reader) error { _, err := meta.GetVolume(r); return err })
		if out.StoreLost = errors.Is(err, meta.ErrNotFormatted); err != nil && !out.StoreLost {
			return out, err
		}
	}
	cluster, err := asd.ParseID(d.Config.Cluster)
	if err != nil {
		return out, err
	}
	lo := local.Options{KV: store, Cluster: cluster, Base: d.Path, Compression: objstore.CompressS2, Logger: o.Logger, NoMaint: true}
	if lo.Remote.Credentials, err = Credentials(d); err != nil {
		return out, err
	}
	stores := managerStores{main: store, dir: d.Manager, o: no}
	lo.Stores, lo.Anew = stores.Open, !o.List
	if lo.Keys, err = keyOptions(d, no); err != nil {
		return out, err
	}
	if out.StoreLost && lo.Keys.Restore != nil {
		lo.Encryption = objstore.EncryptAES // as it was: what is written from now on must not be readable either
	}
	if out.StoreLost {
		lo.Policies = d.Config.Policies
	}
	objects, err := local.Open(ctx, lo)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	if err := addDisks(ctx, d, objects, o, &out); err != nil {
		return out, err
	}
	if _, err := objects.FindKeyring(ctx); err != nil {
		return out, fmt.Errorf("the keyring on the disks: %w", err)
	}
	labels, err := objects.Found(ctx)
	if err != nil {
		return out, err
	}
	for _, l := range labels {
		out.Found = append(out.Found, FoundNamespace{Number: l.Number, Name: l.Name})
	}
	if o.List {
		return out, nil
	}
	ro := local.RecoverOptions{Names: o.Names, Done: o.Done, RecoverOptions: maint.RecoverOptions{Everything: o.Everything, Progress: o.Progress}}
	if out.StoreLost {
		ro.Rename = func(name string) string {
			if name == volumeNamespace {
				return name + lostSuffix
			}
			return name
		}
	}
	list, err := objects.Recover(ctx, ro)
	out.Namespaces = append(out.Namespaces, list...)
	if err == nil && out.StoreLost {
		if err = store.Sync(ctx); err == nil {
			err = d.Update(func(c *datadir.Config) { c.Recovering = false })
		}
	}
	return out, err
}
