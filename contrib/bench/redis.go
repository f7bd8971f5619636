package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/gabionfs/gabion/kv/kvbench"
)

func startRedis(ctx context.Context, dir string) (*system, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(ctx, dir, "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no")
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			_ = p.stop()
			return nil, errors.New("it does not listen after 30 seconds")
		}
	}
	return &system{System: kvbench.System{Name: "redis", NoRange: true, Dial: func(_ context.Context, _, clients int) (kvbench.Target, error) {
		t := &redis{free: make(chan *redisConn, clients)}
		for range clients { // its clients do not share connections
			c, err := net.Dial("tcp", addr)
			if err != nil {
				return nil, errors.Join(err, t.Close())
			}
			r := &redisConn{c, bufio.NewReader(c)}
			t.all = append(t.all, r)
			t.free <- r
		}
		return t, nil
	}}, stop: p.stop}, nil
}

// redis is the kvbench.Target of a redis-server.
type redis struct {
	all  []*redisConn
	free chan *redisConn
}

type redisConn struct {
	net.Conn
	r *bufio.Reader
}

// do sends a command and reads a simple or a bulk answer.
func (r *redis) do(args ...[]byte) ([]byte, error) {
	c := <-r.free
	defer func() { r.free <- c }()
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n", len(a))
		b = append(append(b, a...), "\r\n"...)
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	line, err := c.r.ReadString('\n')
	switch {
	case err != nil:
		return nil, err
	case line[0] == '+':
		return nil, nil
	case line[0] != '$' || line[1] == '-':
		return nil, fmt.Errorf("answer %q", line)
	}
	n, err := strconv.Atoi(line[1 : len(line)-2])
	if err != nil {
		return nil, err
	}
	value := make([]byte, n+2)
	_, err = io.ReadFull(c.r, value)
	return value[:n], err
}

func (r *redis) Put(_ context.Context, key, value []byte) error {
	_, err := r.do([]byte("SET"), key, value)
	return err
}

func (r *redis) Get(_ context.Context, key []byte) ([]byte, error) { return r.do([]byte("GET"), key) }

func (r *redis) Range(context.Context, []byte, []byte) (int64, error) {
	return 0, errors.New("redis has no ranges")
}

func (r *redis) Close() error {
	var errs []error
	for _, c := range r.all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
