package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// socketName is the name of the socket in the data directory.
const socketName = "control.sock"

// ErrNotRunning: nobody listens on the socket.
var ErrNotRunning = errors.New("no gabion process runs on this data directory")

// Listen makes the control socket of the data directory dir, which the caller has locked, with mode
// 0600. A socket that a crash left is replaced.
func Listen(dir string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Close()
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: short(d)})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would use the name below after d is closed
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close(), d.Close())
	}
	return &listener{Listener: l, dir: d, path: path}, nil
}

// short names the socket through the descriptor of its directory: a socket's path is limited to 107
// bytes, a data directory's is not.
func short(dir *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)
}

type listener struct {
	net.Listener
	dir  *os.File
	path string
	once sync.Once
	err  error
}

func (l *listener) Close() error {
	l.once.Do(func() {
		err := os.Remove(l.path)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		l.err = errors.Join(err, l.Listener.Close(), l.dir.Close())
	})
	return l.err
}

// dial connects to the process that has the data directory dir open; ErrNotRunning when there is none.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c, err := new(net.Dialer).DialContext(ctx, "unix", short(d))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	return c, err
}

// pipes is a listener whose connections are made in memory, for a handler in the same process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "pipe"} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
