package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/gabionfs/gabion/dav"
)

// checkDAV finds out whether the address of WebDAV can be had, before anything is made. It is bound for
// good only once there is something to serve.
func (r *run) checkDAV() error {
	if r.o.DAV == "" {
		return nil
	}
	l, err := net.Listen("tcp", r.o.DAV)
	if errors.Is(err, syscall.EADDRINUSE) {
		err = dav.ErrAddrInUse
	}
	if err != nil {
		return &dav.ListenError{Addr: r.o.DAV, Err: err}
	}
	return l.Close()
}

// startDAV serves the filesystem over WebDAV.
func (r *run) startDAV(ctx context.Context) error {
	if r.o.DAV == "" {
		return nil
	}
	var users []dav.User
	if r.o.DAVUser != "" {
		u, err := dav.NewUser(r.o.DAVUser, r.o.DAVPassword, false)
		if err != nil {
			return err
		}
		users = append(users, u)
	}
	h, err := dav.New(ctx, dav.Options{FS: r.node.Volume().Session(nil), KV: r.node.KV(), Logger: r.log, Users: users})
	if err != nil {
		return err
	}
	s, err := dav.Listen(r.o.DAV, h)
	if err != nil {
		return err
	}
	r.dav = s
	go func() {
		if err := s.Serve(); err != nil {
			r.failed <- fmt.Errorf("WebDAV: %w", err)
		}
	}()
	return nil
}

// stopDAV lets requests finish for a while, then cuts them off.
func (r *run) stopDAV() error {
	if r.dav == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := r.dav.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		r.log.Warn("WebDAV requests were cut off")
		return nil
	}
	return err
}
