package objbench

import (
	"errors"
	"io"
	"net"
)

// loopback is a TCP connection for each client, over which the other end sends the same bytes whenever it is asked.
type loopback struct {
	listener net.Listener
	ends     []net.Conn // of the clients
	asks     []chan struct{}
}

// newLoopback opens so many connections, over which data is to be sent.
func newLoopback(clients int, data []byte) (l *loopback, err error) {
	l = &loopback{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	for range clients {
		near, err := net.Dial("tcp", l.listener.Addr().String())
		if err != nil {
			return nil, err
		}
		ask := make(chan struct{}, 1)
		l.ends, l.asks = append(l.ends, near), append(l.asks, ask)
		far, err := l.listener.Accept()
		if err != nil {
			return nil, err
		}
		go func() {
			defer far.Close()
			for range ask {
				if _, err := far.Write(data); err != nil {
					return
				}
			}
		}()
	}
	return l, nil
}

// copy has the data sent to a client, into p.
func (l *loopback) copy(client int, p []byte) error {
	l.asks[client] <- struct{}{}
	_, err := io.ReadFull(l.ends[client], p)
	return err
}

func (l *loopback) close() error {
	var errs []error
	if l.listener != nil {
		errs = append(errs, l.listener.Close())
	}
	for i := range l.ends {
		close(l.asks[i])
		errs = append(errs, l.ends[i].Close())
	}
	return errors.Join(errs...)
}
