package daemon

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/remote"
)

const defaultASDs = 6

// openData opens the data directory, or creates it when there is none.
func (r *run) openData() error {
	if err := r.readBundle(); err != nil {
		return err
	}
	if err := r.readIdentity(); err != nil {
		return err
	}
	c, err := datadir.Probe(r.o.Data)
	if errors.Is(err, datadir.ErrAbsent) {
		r.dir, err = r.createData(c.Cluster)
		return r.explainInUse(err)
	}
	if err != nil {
		return r.explainInUse(err)
	}
	if err := r.findRemote(c.Cluster); err != nil {
		return err
	}
	if err := r.checkFolders(c.Cluster); err != nil {
		return err
	}
	d, err := datadir.Open(r.o.Data)
	if err != nil {
		return r.explainInUse(err)
	}
	if err := r.agrees(d); err != nil {
		return errors.Join(err, d.Close())
	}
	r.dir = d
	if err := r.keepIdentity(d); err != nil {
		return err
	}
	if r.bundle != nil {
		return d.WriteBundle(r.bundleRaw) // it may name newer addresses, or carry a newer certificate
	}
	return nil
}

func (r *run) explainInUse(err error) error {
	switch {
	case errors.Is(err, datadir.ErrInUse):
		return fmt.Errorf("%w: stop it first, or give another --data", err)
	case errors.Is(err, datadir.ErrForeign):
		return fmt.Errorf("%w: give an empty directory, or one that does not exist, with --data", err)
	}
	return err
}

// createData makes the data directory. interrupted is the cluster of a creation that was cut off, or "":
// its folders elsewhere may be claimed for it already.
func (r *run) createData(interrupted string) (*datadir.Dir, error) {
	c := datadir.NewConfig()
	if interrupted != "" {
		c.Cluster = interrupted
	} else if moved := r.movedDisks(); moved != "" {
		c.Cluster = moved
	}
	c.Policies = r.o.Policies
	if err := r.findRemote(c.Cluster); err != nil {
		return nil, err
	}
	if err := r.checkFolders(c.Cluster); err != nil {
		return nil, err
	}
	base, err := filepath.Abs(r.o.Data)
	if err != nil {
		return nil, err
	}
	for _, dir := range r.o.ASDDirs {
		if rel, err := filepath.Rel(base, dir); err == nil && filepath.IsLocal(rel) {
			return nil, fmt.Errorf("the disk %s lies inside the data directory that is to be made: use --asds", dir)
		}
		c.ASDs = append(c.ASDs, dir)
	}
	if len(c.ASDs) == 0 {
		n := r.o.ASDs
		if n == 0 {
			n = defaultASDs
		}
		for i := range n {
			c.ASDs = append(c.ASDs, datadir.ASDName(i))
		}
	}
	if len(c.Policies) == 0 {
		c.Policies = objstore.DefaultPolicies(len(c.ASDs))
	}
	if err := usable(c.Policies, perNode(c.ASDs)); err != nil {
		return nil, err
	}
	c.Remote = r.remote(base, c.Cluster)
	d, err := datadir.Create(base, c)
	if err != nil {
		return nil, err
	}
	r.claims = emptyFolders(r.o.ASDDirs)
	if err := r.keepIdentity(d); err != nil {
		return nil, errors.Join(err, d.Abandon())
	}
	if r.bundle != nil {
		if err := d.WriteBundle(r.bundleRaw); err != nil {
			return nil, errors.Join(err, d.Abandon())
		}
	}
	return d, nil
}

// perNode counts the disks of each node: those of this one, and those of each server.
func perNode(asds []string) []int {
	nodes := make(map[string]int)
	for _, a := range asds {
		at, _ := remote.ParseAddress(a) // a folder is at ""
		nodes[at.Server]++
	}
	return slices.Collect(maps.Values(nodes))
}

// usable refuses policies of which none could be met with so many disks on each node.
func usable(policies []objstore.Policy, nodes []int) error {
	n := 0
	for _, p := range policies {
		n = 0
		for _, disks := range nodes {
			n += min(disks, p.X)
		}
		if n >= p.C {
			return nil
		}
	}
	n = 0
	for _, disks := range nodes {
		n += disks
	}
	where := "one node"
	if len(nodes) > 1 {
		where = fmt.Sprintf("%d nodes", len(nodes))
	}
	return fmt.Errorf("none of the policies %v can be met by %d disks on %s: a write needs c disks, of which at most x on the node; give more disks, or a smaller --policy", policies, n, where)
}

// agrees refuses options that contradict what the data directory was made with.
func (r *run) agrees(d *datadir.Dir) error {
	c := d.Config
	if r.o.ASDs != 0 && r.o.ASDs != len(c.ASDs) {
		return fmt.Errorf("%s was made with %d disks, not %d: leave --asds out, and use `gabion asd add` for more", d.Path, len(c.ASDs), r.o.ASDs)
	}
	if len(r.o.Policies) > 0 && !slices.Equal(r.o.Policies, c.Policies) {
		return fmt.Errorf("%s was made with policies %v, not %v: leave --policy out", d.Path, c.Policies, r.o.Policies)
	}
	return r.agreesOnStore(d)
}
