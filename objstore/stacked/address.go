package stacked

import (
	"context"
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

const scheme = "backend://"

// Address names a namespace of a backend: backend://NAME/NAMESPACE.
type Address struct{ Backend, Namespace string }

func (a Address) String() string { return scheme + a.Backend + "/" + a.Namespace }

// IsAddress tells whether what stands in the place of a folder is an address.
func IsAddress(s string) bool { return strings.HasPrefix(s, scheme) }

// ParseAddress parses backend://NAME/NAMESPACE.
func ParseAddress(s string) (Address, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	name, ns, both := strings.Cut(rest, "/")
	if !ok || !both || name == "" || ns == "" || len(ns) > objstore.MaxNamespace || strings.Contains(ns, "/") {
		return Address{}, fmt.Errorf("%q: want %sNAME/NAMESPACE", s, scheme)
	}
	return Address{name, ns}, nil
}

// Finder finds the namespace of an address, and makes it when there is none.
type Finder func(ctx context.Context, a Address) (Lower, error)

// Opener opens and claims the disks of one owner by their addresses.
type Opener struct {
	Owner asd.ID
	Find  Finder // nil: there are no other backends
}

func (o Opener) find(ctx context.Context, address string) (Lower, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return Lower{}, err
	}
	if o.Find == nil {
		return Lower{}, &asd.OpenError{Dir: address, Err: asd.ErrMissing, Hint: "no other backends are known here"}
	}
	return o.Find(ctx, a)
}

// Open opens the disk at an address and returns its id; want, unless "", is the only one that is accepted.
func (o Opener) Open(ctx context.Context, address, want string) (string, objstore.Disk, error) {
	low, err := o.find(ctx, address)
	if err != nil {
		return "", nil, err
	}
	d, err := Open(ctx, low, o.Owner)
	if err != nil {
		return "", nil, err
	}
	if id := d.ID().String(); want != "" && want != id {
		return "", nil, &asd.OpenError{Dir: address, Err: asd.ErrForeign, Hint: "it is disk " + id}
	}
	return d.ID().String(), d, nil
}

// Claim claims the namespace at an address.
func (o Opener) Claim(ctx context.Context, address string) error {
	low, err := o.find(ctx, address)
	if err == nil {
		_, err = Claim(ctx, low, o.Owner)
	}
	return err
}

// Holds reports as nil that the namespace at an address is claimed.
func (o Opener) Holds(ctx context.Context, address string) error {
	low, err := o.find(ctx, address)
	if err == nil {
		_, err = findClaim(ctx, low)
	}
	return err
}
