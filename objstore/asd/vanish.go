package asd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// tidy says when the folder was emptied while the ASD was open, and removes what this process has put there since,
// such as a new index: it would keep the folder from becoming a new disk. A folder with a format file or segments is
// left as it is. The index must be closed.
func (a *ASD) tidy() error {
	for _, name := range []string{formatName, segmentsName} {
		if _, err := os.Lstat(filepath.Join(a.dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	c := claimer{dir: a.dir}
	err := c.locked(func() error { // nobody claims it meanwhile
		if err := c.claimed(); err != nil {
			return err
		}
		for _, name := range []string{indexName, indexName + ".rebuild", ballastName} {
			if err := os.RemoveAll(c.path(name)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(&OpenError{a.dir, ErrMissing, "the folder was removed, or emptied, while it was in use"}, err)
}
