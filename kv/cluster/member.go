package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// member is this node's part of a store, from the moment that it is to be opened.
type member struct {
	n      *Node
	name   string // of the store
	raftID string

	ctx    context.Context // until close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	layer *streams      // of the latest attempt to open it
	store *raftkv.Store // nil until it is open
	err   error         // why it does not run
	again bool          // opening it again may help
}

// DamagedError says that a member cannot run with the files it has, and what to do.
type DamagedError struct {
	Node, Store string
	Dir         string // of the member
	Err         error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("cluster: the member of store %q on node %s cannot start: %v. Its files in %s are damaged or missing; the other members have the data. "+
		"Replace the node: `gabion node --data NEWDIR --listen ADDR --join PEER --token TOKEN --id NEWID`, then `gabion cluster replace %s NEWID`",
		e.Store, e.Node, e.Err, e.Dir, e.Node)
}

func (e *DamagedError) Unwrap() error { return e.Err }

func (n *Node) newMember(name, raftID string) *member {
	m := &member{n: n, name: name, raftID: raftID, layer: newStreams(n, raftID)}
	m.ctx, m.cancel = context.WithCancel(n.ctx)
	return m
}

// streams returns the member's connections.
func (m *member) streams() *streams {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.layer
}

// renew gives the member a new layer: raft's transport closes the one it had.
func (m *member) renew() *streams {
	s := newStreams(m.n, m.raftID)
	m.mu.Lock()
	m.layer = s
	m.mu.Unlock()
	if m.ctx.Err() != nil {
		s.cut()
	}
	return s
}

// running returns the store when it runs.
func (m *member) running() (*raftkv.Store, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.store != nil:
		return m.store, nil
	case m.err != nil:
		return nil, fmt.Errorf("%w: %w", kv.ErrClosed, m.err)
	}
	return nil, fmt.Errorf("%w: the member of %q on node %s is being opened", kv.ErrClosed, m.name, m.n.id)
}

// damaged says whether the member does not run because of its files.
func (m *member) damaged() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var d *DamagedError
	return errors.As(m.err, &d)
}

// open opens the member's files. boot is the first configuration of a new group, or nil.
func (m *member) open(ctx context.Context, boot []string) error {
	store, err := m.openStore(ctx, boot)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store, m.err, m.again = store, err, false
	if err == nil {
		return nil
	}
	var (
		damaged *DamagedError
		corrupt *kv.CorruptError
		id      *raftkv.IDError
		version *raftkv.VersionError
	)
	switch {
	case errors.As(err, &damaged):
	case errors.As(err, &corrupt), errors.As(err, &id), errors.As(err, &version):
		m.err = &DamagedError{Node: m.n.id, Store: m.name, Dir: m.n.storePath(m.raftID), Err: err}
	default:
		m.again = true
	}
	return m.err
}

func (m *member) openStore(ctx context.Context, boot []string) (*raftkv.Store, error) {
	n := m.n
	dir := n.storePath(m.raftID)
	mk, found, err := n.readMark(m.raftID)
	if err != nil {
		return nil, err
	}
	first := !found || !mk.created
	if _, err := os.Stat(filepath.Join(dir, "format")); !first && errors.Is(err, os.ErrNotExist) {
		return nil, &DamagedError{Node: n.id, Store: m.name, Dir: dir, Err: errors.New("it had files, and they are gone")}
	}
	if !found {
		mk = mark{index: n.image.Load().upTo, store: m.name}
		if err := writeMark(n.opts.Dir, m.raftID, mk); err != nil {
			return nil, err
		}
	}
	o := raftkv.Options{
		Dir: dir, ID: n.id, Logger: n.log.With("store", m.name), Join: true,
		HeartbeatTimeout: n.opts.HeartbeatTimeout, SyncTimeout: n.opts.SyncTimeout,
	}
	if m.raftID == Directory {
		o.FlushBytes, o.SegmentBytes = 4<<20, 4<<20
	}
	if first && boot != nil {
		o.Join = false
		for _, id := range boot {
			o.Bootstrap = append(o.Bootstrap, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
		}
	}
	if n.opts.Tune != nil {
		n.opts.Tune(m.name, &o)
	}
	layer := m.renew()
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: 2, Timeout: raftTimeout, Logger: hclog.NewNullLogger(),
	})
	o.Transport = trans
	store, err := raftkv.Open(ctx, o)
	if err == nil && first {
		mk.created = true
		err = writeMark(n.opts.Dir, m.raftID, mk)
	}
	if err != nil {
		if store != nil {
			_ = store.Close()
		}
		_ = trans.Close()
		trans.CloseStreams()
		return nil, err
	}
	return store, nil
}

// close stops the member. Its files stay.
func (m *member) close() error {
	m.cancel()
	m.work.Wait()
	m.mu.Lock()
	store := m.store
	m.store, m.err, m.again = nil, errors.New("it was closed"), false
	m.mu.Unlock()
	var err error
	if store != nil {
		if err = store.Close(); errors.Is(err, kv.ErrClosed) || errors.Is(err, kv.ErrUnknownOutcome) || isNotLeader(err) {
			err = nil // it had stopped, or lost its leader: nothing that was acknowledged is lost
		}
	}
	m.streams().cut()
	return err
}

func isNotLeader(err error) bool {
	var not *kv.NotLeaderError
	return errors.As(err, &not)
}

// config returns the store's latest configuration.
func config(s *raftkv.Store) wish {
	w := wish{}
	for _, x := range s.Members() {
		w[x.ID] = x.Voter
	}
	return w
}

// directoryConfig is the directory's configuration, as this node knows it.
func (n *Node) directoryConfig() wish {
	d, err := n.member(Directory)
	if err != nil {
		return wish{}
	}
	return config(d)
}

func ready(s *clusterpb.Store) bool { return s.State == clusterpb.StoreState_STORE_READY }

// openDirectory opens this node's copy of the directory, without which it cannot run.
func (n *Node) openDirectory(ctx context.Context) error {
	if _, found, err := n.readMark(Directory); err != nil || !found {
		if err == nil {
			err = errors.New("the note that the node has it is gone")
		}
		return &DamagedError{Node: n.id, Store: Directory, Dir: n.storePath(Directory), Err: err}
	}
	m := n.newMember(Directory, Directory)
	n.mu.Lock()
	n.members[Directory] = m
	n.mu.Unlock()
	if err := m.open(ctx, nil); err != nil {
		return err
	}
	if err := n.readDirectory(); err != nil {
		return err
	}
	m.work.Go(m.govern)
	return nil
}

// readDirectory makes the image what this node's copy of the directory shows.
func (n *Node) readDirectory() error {
	d, err := n.member(Directory)
	if err != nil {
		return err
	}
	var im *image
	upTo, err := d.ViewAt(n.ctx, kv.Stale, func(r kv.Reader, index uint64) (err error) {
		if im, err = readImage(r); err == nil {
			im.index = index
		}
		return err
	})
	if err != nil {
		return err
	}
	im.upTo = max(upTo, im.index)
	n.setImage(im)
	return nil
}

// follow is the goroutine that keeps the image up to date.
func (n *Node) follow() {
	for n.ctx.Err() == nil {
		d, err := n.member(Directory)
		if err == nil {
			err = d.WaitApplied(n.ctx, n.image.Load().index+1)
		}
		if err == nil {
			err = n.readDirectory()
		}
		if err == nil {
			n.saveAddrs()
			continue
		}
		if n.ctx.Err() == nil {
			n.log.Error("cannot read the directory", "cause", err)
		}
		n.sleep(retryPeriod)
	}
}
