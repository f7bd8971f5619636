package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/remote"
)

// HostOptions of OpenHost. Dirs must be set.
type HostOptions struct {
	// Dirs are the folders of the disks. One that is empty or missing is announced as a new disk, for
	// somebody to claim.
	Dirs []string
	// Capacity bounds the bytes of each ASD; 0 means its filesystem.
	Capacity int64
	// Compaction of the ASDs.
	Compaction asd.Compaction
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

// Host has the folders that a remote.Server serves. Safe for concurrent use.
type Host struct {
	o     HostOptions
	open  asd.Options
	log   *slog.Logger
	cache *asd.IndexCache
	slots []*slot
}

var _ remote.Host = (*Host)(nil)

// slot is one folder.
type slot struct {
	dir   string
	asdID atomic.Pointer[asd.ID] // id.ASD, for those who look for it while another disk's lock is held for long

	mu  sync.Mutex
	id  asd.Identity // as last seen; the cluster is zero while it is unclaimed
	a   *asd.ASD     // nil while it is not open
	err error        // why it is not
}

// OpenHost announces the folders, and opens those that are claimed. A folder that is damaged is announced as
// such, and looked at again when somebody asks for it; one that holds something else is an error.
func OpenHost(ctx context.Context, o HostOptions) (*Host, error) {
	h := &Host{o: o, log: o.Logger, cache: asd.NewIndexCache(indexCache)}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.open = asd.Options{Capacity: o.Capacity, Compaction: o.Compaction, Logger: h.log, Cache: h.cache, Buffers: &asd.BufferPool{}}
	errs := make([]error, len(o.Dirs))
	var wg sync.WaitGroup
	for i, dir := range o.Dirs {
		s := &slot{dir: dir}
		s.asdID.Store(&asd.ID{})
		h.slots = append(h.slots, s)
		wg.Go(func() { errs[i] = h.begin(ctx, s) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// begin announces a folder. It returns an error only for what the user must correct.
func (h *Host) begin(ctx context.Context, s *slot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := asd.Announce(s.dir)
	if err == nil {
		s.identify(id)
		if err = h.use(ctx, s); err == nil {
			return nil
		}
	}
	s.err = err
	for _, refuse := range []error{asd.ErrNotEmpty, asd.ErrInUse, asd.ErrNewer} {
		if errors.Is(err, refuse) {
			return err
		}
	}
	h.log.Warn("a disk cannot be served", "dir", s.dir, "error", err)
	return nil
}

// use opens the folder if it is claimed; s.mu is held.
func (h *Host) use(ctx context.Context, s *slot) error {
	if s.a != nil || s.id.Cluster.IsZero() {
		return nil
	}
	o := h.open
	o.ASD, o.Cluster = s.id.ASD, s.id.Cluster
	// Whoever asked first may go away while it is opened, for which others wait.
	a, err := asd.Open(context.WithoutCancel(ctx), s.dir, o)
	s.a, s.err = a, err
	if err == nil {
		h.log.Info("serving a disk", "dir", s.dir, "asd", s.id.ASD, "cluster", s.id.Cluster)
	}
	return err
}

// identify notes what the folder holds; s.mu is held.
func (s *slot) identify(id asd.Identity) {
	s.id = id
	s.asdID.Store(&id.ASD)
}

// find returns the slot of the disk id, locked.
func (h *Host) find(id asd.ID) (*slot, error) {
	for _, s := range h.slots {
		if s.mu.TryLock() {
			if s.a == nil { // it may have been mended, or claimed by other means
				if now, err := asd.Inspect(s.dir); err == nil {
					s.identify(now)
				}
			}
			s.mu.Unlock()
		}
		if have := s.asdID.Load(); have.IsZero() || *have != id {
			continue
		}
		s.mu.Lock()
		if s.id.ASD == id {
			return s, nil
		}
		s.mu.Unlock()
	}
	return nil, &asd.OpenError{Dir: id.String(), Err: asd.ErrMissing, Hint: "this server has no such disk"}
}

// Open implements remote.Host.
func (h *Host) Open(ctx context.Context, id, owner asd.ID) (objstore.Disk, error) {
	s, err := h.find(id)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if s.id.Cluster.IsZero() {
		return nil, &asd.OpenError{Dir: s.dir, Err: asd.ErrMissing, Hint: "nobody has claimed it yet"}
	}
	if s.id.Cluster != owner {
		return nil, &asd.ClaimedError{Dir: s.dir, ASD: s.id.ASD, Owner: s.id.Cluster}
	}
	if s.a != nil {
		err := asdDisk{s.a}.Probe(ctx)
		if err == nil {
			return asdDisk{s.a}, nil
		}
		h.log.Warn("a disk has failed", "dir", s.dir, "error", err)
		_ = s.a.Close() // what is wrong with it is known
		s.a = nil
	}
	if err := h.use(ctx, s); err != nil {
		return nil, err
	}
	return asdDisk{s.a}, nil
}

// Claim implements remote.Host.
func (h *Host) Claim(ctx context.Context, id, owner asd.ID) error {
	s, err := h.find(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	now, err := asd.Claim(s.dir, id, owner)
	if err != nil {
		return err
	}
	s.identify(now)
	h.log.Info("a disk was claimed", "dir", s.dir, "asd", id, "cluster", owner)
	return h.use(ctx, s)
}

// Release implements remote.Host.
func (h *Host) Release(ctx context.Context, id, owner asd.ID, wipe bool) error {
	s, err := h.find(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if !s.id.Cluster.IsZero() && s.id.Cluster != owner {
		return &asd.ClaimedError{Dir: s.dir, ASD: s.id.ASD, Owner: s.id.Cluster}
	}
	if s.a != nil {
		if n := s.a.Stat().Records; n > 0 && !wipe {
			return &asd.OpenError{Dir: s.dir, Err: asd.ErrNotEmpty, Hint: fmt.Sprintf("it holds %d records: drain the disk first, or wipe it", n)}
		}
		_ = s.a.Close()
		s.a = nil
	}
	if err := asd.Release(ctx, s.dir, owner, wipe); err != nil {
		return errors.Join(err, h.use(ctx, s))
	}
	h.log.Info("a disk was released", "dir", s.dir, "asd", id, "cluster", owner)
	now, err := asd.Announce(s.dir)
	if s.err = err; err == nil {
		s.identify(now)
	}
	return err
}

// List implements remote.Host.
func (h *Host) List(context.Context) []remote.Announcement {
	var out []remote.Announcement
	for _, s := range h.slots {
		out = append(out, s.announcement())
	}
	return out
}

func (s *slot) announcement() remote.Announcement {
	if !s.mu.TryLock() {
		return remote.Announcement{ASD: *s.asdID.Load(), Dir: s.dir, State: remote.Down, Err: "it is being opened or closed"}
	}
	defer s.mu.Unlock()
	a := remote.Announcement{ASD: s.id.ASD, Owner: s.id.Cluster, Dir: s.dir, State: remote.Ready}
	switch {
	case s.a != nil:
		st := s.a.Stat()
		a.Total, a.Used, a.Free = st.Capacity, st.Live, st.Free
	case s.err != nil:
		a.State, a.Err = remote.Down, s.err.Error()
	default:
		a.State = remote.Unclaimed
		var fs unix.Statfs_t
		if unix.Statfs(s.dir, &fs) == nil {
			a.Total, a.Free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
		}
	}
	return a
}

// Close closes the disks. The server must not use them any more.
func (h *Host) Close() error {
	errs := make([]error, len(h.slots))
	var wg sync.WaitGroup
	for i, s := range h.slots {
		wg.Go(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.a != nil {
				errs[i] = s.a.Close()
				s.a, s.err = nil, objstore.ErrClosed
			}
		})
	}
	wg.Wait()
	h.cache.Close()
	return errors.Join(errs...)
}
