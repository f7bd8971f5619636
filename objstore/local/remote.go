package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/remote"
	"github.com/gabionfs/gabion/objstore/stacked"
)

// place makes a path absolute; the address of a remote disk, or of another backend's namespace, is one already.
func place(dir string) (string, error) {
	if stacked.IsAddress(dir) {
		a, err := stacked.ParseAddress(dir)
		return a.String(), err
	}
	if remote.IsAddress(dir) {
		a, err := remote.ParseAddress(dir)
		if err == nil && a.ASD.IsZero() {
			err = fmt.Errorf("%s: which disk of the server? give its id behind a slash", dir)
		}
		return a.String(), err
	}
	return filepath.Abs(dir)
}

// nodeOf is the node that a disk is on: this one, or what the server of a remote one has shown.
func nodeOf(dev objstore.Disk, own string) string {
	if r, ok := dev.(interface{ Node() string }); ok {
		return r.Node()
	}
	return own
}

// anywhere opens folders, remote disks and namespaces of other backends.
type anywhere struct {
	folders Opener
	o       remote.Options
	stack   stacked.Opener
}

func (p anywhere) at(dir string) (remote.Options, asd.ID, error) {
	a, err := remote.ParseAddress(dir)
	if err == nil && p.o.Credentials == nil {
		err = errors.New("there is no identity to show to the server of the disk")
	}
	o := p.o
	o.Address = a.Server
	return o, a.ASD, err
}

// Holds reports as nil that a disk, and not the place for a new one, is at dir: a folder, or the address of a disk of
// another process.
func (b *Backend) Holds(ctx context.Context, dir string) error {
	if stacked.IsAddress(dir) {
		return b.stack().Holds(ctx, dir)
	}
	if !remote.IsAddress(dir) {
		_, err := Inspect(dir)
		return err
	}
	o, id, err := anywhere{o: b.o.Remote}.at(dir)
	if err != nil {
		return err
	}
	list, err := remote.List(ctx, o)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(a remote.Announcement) bool { return a.ASD == id }); i < 0 || list[i].Owner.IsZero() {
		return &asd.OpenError{Dir: dir, Err: asd.ErrMissing, Hint: "its server has no such disk, or nobody has claimed it"}
	}
	return nil
}

func (p anywhere) Open(ctx context.Context, dir, want string) (string, objstore.Disk, error) {
	if stacked.IsAddress(dir) {
		return p.stack.Open(ctx, dir, want)
	}
	if !remote.IsAddress(dir) {
		return p.folders.Open(ctx, dir, want)
	}
	o, id, err := p.at(dir)
	if err != nil {
		return "", nil, err
	}
	if want != "" && want != id.String() {
		return "", nil, &asd.OpenError{Dir: dir, Err: asd.ErrForeign, Hint: "it is not ASD " + want}
	}
	d, err := remote.Open(ctx, o, id)
	if err != nil {
		return "", nil, err
	}
	return id.String(), d, nil
}

func (p anywhere) Claim(ctx context.Context, dir string) error {
	if stacked.IsAddress(dir) {
		return p.stack.Claim(ctx, dir)
	}
	if !remote.IsAddress(dir) {
		return p.folders.Claim(ctx, dir)
	}
	o, id, err := p.at(dir)
	if err != nil {
		return err
	}
	return remote.Claim(ctx, o, id)
}
