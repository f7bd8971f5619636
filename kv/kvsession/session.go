package kvsession

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// Options of Open. Only Owner is required.
type Options struct {
	// Owner names the user of the store, for others that want it, and is who may come back at once: a
	// session of the same owner takes the place of an earlier one without waiting for its time to run
	// out. So it should be unique to what makes sure that there is one user, like a data directory.
	Owner string
	// TTL is how long the store stays reserved when nothing is heard of this session; 15 s when 0. Half
	// of it is how long the session answers from what it knows while nobody answers it.
	TTL time.Duration
	// Wait is how long Open waits for another owner's session to end or run out; not at all when 0.
	Wait time.Duration
	// Steal takes the store from another owner that is alive.
	Steal bool
	// CacheBytes bounds what is remembered of the store, about; 64 MiB when 0. What is not acknowledged
	// comes on top of it.
	CacheBytes int64
	// MaxPending bounds the bytes that are sequenced and not acknowledged, about; 64 MiB when 0. Updates
	// wait while there are more.
	MaxPending int64
	// Window is how long an Ordered update may wait for company before it is sent; 40 ms when 0.
	Window time.Duration
	// CloseTimeout bounds how long Close waits for a cluster that does not answer; 30 s when 0.
	CloseTimeout time.Duration
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger

	rows int // in a page; pageRows when 0
}

func (o *Options) setDefaults() error {
	if o.Owner == "" {
		return errors.New("kvsession: Options.Owner is empty")
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&o.TTL, 15 * time.Second}, {&o.Window, 40 * time.Millisecond}, {&o.CloseTimeout, 30 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.rows == 0 {
		o.rows = pageRows
	}
	if o.MaxPending == 0 {
		o.MaxPending = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Dialer reaches the leader of the session's store.
type Dialer interface {
	// Dial opens a connection to the member that leads, as far as is known. last is why the attempt or the
	// connection before this one failed, nil for the first: it may say who leads, or that another member
	// should be asked.
	Dial(ctx context.Context, last error) (Conn, error)
}

// Conn is one connection. Send and Recv are each called by one goroutine at a time; Close ends both.
type Conn interface {
	Send(*kvpb.SessionRequest) error
	Recv() (*kvpb.SessionResponse, error)
	Close()
}

// Session is a kv.Store. Safe for concurrent use.
//
// Lock order: seqMu, mu, table.mu.
type Session struct {
	o      Options
	store  string
	dialer Dialer
	log    *slog.Logger
	id     []byte // 16 random bytes
	epoch  uint64 // fencing number; set before run starts
	lease  lease

	seqMu   sync.Mutex    // held while a transaction is evaluated; guards alone and closing
	alone   chan struct{} // not nil: one transaction is evaluated alone; closed at its end
	closing bool

	mu        sync.Mutex // guards what follows
	seq       uint64     // of the last transaction
	sent      uint64     // of the last one that a member may have received
	acked     uint64     // of the last one that is durable
	number    uint64     // of the last batch that was begun
	views     []*view
	waiting   bool          // the sender waits for views to close
	open      *outgoing     // being filled, or nil
	queue     []*outgoing   // sealed and not acknowledged, oldest first
	spare     [][]byte      // memory of batches that are acknowledged
	inFlight  int           // batches of queue that were sent on the present connection
	pending   int64         // bytes not acknowledged
	progress  chan struct{} // closed and replaced when batches were acknowledged
	fetches   map[uint64]*fetch
	byProbe   map[probe]*fetch
	outbox    []*fetch // to be sent
	fetchID   uint64
	releasing bool // Close wants to give the store back
	released  chan struct{}
	connected bool
	failure   error // why the session is over
	counts    counters

	table table
	kick  chan struct{} // there may be something to send
	done  chan struct{} // closed when the session is over
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

var _ kv.Store = (*Session)(nil)

// OpenWith opens a session over connections of any kind. Open is what one wants.
func OpenWith(ctx context.Context, d Dialer, store string, o Options) (*Session, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	s := &Session{
		o: o, store: store, dialer: d, log: o.Logger, id: make([]byte, 16),
		progress: make(chan struct{}), fetches: map[uint64]*fetch{}, byProbe: map[probe]*fetch{},
		released: make(chan struct{}), table: newTable(), kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if _, err := rand.Read(s.id); err != nil {
		return nil, err
	}
	s.lease.init(o.TTL)
	c, err := s.acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a session on store %q: %w", store, err)
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.run(run, c) })
	return s, nil
}

// enter refuses calls on a session that is over.
func (s *Session) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.done:
		return s.cause()
	default:
		return nil
	}
}

// cause is why the session is over.
func (s *Session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Err returns why the session can no longer be used, or nil: another user has the store, or it was
// closed.
func (s *Session) Err() error { return s.cause() }

// fail ends the session. What was not acknowledged is given up.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return
	}
	s.failure = err
	if s.open != nil {
		s.seal()
	}
	for _, b := range s.queue {
		b.err = err
		close(b.done)
	}
	s.counts.lost += len(s.queue)
	s.queue, s.inFlight = nil, 0
	for _, f := range s.fetches {
		f.finish(err)
	}
	s.fetches, s.byProbe, s.outbox = nil, nil, nil
	close(s.done)
}

// Close makes everything that was sequenced durable, gives the store back and ends the session. When the
// cluster does not answer for Options.CloseTimeout it gives up, with an error that matches
// kv.ErrUnknownOutcome.
func (s *Session) Close() error {
	s.seqMu.Lock()
	again := s.closing
	s.closing = true
	s.seqMu.Unlock()
	if again {
		return kv.ErrClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.CloseTimeout)
	defer cancel()
	err := s.flush(ctx)
	s.fail(kv.ErrClosed)
	s.stop()
	s.wg.Wait()
	return err
}

// releaseTimeout is how long Close tries to give the store back; it is only a courtesy.
const releaseTimeout = 3 * time.Second

// flush waits for what was sequenced and gives the store back.
func (s *Session) flush(ctx context.Context) error {
	s.mu.Lock()
	seq, err := s.seq, s.failure
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.waitDurable(ctx, seq); err != nil {
		return fmt.Errorf("close: %w: %w", kv.ErrUnknownOutcome, err)
	}
	s.mu.Lock()
	s.releasing = true
	s.mu.Unlock()
	wake(s.kick)
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	select {
	case <-s.released:
	case <-s.done: // too late to matter: everything is durable
	case <-ctx.Done():
		s.log.Warn("the store was not given back: it stays reserved for a while", "store", s.store, "ttl", s.o.TTL)
	}
	return nil
}
