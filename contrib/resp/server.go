package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// Store is what a Server needs of a remote store; *kvrpc.Store is one.
type Store interface {
	MultiGet(ctx context.Context, keys []kvrpc.Key, o kvrpc.ReadOptions) ([]kvrpc.Value, error)
	Range(ctx context.Context, ks kv.Keyspace, r kv.Range, o kvrpc.RangeOptions) (*kvrpc.Page, error)
	Count(ctx context.Context, ks kv.Keyspace, r kv.Range, o kvrpc.ReadOptions) (*kvrpc.CountResult, error)
	Apply(ctx context.Context, c kv.Commit, steps []kv.Step) ([]kv.StepResult, error)
}

// Config of a Server.
type Config struct {
	// Commit is the strength of writes.
	Commit kv.Commit
	// Timeout bounds the work on one command; 10 s when 0.
	Timeout time.Duration
	// Password that clients must give; none is asked for when it is empty.
	Password string
	// Logger receives what an operator should know; nothing is logged when it is nil.
	Logger *slog.Logger
}

// Server answers Redis clients from a store.
type Server struct {
	Config
	store    Store
	redis    *redcon.Server
	modifier *modifier
	cursors  cursors
	began    time.Time
	sessions atomic.Int64 // open
	last     atomic.Int64 // number of the last one
	answered atomic.Uint64

	// ctx ends with the server.
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
}

// NewServer returns a server that is not listening yet.
func NewServer(store Store, c Config) *Server {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{Config: c, store: store, began: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.modifier = newModifier(s)
	s.redis = redcon.NewServer("", s.handle, s.accept, s.closed)
	return s
}

// Serve answers who connects to l, until ctx is over or Close is called.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	err := s.redis.Serve(boundedListener{l})
	if s.ctx.Err() != nil {
		return nil
	}
	return err
}

// Close ends all connections. Commands under way are cut off.
func (s *Server) Close() {
	s.once.Do(func() {
		s.cancel()
		_ = s.redis.Close()
		s.modifier.close()
	})
}

// session is what a connection has said so far. It is used by one goroutine at a time.
type session struct {
	server   *Server
	id       int64
	name     string
	trusted  bool // gave the password, or needs none
	database int
	queue    *transaction // between MULTI and EXEC, or nil
	watched  []watched
	out      []byte // answers that were not given to the connection yet
	batch    batch
	quit     bool
}

func (s *Server) accept(c redcon.Conn) bool {
	s.sessions.Add(1)
	c.SetContext(&session{server: s, id: s.last.Add(1), trusted: s.Password == ""})
	return true
}

func (s *Server) closed(_ redcon.Conn, err error) {
	s.sessions.Add(-1)
	if errors.Is(err, errRequest) {
		s.Logger.Warn("a client sent more than is allowed before a command was complete", "limit", maxRequest)
	}
}

// handle answers a command and those that came with it.
func (s *Server) handle(c redcon.Conn, first redcon.Command) {
	if b, ok := c.NetConn().(*boundedConn); ok {
		b.complete()
	}
	n := c.Context().(*session)
	n.out = n.out[:0]
	n.do(first.Args)
	for _, cmd := range c.ReadPipeline() {
		if n.quit {
			break
		}
		n.do(cmd.Args)
	}
	n.flush()
	c.WriteRaw(n.out)
	if cap(n.out) > 1<<20 {
		n.out = nil
	}
	if n.quit {
		_ = c.Close()
	}
}

// do takes one command up: it is answered, or added to the batch that the next flush carries out.
func (n *session) do(args [][]byte) {
	n.server.answered.Add(1)
	name := strings.ToUpper(string(args[0]))
	cmd := commands[name]
	switch {
	case cmd == nil:
		n.refuse("ERR unknown command '%.128s': this server knows a part of the commands, see COMMAND LIST", args[0])
		return
	case len(args) < cmd.min || cmd.max > 0 && len(args) > cmd.max:
		n.refuse("ERR wrong number of arguments for '%s' command", strings.ToLower(name))
		return
	case !n.trusted && !cmd.open:
		n.refuse("NOAUTH Authentication required.")
		return
	case cmd.run != nil:
		if n.queue != nil && !cmd.control {
			n.refuse("ERR %s is not possible inside MULTI", name)
			return
		}
		n.flush()
		cmd.run(n, args)
		return
	}
	o, err := cmd.plan(n.keyspace(), args)
	if err == nil {
		err = o.check()
	}
	switch {
	case err != nil:
		n.refuse("%s", errorText(err))
	case n.queue != nil:
		n.enqueue(o)
	default:
		n.add(o)
	}
}

// refuse answers with an error, behind what came before. It spoils a transaction that is being queued.
func (n *session) refuse(format string, args ...any) {
	n.flush()
	if n.queue != nil {
		n.queue.spoiled = true
	}
	n.out = redcon.AppendError(n.out, oneLine(fmt.Sprintf(format, args...)))
}

func (n *session) keyspace() kv.Keyspace { return keyspaces[n.database] }

// context of one call to the store.
func (s *Server) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, s.Timeout)
}

func (n *session) login(password []byte) bool {
	if want := n.server.Password; want == "" || subtle.ConstantTimeCompare([]byte(want), password) != 1 {
		return false
	}
	n.trusted = true
	return true
}

// replyError is an error in the words of the protocol: a code, a space, and text.
type replyError string

func (e replyError) Error() string { return string(e) }

const (
	errSyntax  replyError = "ERR syntax error"
	errInteger replyError = "ERR value is not an integer or out of range"
)

// errorText tells an error to a client. The first word is what programs look at.
func errorText(err error) string {
	var own replyError
	code := "ERR "
	switch {
	case errors.As(err, &own):
		return string(own)
	case errors.Is(err, kv.ErrUnknownOutcome):
		code = "UNKNOWNOUTCOME "
	case errors.Is(err, kv.ErrNoQuorum), errors.Is(err, context.DeadlineExceeded):
		code = "CLUSTERDOWN "
	case errors.Is(err, kv.ErrFenced):
		code = "READONLY "
	}
	return code + err.Error()
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return ' '
		}
		return r
	}, s)
}
