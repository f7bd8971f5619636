package dav

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// DefaultAddr is where a server listens when nothing else is asked for.
const DefaultAddr = "127.0.0.1:8080"

// Causes of a *ListenError, to be matched with errors.Is.
var (
	ErrNoPassword = errors.New("it is not a loopback address, and no password is configured")
	ErrAddrInUse  = errors.New("the address is in use")
)

// ListenError says why a server could not begin to listen. Its text is for the user.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string {
	hint := ""
	switch {
	case errors.Is(e.Err, ErrNoPassword):
		hint = "; give a user and a password file, or listen on 127.0.0.1"
	case errors.Is(e.Err, ErrAddrInUse):
		hint = "; stop what listens there, or choose another port"
	}
	return fmt.Sprintf("WebDAV cannot listen on %s: %v%s", e.Addr, e.Err, hint)
}
func (e *ListenError) Unwrap() error { return e.Err }

// Limits of a server. Bodies have none but that they must make progress; see transferTimeout.
const (
	maxConnections    = 1024
	maxHeader         = 64 << 10
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
)

// Server serves a Handler on one address.
type Server struct {
	http http.Server
	ln   net.Listener
	url  string
}

// Listen binds addr, "host:port"; empty means DefaultAddr. Without users only loopback addresses are
// bound, so ":8080" is refused. Port 0 chooses one. Errors are *ListenError.
func Listen(addr string, h *Handler) (*Server, error) {
	if addr == "" {
		addr = DefaultAddr
	}
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, &ListenError{Addr: addr, Err: err}
	}
	if !h.HasUsers() && !tcp.IP.IsLoopback() {
		return nil, &ListenError{Addr: addr, Err: ErrNoPassword}
	}
	ln, err := net.ListenTCP("tcp", tcp)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = ErrAddrInUse
	}
	if err != nil {
		return nil, &ListenError{Addr: addr, Err: err}
	}
	return &Server{
		ln: ln, url: "http://" + reachable(ln.Addr()) + h.prefix + "/",
		http: http.Server{
			Handler: h, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
			ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		},
	}, nil
}

// reachable returns the address with which this machine reaches a listener.
func reachable(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil || !ap.Addr().IsUnspecified() {
		return a.String()
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
}

// URL is where the tree is, as in "http://127.0.0.1:8080/".
func (s *Server) URL() string { return s.url }

// Serve answers requests until Shutdown, and then returns nil.
func (s *Server) Serve() error {
	err := s.http.Serve(netutil.LimitListener(s.ln, maxConnections))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving WebDAV on %s: %w", s.ln.Addr(), err)
}

// Shutdown stops listening and waits for the requests that are being answered. When ctx ends first they
// are cut off, which leaves the tree as after any connection that breaks.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.ln.Close() // when Serve was never called
	if err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}
