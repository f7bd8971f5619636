package stacked

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// A claim is two objects that are created in one transaction: one of a name that is always the same, so that there can
// be only one, and one whose name says which disk it is and whose. So a claim is read without reading an object, while
// not a disk below is up. Both have content, so that namespace recover below finds them.
//
//	0xfe                           "claimed"
//	0xff, id (16), owner (16)      "claim"
const (
	claimLock    = "\xfe"
	claimPrefix  = "\xff"
	claimObjects = 2
)

type claim struct{ id, owner asd.ID }

func (c claim) name() string { return claimPrefix + string(c.id[:]) + string(c.owner[:]) }

// findClaim returns the claim, or an error that matches asd.ErrMissing.
func findClaim(ctx context.Context, low Lower) (c claim, err error) {
	found := false
	err = low.Namespace.List(ctx, claimPrefix, "", func(i objstore.Info) bool {
		if len(i.Name) == 1+2*len(asd.ID{}) {
			copy(c.id[:], i.Name[1:])
			copy(c.owner[:], i.Name[1+len(c.id):])
			found = true
		}
		return !found
	})
	if err == nil && !found {
		err = &asd.OpenError{Dir: low.Backend, Err: asd.ErrMissing, Hint: "nobody has claimed the namespace"}
	}
	return c, err
}

// Claim makes an empty namespace a disk of owner, durably, and returns its id. Of several callers one succeeds; the
// others, and all later ones, get a *asd.ClaimedError. A namespace with objects in it is refused with asd.ErrNotEmpty.
func Claim(ctx context.Context, low Lower, owner asd.ID) (asd.ID, error) {
	c := claim{owner: owner}
	if _, err := rand.Read(c.id[:]); err != nil {
		return asd.ID{}, err
	}
	for {
		if was, err := findClaim(ctx, low); err == nil {
			return asd.ID{}, &asd.ClaimedError{Dir: low.Backend, ASD: was.id, Owner: was.owner}
		} else if !errors.Is(err, asd.ErrMissing) {
			return asd.ID{}, err
		}
		other := ""
		if err := low.Namespace.List(ctx, "", claimLock, func(i objstore.Info) bool { other = i.Name; return false }); err != nil {
			return asd.ID{}, err
		}
		if other != "" {
			return asd.ID{}, &asd.OpenError{Dir: low.Backend, Err: asd.ErrNotEmpty, Hint: fmt.Sprintf("the namespace holds object %q", other)}
		}
		steps := []client.Step{step(claimLock, "claimed"), step(c.name(), "claim")}
		_, err := low.Namespace.ApplySequence(ctx, steps)
		if err == nil {
			return c.id, low.Namespace.Sync(ctx)
		}
		if !errors.Is(err, objstore.ErrExists) {
			return asd.ID{}, err
		}
		// Another was faster, and its claim is found now. Or only the lock came back in a recovery.
		if _, err := findClaim(ctx, low); errors.Is(err, asd.ErrMissing) {
			return asd.ID{}, &asd.OpenError{Dir: low.Backend, Err: asd.ErrNotEmpty, Hint: "the namespace was claimed, and by whom is lost"}
		}
	}
}

func step(name, content string) client.Step {
	return client.Step{Op: nsm.Create, Name: name, Content: strings.NewReader(content), Size: int64(len(content))}
}
