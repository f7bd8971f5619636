package node

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Credentials are what a process on d shows to the servers of disks: those that it was given for them, or else
// those for the cluster that keeps the metadata. Nil when there are none.
func Credentials(d *datadir.Dir) (*identity.Credentials, error) {
	for _, file := range []string{d.Identity(), d.Bundle()} {
		b, err := identity.ReadBundle(file)
		switch {
		case err == nil:
			return b.Credentials, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("what to show to the servers of disks is not known: %w: give it again with `gabion up --identity FILE`", err)
		}
	}
	return nil, nil
}
