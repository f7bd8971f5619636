package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/gabionfs/gabion/kv/kvbench"
)

// freeAddr returns a loopback address that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// process is a server that this program started.
type process struct{ cmd *exec.Cmd }

func startProcess(ctx context.Context, dir, name string, args ...string) (*process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return &process{cmd}, cmd.Start()
}

func (p *process) stop() error {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	return nil
}

func startEtcd(ctx context.Context, dir string, members int, secure bool) (_ *system, err error) {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	var procs []*process
	stop := func() error {
		for _, p := range procs {
			_ = p.stop()
		}
		return nil
	}
	defer func() {
		if err != nil {
			_ = stop()
		}
	}()
	var peers, clients, cluster []string
	for i := range members {
		for _, list := range []*[]string{&peers, &clients} {
			a, err := freeAddr()
			if err != nil {
				return nil, err
			}
			*list = append(*list, scheme+"://"+a)
		}
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range members {
		args := []string{
			"--name", fmt.Sprint("m", i), "--data-dir", "data", "--log-level", "error",
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--listen-client-urls", clients[i], "--advertise-client-urls", clients[i],
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
			"--quota-backend-bytes", fmt.Sprint(8 << 30),
		}
		if secure {
			args = append(args, "--auto-tls", "--peer-auto-tls")
		}
		p, err := startProcess(ctx, filepath.Join(dir, fmt.Sprint("m", i)), "etcd", args...)
		if err != nil {
			return nil, err
		}
		procs = append(procs, p)
	}
	leader, err := etcdLeader(ctx, clients)
	if err != nil {
		return nil, err
	}
	return &system{System: kvbench.System{Name: "etcd", Dial: func(ctx context.Context, conns, _ int) (kvbench.Target, error) {
		t := new(etcd)
		for range conns {
			c, err := dialEtcd(ctx, leader)
			if err != nil {
				return nil, errors.Join(err, t.Close())
			}
			t.conns = append(t.conns, c)
		}
		return t, nil
	}}, stop: stop}, nil
}

func dialEtcd(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	c := clientv3.Config{Context: ctx, Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if strings.HasPrefix(endpoint, "https") {
		c.TLS = &tls.Config{InsecureSkipVerify: true} // etcd has signed its certificates itself
	}
	return clientv3.New(c)
}

// etcdLeader waits until there is a leader and returns its address.
func etcdLeader(ctx context.Context, endpoints []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		for _, e := range endpoints {
			c, err := dialEtcd(ctx, e)
			if err != nil {
				continue
			}
			once, done := context.WithTimeout(ctx, 2*time.Second)
			s, err := c.Status(once, e)
			done()
			_ = c.Close()
			if err == nil && s.Leader != 0 && s.Leader == s.Header.MemberId {
				return e, nil
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return "", errors.New("no leader within a minute")
		}
	}
}

// etcd is the kvbench.Target of an etcd member.
type etcd struct {
	conns []*clientv3.Client
	turn  atomic.Uint32
}

func (e *etcd) conn() *clientv3.Client { return e.conns[int(e.turn.Add(1))%len(e.conns)] }

func (e *etcd) Put(ctx context.Context, key, value []byte) error {
	_, err := e.conn().Put(ctx, string(key), string(value))
	return err
}

func (e *etcd) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := e.conn().Get(ctx, string(key))
	if err != nil {
		return nil, err
	}
	if len(r.Kvs) != 1 {
		return nil, fmt.Errorf("%d keys found", len(r.Kvs))
	}
	return r.Kvs[0].Value, nil
}

// Range reads in pages, as gabion's client does; one message with everything would be over etcd's limits
// for larger ranges.
func (e *etcd) Range(ctx context.Context, from, to []byte) (n int64, err error) {
	const page = 8192
	c, end := e.conn(), clientv3.WithRange(string(to))
	for at := string(from); ; {
		r, err := c.Get(ctx, at, end, clientv3.WithLimit(page))
		if err != nil {
			return n, err
		}
		for _, k := range r.Kvs {
			n += int64(len(k.Key) + len(k.Value))
		}
		if !r.More {
			return n, nil
		}
		at = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func (e *etcd) Close() error {
	var errs []error
	for _, c := range e.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
