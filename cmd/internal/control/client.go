package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gabionfs/gabion/objstore"
)

// Client talks to a handler. Safe for concurrent use.
type Client struct {
	http   http.Client
	server *http.Server // of Local
	done   chan struct{}
}

// Dial connects to the process that runs on the data directory dir, or returns ErrNotRunning.
func Dial(ctx context.Context, dir string) (*Client, error) {
	first, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	first.Close()
	return newClient(func(ctx context.Context) (net.Conn, error) { return dial(ctx, dir) }), nil
}

// Local returns a client of b in the same process.
func Local(b Backend) *Client {
	l := newPipes()
	c := newClient(l.dial)
	c.server = &http.Server{Handler: Handler(b)}
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		c.server.Serve(l) // returns when Close is called
	}()
	return c
}

func newClient(dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{http: http.Client{Transport: &http.Transport{
		DisableCompression: true,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// Close lets go of the connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	if c.server == nil {
		return nil
	}
	err := c.server.Close()
	<-c.done
	return err
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body io.Reader, length int64) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "gabion", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if length >= 0 {
		req.ContentLength = length
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL is of no interest to anyone
		}
		return nil, fmt.Errorf("ask the running process: %w", err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// call sends in as JSON, unless nil, and decodes the answer into out, unless nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	length := int64(-1)
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, length = bytes.NewReader(raw), int64(len(raw))
	}
	resp, err := c.do(ctx, method, path, query, body, length)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// Status returns the state of everything.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &s)
}

// ASDs lists the disks.
func (c *Client) ASDs(ctx context.Context) (d []Disk, err error) {
	return d, c.call(ctx, http.MethodGet, "/v1/asds", nil, nil, &d)
}

// AddASD claims the folder dir, an absolute path, as a new disk.
func (c *Client) AddASD(ctx context.Context, dir string) (d Disk, err error) {
	return d, c.call(ctx, http.MethodPost, "/v1/asds", nil, AddRequest{dir}, &d)
}

// ChangeASD changes what a disk is used for.
func (c *Client) ChangeASD(ctx context.Context, r ChangeRequest) (d Disk, err error) {
	return d, c.call(ctx, http.MethodPost, "/v1/asds/change", nil, r, &d)
}

// events sends in as JSON and calls fn with each event of the answer, until that is done with it or fails.
// cut says what has happened when the answer ends before.
func events[E any](ctx context.Context, c *Client, path string, in any, cut string, fn func(E) (done bool, err error)) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, path, nil, bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e E
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return errors.New(cut)
		} else if err != nil {
			return err
		}
		if done, err := fn(e); done || err != nil {
			return err
		}
	}
}

// Fsck runs a check and calls event with what it tells, but for the error it may end with.
func (c *Client) Fsck(ctx context.Context, r FsckRequest, event func(FsckEvent)) error {
	return events(ctx, c, "/v1/fsck", r, "the check was cut off", func(e FsckEvent) (bool, error) {
		if e.Error != nil {
			return true, e.Error.err()
		}
		event(e)
		return e.Done != nil, nil
	})
}

func objectQuery(ns, name string) url.Values { return url.Values{"ns": {ns}, "name": {name}} }

// ObjectList calls fn with the objects from <= name < to ("" is no bound) in order.
func (c *Client) ObjectList(ctx context.Context, ns, from, to string, limit int, fn func(objstore.Info) error) error {
	for {
		q := url.Values{"ns": {ns}, "from": {from}, "to": {to}}
		want := maxPage
		if limit > 0 {
			want = min(want, limit)
		}
		q.Set("limit", strconv.Itoa(want))
		var page []objectInfo
		if err := c.call(ctx, http.MethodGet, "/v1/objects", q, nil, &page); err != nil {
			return err
		}
		for _, i := range page {
			if err := fn(i.info()); err != nil {
				return err
			}
		}
		if limit > 0 {
			if limit -= len(page); limit <= 0 {
				return nil
			}
		}
		if len(page) < want {
			return nil
		}
		from = string(page[len(page)-1].Name) + "\x00"
	}
}

// ObjectStat describes one object.
func (c *Client) ObjectStat(ctx context.Context, ns, name string) (i objstore.Info, err error) {
	var w objectInfo
	err = c.call(ctx, http.MethodGet, "/v1/object/stat", objectQuery(ns, name), nil, &w)
	return w.info(), err
}

// ObjectGet copies the content of an object to w.
func (c *Client) ObjectGet(ctx context.Context, ns, name string, w io.Writer) (int64, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/object", objectQuery(ns, name), nil, -1)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(w, resp.Body)
}

// ObjectPut stores size bytes of r as a new object.
func (c *Client) ObjectPut(ctx context.Context, ns, name string, r io.Reader, size int64) (i objstore.Info, err error) {
	if size == 0 {
		r = http.NoBody
	}
	resp, err := c.do(ctx, http.MethodPut, "/v1/object", objectQuery(ns, name), r, size)
	if err != nil {
		return i, err
	}
	defer resp.Body.Close()
	var w objectInfo
	err = json.NewDecoder(resp.Body).Decode(&w)
	return w.info(), err
}

// ObjectDelete removes an object.
func (c *Client) ObjectDelete(ctx context.Context, ns, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/object", objectQuery(ns, name), nil, nil)
}
