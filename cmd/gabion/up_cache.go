package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/local"
)

// cacheFlags say what of fragments is kept near.
type cacheFlags struct {
	dir    string
	size   string
	on     []string
	memory string
}

func (f *cacheFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "cache", "", "`folder` on a fast disk to keep fragments in")
	fl.StringVar(&f.size, "cache-size", "10GiB", "most `bytes` of that folder")
	fl.StringSliceVar(&f.on, "cache-on", []string{"read"}, "`what` to keep: read, write, or both with a comma")
	fl.StringVar(&f.memory, "cache-memory", "64MiB", "most `bytes` of memory for fragments of disks of other processes, without --cache")
}

func (f *cacheFlags) options(changed func(string) bool) (local.CacheOptions, error) {
	var o local.CacheOptions
	for _, on := range f.on {
		switch strings.TrimSpace(on) {
		case "read":
			o.Reads = true
		case "write":
			o.Writes = true
		default:
			return o, usagef("--cache-on %q: it is read, write, or read,write", on)
		}
	}
	memory, err := parseSize(f.memory)
	if err != nil || memory > 0 && memory < 1<<20 {
		return o, usagef("--cache-memory %q: want 0, or a size of at least 1MiB", f.memory)
	}
	if f.dir == "" {
		if changed("cache") {
			return o, usagef("--cache is empty")
		}
		if changed("cache-size") {
			return o, usagef("--cache-size makes no sense without --cache")
		}
		o.Memory = memory
		return o, nil
	}
	if o.Size, err = parseSize(f.size); err != nil || o.Size < fragcache.MinSize {
		return o, usagef("--cache-size %q: want a size of at least %dMiB, such as 100GiB", f.size, fragcache.MinSize>>20)
	}
	if changed("cache-memory") {
		o.Memory = memory
	}
	o.Dir, err = filepath.Abs(f.dir)
	return o, err
}
