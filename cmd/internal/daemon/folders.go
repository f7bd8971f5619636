package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/local"
	"github.com/gabionfs/gabion/objstore/remote"
)

// checkFolders refuses folders given as disks that cannot be ours, before anything is made or claimed:
// those of another cluster, and those that hold something else. A folder that is damaged, or missing, is
// not a mistake of whoever started us, and passes.
func (r *run) checkFolders(cluster string) error {
	for _, dir := range r.o.ASDDirs {
		if remote.IsAddress(dir) {
			continue // see findRemote
		}
		id, err := local.Inspect(dir)
		switch {
		case err == nil && id.Cluster.String() != cluster:
			return fmt.Errorf("the disk in %s belongs to another cluster (%v): give another folder, or the data directory that it belongs to", dir, id.Cluster)
		case errors.Is(err, asd.ErrNewer):
			return err
		case errors.Is(err, asd.ErrMissing):
			if err := claimable(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// claimable refuses a folder that holds something.
func claimable(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disk: %w", err)
	}
	for _, e := range list {
		if e.Name() != "lost+found" {
			return fmt.Errorf("the folder %s cannot become a disk: it is not empty, it holds %q", dir, e.Name())
		}
	}
	return nil
}

// claim is a folder outside the data directory that was empty, or missing, before it became a disk.
type claim struct {
	dir     string
	existed bool
}

func emptyFolders(dirs []string) []claim {
	var out []claim
	for _, dir := range dirs {
		if !remote.IsAddress(dir) && claimable(dir) == nil {
			_, err := os.Stat(dir)
			out = append(out, claim{dir, err == nil})
		}
	}
	return out
}

// takeBack empties folders again, after a creation that failed.
func takeBack(claims []claim) error {
	var errs []error
	for _, c := range claims {
		list, err := os.ReadDir(c.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, err)
		for _, e := range list {
			if e.Name() != "lost+found" {
				errs = append(errs, os.RemoveAll(filepath.Join(c.dir, e.Name())))
			}
		}
		if !c.existed {
			errs = append(errs, os.Remove(c.dir))
		}
	}
	return errors.Join(errs...)
}
