package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/remote"
)

// askLimit bounds how long the start waits for what a server of disks has to say.
const askLimit = 20 * time.Second

// ReadIdentity reads the file of a client or node, or that of the node whose directory is given.
func ReadIdentity(path string) (*identity.Bundle, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return cluster.LoadBundle(path)
	}
	return identity.ReadBundle(path)
}

// readIdentity reads what is shown to the servers of disks, if it was given.
func (r *run) readIdentity() (err error) {
	if r.o.Identity == "" {
		return nil
	}
	if r.identity, err = ReadIdentity(r.o.Identity); err != nil {
		return fmt.Errorf("--identity: %w: give a file that `gabion cluster client` made, or the directory of a node", err)
	}
	return nil
}

// keepIdentity has the data directory remember it.
func (r *run) keepIdentity(d *datadir.Dir) error {
	if r.identity == nil {
		return nil
	}
	raw, err := r.identity.Marshal()
	if err != nil {
		return err
	}
	return d.WriteIdentity(raw)
}

// remoteOptions say how to reach a server of disks.
func (r *run) remoteOptions(server, owner string) (o remote.Options, err error) {
	o.Address = server
	if o.Owner, err = asd.ParseID(owner); err != nil {
		return o, err
	}
	switch {
	case r.identity != nil:
		o.Credentials = r.identity.Credentials
	case r.bundle != nil:
		o.Credentials = r.bundle.Credentials
	default:
		path, err := filepath.Abs(r.o.Data)
		if err != nil {
			return o, err
		}
		if o.Credentials, err = node.Credentials(&datadir.Dir{Path: path}); err != nil {
			return o, err
		}
	}
	if o.Credentials == nil {
		return o, fmt.Errorf("the server of the disks at %s wants to know who asks: give a file that `gabion cluster client` made with --identity", server)
	}
	return o, nil
}

// findRemote looks at the disks of other processes among those that were given, replaces a server by its disks
// that are owner's or nobody's, and refuses those that are another's. A server that does not answer is not a mistake
// of whoever started us, unless it was to say which disks it has.
func (r *run) findRemote(owner string) error {
	var out []string
	known := make(map[string][]remote.Announcement)
	for _, dir := range r.o.ASDDirs {
		if !remote.IsAddress(dir) {
			out = append(out, dir)
			continue
		}
		a, err := remote.ParseAddress(dir)
		if err != nil {
			return err
		}
		o, err := r.remoteOptions(a.Server, owner)
		if err != nil {
			return err
		}
		list, asked := known[a.Server]
		if !asked {
			list, err = ask(o)
			if err != nil && (a.ASD.IsZero() || !errors.Is(err, remote.ErrUnreachable)) {
				return fmt.Errorf("the disks at %s: %w: does `gabion asd serve` run there?", a.Server, err)
			}
			known[a.Server] = list
		}
		if a.ASD.IsZero() {
			n := len(out)
			for _, d := range list {
				if d.Owner == o.Owner || d.State == remote.Unclaimed {
					out = append(out, r.found(a.Server, d))
				}
			}
			if len(out) == n {
				return fmt.Errorf("%s has %d disks, none of them free, or of this filesystem", a.Server, len(list))
			}
			continue
		}
		i := slices.IndexFunc(list, func(d remote.Announcement) bool { return d.ASD == a.ASD })
		switch {
		case list == nil: // it does not answer
			out = append(out, a.String())
		case i < 0:
			return fmt.Errorf("there is no disk %s at %s: `gabion asd show asd://%s` shows those that there are", a.ASD, a.Server, a.Server)
		case list[i].Owner != o.Owner && !list[i].Owner.IsZero():
			return fmt.Errorf("the disk at %s belongs to another cluster (%v), which must release it first", a, list[i].Owner)
		default:
			out = append(out, r.found(a.Server, list[i]))
		}
	}
	r.o.ASDDirs = out
	return nil
}

// found notes a disk that was announced, and returns its address.
func (r *run) found(server string, d remote.Announcement) string {
	a := remote.Address{Server: server, ASD: d.ASD}.String()
	if d.State == remote.Unclaimed {
		if r.unclaimed == nil {
			r.unclaimed = make(map[string]bool)
		}
		r.unclaimed[a] = true
	}
	return a
}

func ask(o remote.Options) ([]remote.Announcement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	return remote.List(ctx, o)
}

// releaseRemote gives the disks back that a creation that failed has claimed.
func (r *run) releaseRemote() error {
	var errs []error
	for place := range r.unclaimed {
		a, err := remote.ParseAddress(place)
		if err != nil {
			return err
		}
		o, err := r.remoteOptions(a.Server, r.dir.Config.Cluster)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		err = remote.Release(ctx, o, a.ASD, true)
		cancel()
		if err != nil && !errors.Is(err, asd.ErrMissing) { // it was not claimed yet
			errs = append(errs, fmt.Errorf("%s: %w", place, err))
		}
	}
	return errors.Join(errs...)
}
