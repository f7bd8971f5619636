package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore/local"
)

// readBundle reads the file that says how to reach the cluster, if one was given.
func (r *run) readBundle() (err error) {
	path := r.o.Cluster
	if path == "" {
		return nil
	}
	if info, serr := os.Stat(path); serr == nil && info.IsDir() {
		return fmt.Errorf("--cluster %s is a directory: a filesystem has its own identity; make one with `gabion cluster client NAME FILE --data %s`, and give that FILE", path, path)
	}
	if r.bundleRaw, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--cluster %s does not exist: `gabion cluster client NAME FILE` makes such a file on a node of the cluster", path)
	} else if err != nil {
		return fmt.Errorf("--cluster: %w", err)
	}
	if r.bundle, err = identity.ParseBundle(r.bundleRaw); err != nil {
		return fmt.Errorf("--cluster %s: %w: give the file that `gabion cluster client` made", path, err)
	}
	if r.bundle.ID.Kind == identity.Node {
		return fmt.Errorf("--cluster %s is the identity of node %s: a filesystem has its own; make one with `gabion cluster client NAME FILE`", path, r.bundle.ID.Name)
	}
	return nil
}

// remote says where the metadata of a new data directory at base is, nil when it keeps it itself.
func (r *run) remote(base, disks string) *datadir.Remote {
	if r.bundle == nil {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	// For people it says where to look; the digits make it unique.
	owner := fmt.Sprintf("%.60s:%.150s %s", host, filepath.Clean(base), disks[:12])
	return &datadir.Remote{Cluster: r.bundle.ID.Cluster, Store: r.o.Store, Owner: owner}
}

// agreesOnStore refuses another store than the one that the data directory remembers.
func (r *run) agreesOnStore(d *datadir.Dir) error {
	c := d.Config.Remote
	switch {
	case c == nil && r.o.Store == "":
		return nil
	case c == nil:
		return fmt.Errorf("%s keeps its metadata itself, not on a cluster: leave --cluster and --store out, or give another --data", d.Path)
	case r.bundle != nil && r.bundle.ID.Cluster != c.Cluster:
		return fmt.Errorf("the metadata of %s is on cluster %s, and --cluster %s leads to cluster %s: give a file of the former, or leave it out", d.Path, c.Cluster, r.o.Cluster, r.bundle.ID.Cluster)
	case r.o.Store != "" && r.o.Store != c.Store:
		return fmt.Errorf("the metadata of %s is in store %s, not in %s: leave --store out", d.Path, c.Store, r.o.Store)
	}
	return nil
}

// movedDisks returns the id of the cluster of disks that all folders given with --asd belong to, or "". With
// the store of their filesystem they make it whole again when the data directory was lost.
func (r *run) movedDisks() string {
	if r.bundle == nil {
		return ""
	}
	cluster := ""
	for _, dir := range r.o.ASDDirs {
		id, err := local.Inspect(dir)
		if err != nil || cluster != "" && id.Cluster.String() != cluster {
			return ""
		}
		cluster = id.Cluster.String()
	}
	return cluster
}
