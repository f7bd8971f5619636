// Resp serves a store of a gabion cluster to Redis clients.
//
//	go run ./contrib/resp --cluster FILE --store NAME --listen 127.0.0.1:6380
//
// It knows strings: GET, SET with NX, XX and GET, counters, MULTI/EXEC and WATCH; `COMMAND LIST` names all
// of it. Every other command, and every option that is not kept, such as an expiry, is an error. What it
// acknowledges is durable on a quorum, and what it reads is the latest, unless --commit says otherwise.
// Database n of Redis is the keyspace "redis<n>", so `gabion kv` sees the same keys.
//
// What differs from Redis:
//
//   - The keys and values have the limits of package kv; the empty key is not one.
//   - MULTI/EXEC is one transaction on the cluster: all of it happens, or nothing.
//   - WATCH compares values: a key that was changed and changed back counts as unchanged.
//   - The commands of a pipeline are answered in order, but those that come together and allow it are one
//     transaction: it takes one round trip and one sync, however many they are.
//   - A write whose outcome is not known, because the cluster was cut off while it ran, is answered with
//     UNKNOWNOUTCOME, and may happen or have happened.
//   - A cursor of SCAN is remembered by this process, so it is of no use after a restart.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "resp:", err)
		os.Exit(1)
	}
}

type flags struct {
	cluster, store, listen, passwordFile, commit, cert, key string
	timeout                                                 time.Duration
}

func newCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           "resp --cluster FILE --store NAME",
		Short:         "Serve a store of a gabion cluster to Redis clients",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.cluster, "cluster", "", "client's bundle `FILE` of the cluster, or a node's data directory")
	fl.StringVar(&f.store, "store", "", "`NAME` of the store")
	fl.StringVar(&f.listen, "listen", "127.0.0.1:6380", "`address` to listen on")
	fl.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password that clients must give")
	fl.StringVar(&f.commit, "commit", "durable", "`strength` of writes: durable, or ordered: acknowledged at once and durable soon after")
	fl.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificate to serve TLS with")
	fl.StringVar(&f.key, "tls-key", "", "`FILE` with the certificate's key")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "`time` after which a command is answered with an error")
	_ = cmd.MarkFlagRequired("cluster")
	_ = cmd.MarkFlagRequired("store")
	return cmd
}

func (f *flags) config() (c Config, err error) {
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	c.Timeout = f.timeout
	switch f.commit {
	case "durable":
		c.Commit = kv.Durable
	case "ordered":
		c.Commit = kv.Ordered
	default:
		return c, fmt.Errorf("--commit %s: it is durable or ordered", f.commit)
	}
	if f.timeout <= 0 {
		return c, errors.New("--timeout must be above 0")
	}
	if f.passwordFile != "" {
		b, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return c, err
		}
		if c.Password = string(bytes.TrimSpace(b)); c.Password == "" {
			return c, fmt.Errorf("%s holds no password", f.passwordFile)
		}
	}
	return c, nil
}

func run(ctx context.Context, f flags) error {
	c, err := f.config()
	if err != nil {
		return err
	}
	l, err := f.listener(c.Password != "")
	if err != nil {
		return err
	}
	defer l.Close()
	b, err := cluster.LoadBundle(f.cluster)
	if err != nil {
		return err
	}
	client, err := kvrpc.Dial(ctx, kvrpc.ClientOptions{
		Addrs: b.Addrs, TLS: b.Credentials.ClientConfig("", "h2"), Logger: c.Logger,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	s := NewServer(client.Store(f.store), c)
	defer s.Close()
	fmt.Printf("ready: listen=%s store=%s\n", l.Addr(), f.store)
	return s.Serve(ctx, l)
}

// listener refuses addresses that others reach when nobody would have to give a password.
func (f *flags) listener(password bool) (net.Listener, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("--tls-cert and --tls-key belong together")
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return nil, err
	}
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		if !password {
			_ = l.Close()
			return nil, fmt.Errorf("--listen %s can be reached from elsewhere: give --password-file too", f.listen)
		}
	}
	if f.cert == "" {
		return l, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}), nil
}
