package local

import (
	"errors"

	"github.com/gabionfs/gabion/objstore/fragcache"
)

// CacheOptions say what of fragments is kept near. The zero value is nothing.
type CacheOptions struct {
	// Memory bounds the bytes kept in memory, of remote disks only; 0 means none.
	Memory int64
	// Dir is a folder on a fast disk, "" means none, and Size bounds its bytes. One that cannot be used does not
	// prevent the start, unless another process uses it or Size is too small.
	Dir  string
	Size int64
	// Reads and Writes say what is kept: what was read, and what was written.
	Reads, Writes bool
}

// CacheStatus is what the cache of fragments is for, holds and did.
type CacheStatus struct {
	CacheOptions
	fragcache.Stat
	Err error // why the folder is not used; nil
}

// openCache opens the cache of fragments as the options say.
func (b *Backend) openCache() error {
	o := b.o.Cache
	if o.Memory == 0 && o.Dir == "" {
		return nil
	}
	fo := fragcache.Options{Memory: o.Memory, Dir: o.Dir, Size: o.Size, Owner: b.o.Cluster, Logger: b.log}
	c, err := fragcache.Open(fo)
	switch {
	case err == nil:
	case errors.Is(err, fragcache.ErrInUse), o.Size < fragcache.MinSize:
		return err
	default:
		b.log.Warn("the folder for the cache of fragments is not used", "dir", o.Dir, "error", err)
		b.cacheErr = err
		fo.Dir = ""
		if c, err = fragcache.Open(fo); err != nil {
			return err
		}
	}
	b.fragments = c
	return nil
}

// Cache returns what the cache of fragments holds and did; false when there is none.
func (b *Backend) Cache() (CacheStatus, bool) {
	if b.fragments == nil {
		return CacheStatus{}, false
	}
	return CacheStatus{b.o.Cache, b.fragments.Stat(), b.cacheErr}, true
}
