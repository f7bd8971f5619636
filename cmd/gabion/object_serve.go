package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

// Limits of `object serve`.
const (
	maxObjectConns    = 256
	objectHeaderLimit = 10 * time.Second
	objectIdleLimit   = 2 * time.Minute
	objectStopLimit   = 10 * time.Second
)

func newObjectServe(e *env) *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the objects over HTTP",
		Long: `Serve the objects of all namespaces over HTTP until Ctrl-C:

  GET, HEAD   /NAMESPACE/NAME    with ranges and conditions; ETags are strong
  PUT         /NAMESPACE/NAME    a new object, durable when it is acknowledged
  DELETE      /NAMESPACE/NAME
  GET         /NAMESPACE/        a list as JSON: ?prefix=P or ?from=A&to=B, ?limit=N

Nobody is asked who they are, so only a loopback address can be listened on; to
reach it from elsewhere put a proxy with TLS and authentication in front.`,
		Example: `  gabion object serve
  curl -T backup.tar http://127.0.0.1:8081/user/backup.tar
  curl -r 0-99 http://127.0.0.1:8081/user/backup.tar
  curl 'http://127.0.0.1:8081/user/?prefix=back&limit=10'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, _, err := net.SplitHostPort(listen); err != nil {
				return usagef("--listen %q: want an address such as 127.0.0.1:8081", listen)
			}
			if !loopback(listen) {
				return usagef("--listen %s would let everyone who can reach it read and remove objects: give a loopback address", listen)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return e.withClient(ctx, func(c *control.Client) error { return e.serveObjects(ctx, listen, c.Objects()) })
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8081", "loopback `address` to listen on")
	return cmd
}

// serveObjects serves h until ctx is over.
func (e *env) serveObjects(ctx context.Context, addr string, h http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: onlyByAddress(h), ReadHeaderTimeout: objectHeaderLimit, IdleTimeout: objectIdleLimit}
	fmt.Fprintf(e.out, "ready: objects=http://%s/\n", l.Addr())
	served := make(chan error, 1)
	go func() { served <- s.Serve(netutil.LimitListener(l, maxObjectConns)) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.Background(), objectStopLimit)
	defer cancel()
	err = s.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	<-served
	return err
}

// onlyByAddress refuses requests that were sent to a host name: a web page whose name is made to mean the
// loopback address must not reach what is served without a password.
func onlyByAddress(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			http.Error(w, "ask for the address, not for a name", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
