package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/daemon"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/remote"
)

// claimLimit bounds how long a command waits for a server of disks.
const claimLimit = time.Minute

// claimFlags say for whom a disk is claimed, and who asks.
type claimFlags struct {
	owner, identity string
}

func (f *claimFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.identity, "identity", "", "`file` of a client or node to show to a server (default: the one that --data remembers)")
}

func (f *claimFlags) addOwner(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flags().StringVar(&f.owner, "owner", "", "`id` of the filesystem, 32 digits (default: that of --data)")
}

// ownerID is the filesystem that --owner names, or that of the data directory.
func (f *claimFlags) ownerID(e *env) (asd.ID, error) {
	owner := f.owner
	if owner == "" {
		c, err := datadir.Probe(e.data)
		if err != nil {
			return asd.ID{}, fmt.Errorf("whose disk? give its filesystem's data directory with --data, or its id with --owner: %w", err)
		}
		owner = c.Cluster
	}
	id, err := asd.ParseID(owner)
	if err != nil || id.IsZero() {
		return id, usagef("--owner %q: want 32 hexadecimal digits", owner)
	}
	return id, nil
}

// options say how to reach a server.
func (f *claimFlags) options(e *env, server string, owner asd.ID) (o remote.Options, err error) {
	o.Address, o.Owner = server, owner
	if f.identity != "" {
		b, err := daemon.ReadIdentity(f.identity)
		if err != nil {
			return o, fmt.Errorf("--identity: %w", err)
		}
		o.Credentials = b.Credentials
		return o, nil
	}
	path, err := filepath.Abs(e.data)
	if err != nil {
		return o, err
	}
	if o.Credentials, err = node.Credentials(&datadir.Dir{Path: path}); err == nil && o.Credentials == nil {
		err = usagef("the server at %s wants to know who asks: give a file that `gabion cluster client` made with --identity", server)
	}
	return o, err
}

// oneDisk reads the address of one disk.
func oneDisk(s string) (remote.Address, error) {
	a, err := remote.ParseAddress(s)
	if err == nil && a.ASD.IsZero() {
		err = fmt.Errorf("%s: which disk? `gabion asd show %s` shows their ids", s, s)
	}
	if err != nil {
		return a, usageError{err}
	}
	return a, nil
}

// shownDisk is a disk as `gabion asd show` prints it.
type shownDisk struct {
	Place string `json:"place"`
	ASD   string `json:"asd"`
	Owner string `json:"owner,omitempty"`
	State string `json:"state"`
	Total int64  `json:"total,omitempty"`
	Free  int64  `json:"free,omitempty"`
	Dir   string `json:"dir"`
	Error string `json:"error,omitempty"`
}

func newASDShow(e *env) *cobra.Command {
	var f claimFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FOLDER|ADDRESS",
		Short: "Show which disk a folder holds, or which disks a process serves, and whose they are",
		Long: `Show the disk in a folder, or the disks that "gabion asd serve" serves at an
address: their ids, whom they belong to, and how large they are.`,
		Example: "  gabion asd show /disk1/asd\n  gabion asd show asd://10.0.0.1:7100 --identity home.pem",
		Args:    exactArgs("one folder or address", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := f.show(cmd.Context(), e, args[0])
			if err != nil {
				return err
			}
			return e.printTable(asJSON, list, "PLACE\tSTATE\tOWNER\tFREE\tTOTAL\tFOLDER", func(w io.Writer) {
				for _, d := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Place, d.State, orDash(d.Owner), size(d.Free), size(d.Total), d.Dir)
				}
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (f *claimFlags) show(ctx context.Context, e *env, place string) ([]shownDisk, error) {
	if !remote.IsAddress(place) {
		id, err := asd.Inspect(place)
		if err != nil {
			return nil, err
		}
		return []shownDisk{{Place: place, ASD: id.ASD.String(), Owner: id.Cluster.String(), State: remote.Ready.String(), Dir: place}}, nil
	}
	a, err := remote.ParseAddress(place)
	if err != nil {
		return nil, usageError{err}
	}
	o, err := f.options(e, a.Server, asd.ID{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	list, err := remote.List(ctx, o)
	if err != nil {
		return nil, err
	}
	out := []shownDisk{}
	for _, d := range list {
		if !a.ASD.IsZero() && a.ASD != d.ASD {
			continue
		}
		s := shownDisk{Place: remote.Address{Server: a.Server, ASD: d.ASD}.String(), ASD: d.ASD.String(), State: d.State.String(),
			Total: d.Total, Free: d.Free, Dir: d.Dir, Error: d.Err}
		if !d.Owner.IsZero() {
			s.Owner = d.Owner.String()
		}
		out = append(out, s)
	}
	return out, nil
}

func newASDClaim(e *env) *cobra.Command {
	var f claimFlags
	cmd := &cobra.Command{
		Use:   "claim FOLDER|ADDRESS",
		Short: "Claim a disk for a filesystem, without using it yet",
		Long: `Claim a disk for a filesystem: no other can use it until it is released. "gabion up
--asd" and "gabion asd add" do it by themselves. A disk that belongs to somebody is
refused, with the owner's id.`,
		Example: "  gabion asd claim asd://10.0.0.1:7100/0123456789abcdef0123456789abcdef --data fs",
		Args:    exactArgs("one folder or address", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			owner, err := f.ownerID(e)
			if err != nil {
				return err
			}
			if err := f.change(cmd.Context(), e, args[0], owner, remote.Claim, func(context.Context) error {
				if _, err := asd.Announce(args[0]); err != nil {
					return err
				}
				_, err := asd.Claim(args[0], asd.ID{}, owner)
				return err
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.out, "claimed %s for %s\n", args[0], owner)
			return err
		},
	}
	f.addOwner(cmd)
	return cmd
}

func newASDRelease(e *env) *cobra.Command {
	var f claimFlags
	var wipe bool
	cmd := &cobra.Command{
		Use:   "release FOLDER|ADDRESS",
		Short: "Give a disk back that a filesystem has claimed, and empty it",
		Long: `Give a disk back, so that another filesystem can claim it: as a new disk, with an
id of its own. It must be empty: drain it first, with "gabion asd drain". With --wipe
what it holds is lost.`,
		Example: "  gabion asd drain 3\n  gabion asd release asd://10.0.0.1:7100/0123456789abcdef0123456789abcdef --data fs",
		Args:    exactArgs("one folder or address", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			owner, err := f.ownerID(e)
			if err != nil {
				return err
			}
			release := func(ctx context.Context, o remote.Options, id asd.ID) error { return remote.Release(ctx, o, id, wipe) }
			err = f.change(cmd.Context(), e, args[0], owner, release, func(ctx context.Context) error {
				return asd.Release(ctx, args[0], owner, wipe)
			})
			if errors.Is(err, asd.ErrNotEmpty) {
				return fmt.Errorf("%w; --wipe empties it", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.out, "released %s\n", args[0])
			return err
		},
	}
	f.addOwner(cmd)
	cmd.Flags().BoolVar(&wipe, "wipe", false, "even when it holds something, which is lost")
	return cmd
}

// change does something to the claim of a disk: there for an address, here for a folder.
func (f *claimFlags) change(ctx context.Context, e *env, place string, owner asd.ID,
	there func(context.Context, remote.Options, asd.ID) error, here func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	if !remote.IsAddress(place) {
		return here(ctx)
	}
	a, err := oneDisk(place)
	if err != nil {
		return err
	}
	o, err := f.options(e, a.Server, owner)
	if err != nil {
		return err
	}
	return there(ctx, o, a.ASD)
}
