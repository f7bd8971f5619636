package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// claim is the row of a store of a cluster that says which data directory's filesystem it holds. The
// session makes sure that one process at a time uses the store; the row, that it is always the right one,
// since the disks that the metadata is about belong to the data directory.
type claim struct {
	State datadir.State `json:"state"` // Creating while the filesystem is being made
	Disks string        `json:"disks"` // Config.Cluster of the data directory
	Owner string        `json:"owner"` // its name, for people
}

// readClaim returns nil when the store holds no filesystem.
func readClaim(ctx context.Context, s kv.Store) (c *claim, err error) {
	err = s.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		raw, err := r.Get(kvaccess.VolumeKeyspace, kvaccess.VolumeKey)
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err = parseClaim(raw)
		return err
	})
	return c, err
}

func writeClaim(ctx context.Context, s kv.Store, c claim) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(kvaccess.VolumeKeyspace, kvaccess.VolumeKey, raw)
		return nil
	})
}

// fits refuses a store that is not d's and not free. existing says that its filesystem is complete, though
// d is being created: a data directory that is made around disks that were moved here takes over the
// filesystem that they belong to.
//
// The data directory is marked as ready before the row is: a row that is not ready never belongs to a
// filesystem that was used.
func (old *claim) fits(c *datadir.Config) (existing bool, err error) {
	switch {
	case old != nil && old.State == datadir.Ready && old.Disks != c.Cluster:
		return false, fmt.Errorf("store %s holds the filesystem of another data directory, %s: run that one, or make another store with `gabion cluster store create NAME`; if its machine is lost and its disks are here, give all of them with --asd", c.Remote.Store, old.Owner)
	case c.State != datadir.Creating && (old == nil || old.Disks != c.Cluster):
		return false, fmt.Errorf("store %s holds no filesystem any more: it was deleted and made anew; restore a backup of it, with `gabion kv restore`", c.Remote.Store)
	}
	return c.State != datadir.Creating || old != nil && old.State == datadir.Ready, nil
}

// peekClaim reads the row without taking the store, so that a store that does not fit is not taken from
// whoever uses it.
func peekClaim(ctx context.Context, s *kvrpc.Store) (*claim, error) {
	raw, err := s.Get(ctx, kvaccess.VolumeKeyspace, kvaccess.VolumeKey, kvrpc.ReadOptions{})
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseClaim(raw)
}

func parseClaim(raw []byte) (*claim, error) {
	c := &claim{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, &kv.CorruptError{What: "the row that says whose filesystem the store holds", Err: err}
	}
	return c, nil
}

// claimStore makes sure that the store is the one of d's filesystem, or a new one. What a creation that
// was cut off left there is removed.
func claimStore(ctx context.Context, r *remote, d *datadir.Dir) (existing bool, err error) {
	old, err := readClaim(ctx, r)
	if err != nil {
		return false, err
	}
	c := d.Config
	mine := claim{State: datadir.Ready, Disks: c.Cluster, Owner: c.Remote.Owner}
	existing, err = old.fits(&c)
	switch {
	case err != nil:
		return false, err
	case existing && *old == mine:
		return true, nil
	case existing:
		return true, writeClaim(ctx, r, mine)
	}
	if old != nil {
		if err := r.wipe(ctx); err != nil {
			return false, fmt.Errorf("remove what an interrupted creation left in store %s: %w", c.Remote.Store, err)
		}
	}
	mine.State = datadir.Creating
	return false, writeClaim(ctx, r, mine)
}

// Finish is to be called when the data directory has been marked as ready, and before it is used.
func (n *Node) Finish(ctx context.Context) error {
	if err := n.rememberDisks(); err != nil {
		return err
	}
	r, ok := n.kv.(*remote)
	if !ok {
		return nil
	}
	_, err := claimStore(ctx, r, n.dir)
	return err
}

// wipeBatch is how many keys one transaction of wipe deletes.
const wipeBatch = 1000

// wipe removes all keyspaces but those of users, whose names begin with "user".
func (r *remote) wipe(ctx context.Context) error {
	spaces, err := r.keyspaces(ctx)
	if err != nil {
		return err
	}
	for _, ks := range spaces {
		if strings.HasPrefix(string(ks), "user") || ks.Reserved() {
			continue
		}
		for left := true; left; {
			err := r.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
				var keys [][]byte
				err := tx.Range(ks, kv.Range{Limit: wipeBatch}, func(key, _ []byte) bool {
					keys = append(keys, bytes.Clone(key))
					return true
				})
				for _, key := range keys {
					tx.Delete(ks, key)
				}
				left = len(keys) > 0
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return r.Sync(ctx)
}

// keyspaces lists the keyspaces that hold something. The store has no list of them: it reads a backup,
// which is short where this is used.
func (r *remote) keyspaces(ctx context.Context) ([]kv.Keyspace, error) {
	pr, pw := io.Pipe()
	defer pr.Close()
	go func() {
		_, err := r.client.Store(r.where.Store).Backup(ctx, pw)
		pw.CloseWithError(err)
	}()
	var out []kv.Keyspace
	_, err := backup.Read(ctx, pr, func(ks kv.Keyspace, _, _ []byte) error {
		if len(out) == 0 || out[len(out)-1] != ks {
			out = append(out, ks)
		}
		return nil
	})
	return out, err
}
