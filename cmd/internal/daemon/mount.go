package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/gabionfs/gabion/fs/mount"
	"github.com/gabionfs/gabion/objstore/remote"
)

func (r *run) mountOptions() mount.Options {
	return mount.Options{Shared: r.o.AllowOther, Private: !r.o.AllowOther, Logger: r.log}
}

// checkMount finds out whether we can mount where we were told to, after cleaning away what a crash of
// ours left there, and returns the absolute directory. It is "" when nothing is to be mounted, or when
// there is no FUSE here, which it says; without WebDAV that is an error.
func (r *run) checkMount() (string, error) {
	if r.o.Mount == "" {
		return "", nil
	}
	dir, err := filepath.Abs(r.o.Mount)
	if err != nil {
		return "", err
	}
	cleaned, err := mount.CleanStale(dir)
	if err != nil {
		return "", err
	}
	if cleaned {
		r.log.Info("cleaned a mount that an earlier process left behind", "dir", dir)
	}
	err = mount.Check(dir, r.mountOptions())
	if r.o.DAV != "" && (errors.Is(err, mount.ErrNoFuse) || errors.Is(err, mount.ErrNotPermitted)) {
		fmt.Fprintf(r.o.Err, "gabion: cannot mount: %v; serving WebDAV alone\n", err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return dir, r.apart(dir)
}

// apart refuses a mount point that holds the data, or lies in it: each would need the other first.
func (r *run) apart(dir string) error {
	for _, data := range append([]string{r.o.Data}, r.o.ASDDirs...) {
		if remote.IsAddress(data) {
			continue
		}
		abs, err := filepath.Abs(data)
		if err != nil {
			return err
		}
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			abs = real
		}
		if below(dir, abs) || below(abs, dir) {
			return fmt.Errorf("the mount point %s and the data in %s must lie apart", dir, abs)
		}
	}
	return nil
}

// below reports whether path is dir or inside it.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// startMount mounts the filesystem on dir, unless that is "".
func (r *run) startMount(ctx context.Context, dir string) error {
	if dir == "" {
		return nil
	}
	s, err := mount.Mount(ctx, dir, r.node.Volume().Session, r.mountOptions())
	if err != nil {
		return err
	}
	r.mount, r.mountGone = s, make(chan struct{})
	go func() {
		s.Wait()
		close(r.mountGone)
	}()
	return nil
}

// stopMount unmounts. A busy mount is detached, and those who use it are cut off when we exit. So are those who
// keep a mount that is out of the tree: a container that was started while it was there has a copy.
func (r *run) stopMount() error {
	if r.mount == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := r.mount.Unmount(ctx)
	if errors.Is(err, mount.ErrBusy) {
		fmt.Fprintf(r.o.Err, "gabion: %v; detached it: programs that still use it will get errors\n", err)
		return r.mount.Detach()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		fmt.Fprintf(r.o.Err, "gabion: %v; they will get errors\n", err)
		return nil
	}
	return err
}
