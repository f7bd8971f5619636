// Package local assembles the object layer of one process: ASD folders, and disks that other processes
// serve, the backend manager, namespace managers, the client and maintenance. A Host is the other end: it has
// the folders that one process serves to others.
//
// A folder that is missing or damaged never prevents the start: its disk is reported as such and the
// others serve. Folders are watched: one that disappears or fails is taken out of use within seconds, and
// taken back when it returns.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/fragcache"
	"github.com/gabionfs/gabion/objstore/maint"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
	"github.com/gabionfs/gabion/objstore/remote"
	"github.com/gabionfs/gabion/objstore/stacked"
)

// PresetName is the preset of the namespaces of a local backend that do not say.
const PresetName = "default"

// Options for Open. KV, Cluster and, at the first start, Dirs must be set.
type Options struct {
	// KV is where disks are kept, and manifests. Open does not close it.
	KV kv.Store
	// Stores opens the store of another namespace manager, by the name and place that AddManager was given. The
	// backend closes it. nil: all manifests are in KV.
	Stores func(ctx context.Context, name, place string) (kv.Store, error)
	// Anew takes a store of a namespace manager that is empty now, although it was not, for a new one: what the
	// namespaces in it had is to be recovered from the disks.
	Anew bool
	// Cluster owns the folders.
	Cluster asd.ID
	// Dirs are ASD folders, beside those that are known from before. One that is empty is claimed as a
	// new disk; one that does not exist is created, unless a disk was there before: then it is missing.
	Dirs []string
	// Base is an absolute path that may be moved as a whole: folders below it are remembered relative to
	// it. "" remembers absolute paths only.
	Base string
	// Policies of the preset, best first. Nil keeps those from before, and at the first start means
	// objstore.DefaultPolicies for the number of disks.
	Policies []objstore.Policy
	// Compression and FragmentSize of the preset, used with Policies and at the first start.
	Compression  objstore.Compression
	FragmentSize int
	// Encryption of the preset, at the first start; it never changes.
	Encryption objstore.Encryption
	Keys       KeyOptions
	// Capacity bounds the bytes of each ASD; 0 means its filesystem.
	Capacity int64
	// Compaction of the ASDs of this process.
	Compaction asd.Compaction
	// Node names this machine; "" means "local".
	Node string
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger

	Client      client.Options // Disks, Trouble, Logger and what is about the cache are set by Open
	Maintenance maint.Options  // KV, Disks, Namespaces and Logger are set by Open
	NoMaint     bool           // no maintenance in the background, for offline checks

	// Cache says what of fragments is kept near.
	Cache CacheOptions

	// WatchEvery is how often folders are looked at; 0 means 1 s.
	WatchEvery time.Duration
	// Remote says how to reach the disks of other processes, whose place in Dirs is asd://HOST:PORT/ID. Only its
	// Credentials must be set.
	Remote remote.Options
	// Lower finds namespaces of other backends (see Backend.Lower), whose place in Dirs is backend://NAME/NAMESPACE; nil: there are
	// none. What it has returned is used until Close.
	Lower stacked.Finder
	// Opener replaces the opening of ASD folders, for tests.
	Opener Opener
}

// Opener opens and claims folders.
type Opener interface {
	// Open opens the disk in dir and returns the id that is written on it; want, unless "", is the
	// only one that is accepted. Errors are as those of asd.Open.
	Open(ctx context.Context, dir, want string) (id string, dev objstore.Disk, err error)
	// Claim makes an empty or missing folder a new disk.
	Claim(ctx context.Context, dir string) error
}

// Backend is the object layer of one process. Safe for concurrent use.
type Backend struct {
	o      Options
	log    *slog.Logger
	disks  *manager.Manager
	client *client.Client
	maint  *maint.Maint
	opener Opener
	cache  *asd.IndexCache // of all ASDs; nil with another Opener

	fragments *fragcache.Cache // nil: none
	cacheErr  error            // why its folder is not used

	mu         sync.Mutex // guards namespaces
	namespaces map[string]*client.Namespace

	hosts hosts

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	closing sync.Once
	safety  safetyCache
}

// Open opens all folders, in parallel, and starts to watch and to maintain. It fails when the options
// make no sense, when the store fails, or when a folder in Dirs cannot be used although nothing is wrong
// with it: it belongs to another cluster, is open already, or is of a later format.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if o.Node == "" {
		o.Node = "local"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.WatchEvery == 0 {
		o.WatchEvery = time.Second
	}
	b := &Backend{o: o, log: o.Logger, opener: o.Opener, namespaces: make(map[string]*client.Namespace)}
	if b.opener == nil {
		b.cache = asd.NewIndexCache(indexCache)
		b.opener = asdOpener{asd.Options{Cluster: o.Cluster, Capacity: o.Capacity, Compaction: o.Compaction, Logger: o.Logger,
			Cache: b.cache, Buffers: &asd.BufferPool{}}}
	}
	b.hosts.byName, b.hosts.wake = make(map[string]*hosted), make(chan struct{}, 1)
	o.Remote.Owner = o.Cluster
	b.opener = anywhere{b.opener, o.Remote, b.stack()}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var err error
	if b.disks, err = manager.OpenIn(ctx, o.KV, o.Base, o.Logger); err != nil {
		b.cancel()
		return nil, err
	}
	if err := b.start(ctx); err != nil {
		b.shutdown()
		return nil, err
	}
	return b, nil
}

// indexCache is the memory that the indexes of all ASDs share.
const indexCache = 32 << 20

func (b *Backend) start(ctx context.Context) error {
	if err := b.openCache(); err != nil {
		return err
	}
	if err := b.openDirs(ctx); err != nil {
		return err
	}
	if err := b.preset(ctx); err != nil {
		return err
	}
	if err := b.openHosts(ctx); err != nil {
		return err
	}
	mo := b.o.Maintenance
	mo.KV, mo.Disks, mo.Namespaces, mo.Stores, mo.Logger = b.o.KV, b.disks, b.list, b.stores, b.log
	b.maint = maint.New(mo)
	if err := b.unlock(ctx); err != nil {
		return err
	}
	co := b.o.Client
	co.Disks, co.Trouble, co.Reclaim, co.Logger = b.disks, b.maint, b.maint.Reclaim, b.log
	co.Fragments, co.CacheReads, co.CacheWrites = b.fragments, b.o.Cache.Reads, b.o.Cache.Writes
	b.client = client.New(co)
	all, err := b.disks.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if _, err := b.addNamespace(ctx, r); err != nil {
			return err
		}
	}
	for _, d := range b.disks.Disks() {
		if err := d.Refresh(ctx); err != nil {
			b.lost(d, err)
		}
	}
	b.wg.Go(b.watch)
	if !b.o.NoMaint {
		b.maint.Start()
		b.wg.Go(b.tends)
	}
	return nil
}

// preset sees to it that the preset exists, as the options say.
func (b *Backend) preset(ctx context.Context) error {
	old, err := b.disks.Preset(ctx, PresetName)
	known := err == nil
	switch {
	case known && b.o.Policies == nil:
		return nil
	case !known && !errors.Is(err, objstore.ErrNotFound):
		return err
	}
	p := objstore.Preset{Name: PresetName, Policies: b.o.Policies, FragmentSize: b.o.FragmentSize, Compression: b.o.Compression, Encryption: b.o.Encryption}
	if known {
		p.Encryption, p.Checksum, p.Disks = old.Encryption, old.Checksum, old.Disks
	}
	if p.Policies == nil {
		p.Policies = objstore.DefaultPolicies(len(b.disks.Disks()))
	}
	if known && samePreset(old, p) {
		return nil
	}
	return b.disks.PutPreset(ctx, p)
}

func samePreset(a, b objstore.Preset) bool {
	if b.FragmentSize == 0 {
		b.FragmentSize = manager.DefaultFragmentSize
	}
	return slices.Equal(a.Policies, b.Policies) && a.FragmentSize == b.FragmentSize && a.Compression == b.Compression
}

// list returns all namespaces.
func (b *Backend) list() []*client.Namespace {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*client.Namespace, 0, len(b.namespaces))
	for _, ns := range b.namespaces {
		out = append(out, ns)
	}
	slices.SortFunc(out, func(x, y *client.Namespace) int { return int(x.NSM().Number()) - int(y.NSM().Number()) })
	return out
}

func (b *Backend) addNamespace(ctx context.Context, r manager.NamespaceRecord) (*client.Namespace, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Under the lock: a change of the preset is told to the namespaces that are known by then, and one that is
	// deleted is not known any more.
	if _, err := b.disks.HostOf(ctx, r.Name, r.Number); err != nil {
		return nil, err
	}
	p, err := b.disks.Preset(ctx, r.Preset)
	if err != nil {
		return nil, err
	}
	if ns := b.namespaces[r.Name]; ns != nil {
		return ns, nil
	}
	h, err := b.hosted(r.Host)
	if err != nil {
		return nil, err
	}
	n := nsm.Open(h.store, nsm.Options{Name: r.Name, Number: r.Number, Policies: p.Policies, Disks: b.disks,
		Highest: maint.Highest(b.disks), Home: b.home(r)})
	ns := b.client.Namespace(n, p)
	if err := b.giveKeys(ctx, ns); err != nil {
		return nil, err
	}
	b.namespaces[r.Name] = ns
	return ns, nil
}

// Namespace returns the namespace of that name, and creates it when there is none: then its label is on the disks
// before it is returned, so that it keeps its name when the store is lost.
func (b *Backend) Namespace(ctx context.Context, name string) (objstore.Namespace, error) {
	return b.namespace(ctx, name, PresetName)
}

// namespace is Namespace, by a preset when it is made.
func (b *Backend) namespace(ctx context.Context, name, preset string) (objstore.Namespace, error) {
	b.mu.Lock()
	ns := b.namespaces[name]
	b.mu.Unlock()
	if ns != nil {
		if b.o.NoMaint || b.maint.Labelled(ns.NSM().Number()) {
			return ns, nil
		}
		return ns, b.maint.Label(ctx) // it may have been made by a process that ended before it had
	}
	p, err := b.disks.Preset(ctx, preset)
	if err == nil {
		err = b.checkUnlocked(p)
	}
	if err != nil {
		return nil, err
	}
	r, err := b.disks.Namespace(ctx, name, preset)
	if err != nil {
		return nil, err
	}
	if err := b.maint.Label(ctx); err != nil {
		return nil, err
	}
	if err := b.disks.Deliver(ctx, b.host); err != nil {
		b.log.Warn("namespace managers: will try again", "error", err)
		b.tendLater()
	}
	return b.addNamespace(ctx, r)
}

// Close stops maintenance, finishes what is being written and closes the folders. The store stays open.
// Calls of namespaces must have returned.
func (b *Backend) Close() error {
	err := error(nil)
	b.closing.Do(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.shutdown()
		}()
		t := time.NewTimer(closeWait)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			// A disk that hangs cannot be closed, nor be waited for without end. What was acknowledged
			// is durable without it.
			err = fmt.Errorf("objstore: a disk has not answered for %v and is left as it is", closeWait)
		}
	})
	return err
}

// closeWait is how long Close waits for disks.
const closeWait = 30 * time.Second

func (b *Backend) shutdown() {
	b.cancel()
	if b.maint != nil {
		b.maint.Close()
	}
	if b.client != nil {
		b.client.Close()
	}
	b.wg.Wait()
	var wg sync.WaitGroup
	for _, d := range b.disks.Disks() {
		wg.Go(d.Shutdown)
	}
	wg.Wait()
	if b.fragments != nil {
		if err := b.fragments.Close(); err != nil {
			b.log.Warn("the cache of fragments did not close well", "error", err)
		}
	}
	b.closeHosts()
	if b.cache != nil {
		b.cache.Close()
	}
}

// errNoDisk is for a disk that is unknown.
func errNoDisk(id objstore.DiskID) error {
	return fmt.Errorf("disk %d: %w", id, objstore.ErrNotFound)
}

// Existing returns the namespace of that name, or objstore.ErrNotFound.
func (b *Backend) Existing(name string) (objstore.Namespace, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ns := b.namespaces[name]; ns != nil {
		return ns, nil
	}
	return nil, fmt.Errorf("namespace %q: %w", name, objstore.ErrNotFound)
}
