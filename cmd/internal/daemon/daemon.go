// Package daemon is the life of `gabion up`: it checks what it was asked for before it changes anything,
// opens or creates the data directory, exports it, waits to be told to stop, and takes everything down
// in the opposite order.
//
// A start that fails leaves the disk as it was: a data directory that was being created is taken back.
// Stopping goes WebDAV, mount, filesystem, objects, key-value store, so that nothing is asked of a part
// that is gone.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/interrupt"
	"github.com/gabionfs/gabion/cmd/internal/node"
	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs/mount"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/local"
)

// Options says what to run.
type Options struct {
	Data     string            // data directory; made when it is missing or empty
	ASDs     int               // disks to make in a new data directory; 0 means 6
	ASDDirs  []string          // absolute folders of disks, or their addresses, instead of ASDs
	Identity string            // file of a client or node, shown to the servers of disks; "": the one from before, or Cluster
	Policies []objstore.Policy // of a new data directory; none: by the number of disks

	Cluster string // file of a client of the cluster that keeps the metadata; "": the data directory keeps it
	Store   string // of the cluster
	Steal   bool   // take the store from whoever holds it

	Secret *crypt.Secret // opens what is encrypted; a new filesystem is encrypted if it is given

	Mount       string // directory to mount on; "" does not mount
	AllowOther  bool   // let other users use the mount
	DAV         string // address of WebDAV; "" is off
	DAVUser     string // "" lets everyone in
	DAVPassword string // of DAVUser: as it is, or a bcrypt hash
	PProf       string // address of net/http/pprof; "" is off

	Cache      local.CacheOptions // what of fragments is kept near
	Compaction asd.Compaction     // of the disks of this process

	Memory  int64 // soft limit of the heap in bytes; 0 means none
	Version string
	Logger  *slog.Logger
	Out     io.Writer // takes the ready line
	Err     io.Writer // takes messages for a person
}

// stopTimeout bounds how long requests that are under way may take once we stop.
const stopTimeout = 5 * time.Second

// run is one life. Its parts are nil until they run.
type run struct {
	o       Options
	log     *slog.Logger
	started time.Time

	bundle    *identity.Bundle // of Options.Cluster
	bundleRaw []byte
	identity  *identity.Bundle // of Options.Identity
	unclaimed map[string]bool  // addresses of disks that belonged to nobody
	dir       *datadir.Dir
	claims    []claim // folders that become disks of a new data directory
	node      *node.Node
	dav       *dav.Server
	mount     *mount.Server
	mountGone chan struct{} // closed when the kernel has let go of the mount
	control   *http.Server
	pprof     *http.Server

	failed chan error // a part ended by itself
}

// Run runs until ctx ends or the process gets SIGINT or SIGTERM, and returns nil after a clean stop. A
// second signal ends the process at once.
func Run(ctx context.Context, o Options) error {
	r := &run{o: o, log: o.Logger, started: time.Now(), failed: make(chan error, 4)}
	ctx, end := interrupt.Context(ctx, func(s os.Signal) { r.log.Info("stopping", "signal", s.String()) }, func() {
		fmt.Fprintln(o.Err, "gabion: forced: what was not fsynced may be lost; a mount that stays behind is cleaned at the next start")
		os.Exit(1)
	})
	defer end()

	tune(o.Memory)
	err := r.start(ctx)
	if err == nil {
		err = r.wait(ctx)
	} else if ctx.Err() != nil {
		r.log.Info("stopped while starting")
		err = nil
	}
	stopped := r.stop()
	for _, why := range []error{kv.ErrFenced, kvrpc.ErrDenied} {
		if errors.Is(err, why) && errors.Is(stopped, why) {
			r.log.Info("stopped without the store", "err", stopped)
			stopped = nil // it follows from what ended us
		}
	}
	return errors.Join(err, stopped)
}

// tune sets the scheduler and the collector for this process, unless the environment did.
func tune(memory int64) {
	if os.Getenv("GOMAXPROCS") == "" {
		// A direct write holds its P until the disk answers; with as many Ps as cores the cores idle.
		runtime.GOMAXPROCS(max(runtime.NumCPU(), 8))
	}
	if memory > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memory)
	}
}

func (r *run) start(ctx context.Context) (err error) {
	mountOn, err := r.checkMount()
	if err != nil {
		return err
	}
	if err := r.checkDAV(); err != nil {
		return err
	}
	if err := r.startPProf(); err != nil {
		return err
	}
	if err := r.openData(); err != nil {
		return err
	}
	r.node, err = node.Open(ctx, r.dir, node.Options{Logger: r.log, Version: r.o.Version, Claim: r.o.ASDDirs, Steal: r.o.Steal, Secret: r.o.Secret, Cache: r.o.Cache, Compaction: r.o.Compaction})
	if err != nil {
		return err
	}
	for _, d := range r.node.Troubles() {
		fmt.Fprintf(r.o.Err, "gabion: disk %s in %s is %s: %s; its content is served from the other disks\n", d.ID, d.Dir, d.State, d.Error)
	}
	if err := r.dir.Finish(); err != nil {
		return err
	}
	if err := r.node.Finish(ctx); err != nil {
		return err
	}
	if err := r.startDAV(ctx); err != nil {
		return err
	}
	if err := r.startMount(ctx, mountOn); err != nil {
		return err
	}
	if err := r.serveControl(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	mounted, url := r.exports()
	_, err = fmt.Fprintf(r.o.Out, "ready: mount=%s dav=%s data=%s\n", orDash(mounted), orDash(url), r.dir.Path)
	if r.o.Mount == "" {
		fmt.Fprintln(r.o.Err, "gabion: serving WebDAV only; give --mount DIR to mount the filesystem as well")
	}
	r.log.Debug("started", "took", time.Since(r.started))
	return err
}

// wait returns when it is time to stop.
func (r *run) wait(ctx context.Context) error {
	gone := r.mountGone // nil, and so never ready, without a mount
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.failed:
			return err
		case <-look.C:
			if err := r.node.Failed(); err != nil {
				return fmt.Errorf("the key-value store has stopped: %w", err)
			}
		case <-gone:
			gone = nil
			if r.dav == nil {
				r.log.Info("unmounted from outside, and WebDAV is off: stopping")
				return nil
			}
			r.log.Warn("unmounted from outside; WebDAV goes on")
		}
	}
}

// stop takes down what runs, exports first.
func (r *run) stop() error {
	var errs []error
	add := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if r.control != nil {
		add("control socket", r.control.Close())
	}
	add("stopping WebDAV", r.stopDAV())
	add("unmounting", r.stopMount())
	if r.node != nil {
		add("closing", r.node.Close())
	}
	if r.pprof != nil {
		add("stopping pprof", r.pprof.Close())
	}
	if r.dir != nil {
		if r.dir.Config.State != datadir.Ready {
			add("disks", errors.Join(takeBack(r.claims), r.releaseRemote()))
		}
		add("data directory", r.dir.Abandon()) // only an unfinished creation is taken back
	}
	return errors.Join(errs...)
}

// exports tells where the filesystem can be reached: the mount point and the URL, or "".
func (r *run) exports() (mounted, url string) {
	if r.mount != nil {
		select {
		case <-r.mountGone:
		default:
			mounted = r.mount.Dir()
		}
	}
	if r.dav != nil {
		url = r.dav.URL()
	}
	return mounted, url
}

// serve runs s on l in the background; ending in any way but Shutdown or Close stops the run.
func (r *run) serve(what string, s *http.Server, l net.Listener) {
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.failed <- fmt.Errorf("%s: %w", what, err)
		}
	}()
}

// serveControl opens the control socket. It answers with the node's state and with what is exported.
func (r *run) serveControl() error {
	l, err := control.Listen(r.dir.Path)
	if err != nil {
		return err
	}
	r.control = &http.Server{Handler: control.Handler(backend{r.node, r}), ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug)}
	r.serve("control socket", r.control, l)
	return nil
}

// backend is the node as a running process shows it.
type backend struct {
	*node.Node
	r *run
}

func (b backend) Status(ctx context.Context) (control.Status, error) {
	s, err := b.Node.Status(ctx)
	s.Mount, s.DAV = b.r.exports()
	s.PID, s.Started = os.Getpid(), b.r.started
	return s, err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
