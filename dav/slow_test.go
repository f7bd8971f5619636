package dav_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/memfs"
	"github.com/gabionfs/gabion/kv/memkv"
)

// pipeListener accepts one connection, in memory, so that hours pass in no time.
type pipeListener struct{ conns chan net.Conn }

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// slowly runs a client over a connection on which time is simulated, and returns the tree.
func slowly(t *testing.T, client func(t *testing.T, c net.Conn, f fs.FS)) {
	synctest.Test(t, func(t *testing.T) {
		f := memfs.New()
		h, err := dav.New(t.Context(), options{FS: f, KV: memkv.New()})
		if err != nil {
			t.Fatal(err)
		}
		l := pipeListener{make(chan net.Conn, 1)}
		srv := &http.Server{Handler: h, IdleTimeout: time.Hour}
		done := make(chan struct{})
		go func() { srv.Serve(l); close(done) }()
		near, far := net.Pipe()
		l.conns <- far
		client(t, near, f)
		near.Close()
		close(l.conns)
		srv.Close()
		<-done
		synctest.Wait()
	})
}

func status(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func TestUploadMayTakeHours(t *testing.T) {
	slowly(t, func(t *testing.T, c net.Conn, f fs.FS) {
		r := bufio.NewReader(c)
		start := time.Now()
		for _, want := range []int{201, 204} { // the second on the same connection
			fmt.Fprint(c, "PUT /f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n")
			for range 200 {
				time.Sleep(time.Minute)
				io.WriteString(c, "x")
			}
			if got := status(t, r); got != want {
				t.Errorf("status %d, want %d", got, want)
			}
		}
		if took := time.Since(start); took < 6*time.Hour {
			t.Errorf("took only %v", took)
		}
	})
}

// TestRefusedUploadEnds: nor does the server wait for a body that it refused.
func TestRefusedUploadEnds(t *testing.T) {
	slowly(t, func(t *testing.T, c net.Conn, f fs.FS) {
		start := time.Now()
		fmt.Fprint(c, "PUT /no/such HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n")
		r := bufio.NewReader(c)
		if got := status(t, r); got != 409 {
			t.Errorf("status %d, want 409", got)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("the connection: %v", err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a body that was refused was waited for %v", took)
		}
	})
}

func TestStalledUploadEnds(t *testing.T) {
	slowly(t, func(t *testing.T, c net.Conn, f fs.FS) {
		start := time.Now()
		fmt.Fprint(c, "PUT /f HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\nhalf of it")
		if got := status(t, bufio.NewReader(c)); got != 408 {
			t.Errorf("status %d, want 408", got)
		}
		if took := time.Since(start); took > 5*time.Minute {
			t.Errorf("a stalled upload was waited for %v", took)
		}
		if names := listNames(t, f, fs.Root); len(names) != 0 {
			t.Errorf("it left %q", names)
		}
	})
}

func TestSlowReaders(t *testing.T) {
	slowly(t, func(t *testing.T, c net.Conn, f fs.FS) {
		r := bufio.NewReaderSize(c, 16)
		fmt.Fprintf(c, "PUT /f HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", 1<<20, strings.Repeat("x", 1<<20))
		if got := status(t, r); got != 201 {
			t.Fatal(got)
		}
		fmt.Fprint(c, "GET /f HTTP/1.1\r\nHost: localhost\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		// It reads a little every few seconds: that is progress.
		buf := make([]byte, 16<<10)
		total := 0
		for total < 1<<20 {
			time.Sleep(5 * time.Second)
			n, err := io.ReadFull(res.Body, buf)
			if total += n; err != nil {
				t.Fatalf("cut after %d bytes: %v", total, err)
			}
		}
		// Then it stops reading: the server gives up.
		fmt.Fprint(c, "GET /f HTTP/1.1\r\nHost: localhost\r\n\r\n")
		time.Sleep(10 * time.Minute)
		if n, err := io.Copy(io.Discard, c); n > 512<<10 {
			t.Errorf("the server kept %d bytes for a client that was gone (%v)", n, err)
		}
	})
}
