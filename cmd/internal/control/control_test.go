package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
	"github.com/gabionfs/gabion/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Backend over the reference model and a map of objects.
type fake struct {
	kv      kv.Store
	objects *objects
	cut     atomic.Bool // a backup fails in its middle
}

var fsckEvents = []FsckEvent{
	{Progress: &FsckProgress{Phase: "inodes", Done: 1, Total: 2}},
	{Problem: &FsckProblem{Kind: "nlink", Text: "is 2, counted 1"}},
	{Done: &FsckSummary{Problems: 1, Checked: map[string]int64{"inodes": 2}}},
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Health: Degraded, Reasons: []string{"a disk is missing"}, Disks: []Disk{{ID: "1"}}}, nil
}
func (f *fake) ASDs(context.Context) ([]Disk, error) {
	return []Disk{{ID: "1", State: "ok"}}, nil
}
func (f *fake) AddASD(_ context.Context, dir string) (Disk, error) {
	if dir == "/taken" {
		return Disk{}, errors.New("the folder is not empty")
	}
	return Disk{ID: "2", Dir: dir}, nil
}
func (f *fake) ChangeASD(_ context.Context, r ChangeRequest) (Disk, error) {
	return Disk{ID: r.ID, State: fmt.Sprint(r.Do, r.Force)}, nil
}

// Fsck ends as the request says: with an error, without an end, or well.
func (f *fake) Fsck(_ context.Context, r FsckRequest, event func(FsckEvent)) error {
	switch {
	case r.Repair:
		return objstore.ErrClosed
	case r.Data:
		event(fsckEvents[0])
		return nil
	}
	for _, e := range fsckEvents {
		event(e)
	}
	return nil
}
func (f *fake) KV() kv.Store { return f.kv }

// Watch tells of two changes and an index, and then waits.
func (f *fake) Watch(ctx context.Context, q WatchRequest, fn func(WatchEvent) error) error {
	if q.From == 1 {
		return &kv.CompactedError{First: 2}
	}
	for _, e := range []WatchEvent{{Index: q.From, Key: q.Prefix, Value: []byte("v")}, {Index: q.From + 1, Key: q.Prefix, Deleted: true}, {Index: q.From + 2}} {
		if err := fn(e); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Backup(_ context.Context, w io.Writer) (uint64, error) {
	for i := range 3 {
		if i == 2 && f.cut.Load() {
			return 0, kv.ErrClosed
		}
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return 0, err
		}
	}
	return 42, nil
}

func (f *fake) Verify(context.Context) (Verified, error) {
	return Verified{}, fmt.Errorf("on a cluster: %w", errors.ErrUnsupported)
}
func (f *fake) Namespace(_ context.Context, name string, create bool) (objstore.Namespace, error) {
	if name != "user" {
		return nil, objstore.ErrNotFound
	}
	return f.objects, nil
}

// objects is a Namespace in memory.
type objects struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (o *objects) get(name string) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b, ok := o.m[name]; ok {
		return b, nil
	}
	return nil, objstore.ErrNotFound
}
func (o *objects) Put(_ context.Context, name string, p []byte) (objstore.Info, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.m[name]; ok {
		return objstore.Info{}, objstore.ErrExists
	}
	o.m[name] = bytes.Clone(p)
	return objstore.Info{Name: name, Size: int64(len(p))}, nil
}
func (o *objects) PutFrom(ctx context.Context, name string, r io.Reader, size int64) (objstore.Info, error) {
	p := make([]byte, size)
	if _, err := io.ReadFull(r, p); err != nil {
		return objstore.Info{}, err
	}
	return o.Put(ctx, name, p)
}
func (o *objects) ReadAt(_ context.Context, name string, off int64, p []byte) error {
	b, err := o.get(name)
	if err == nil && copy(p, b[off:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return err
}
func (o *objects) ReadSlices(context.Context, []objstore.Slice) error { return errors.ErrUnsupported }
func (o *objects) Stat(_ context.Context, name string) (objstore.Info, error) {
	b, err := o.get(name)
	return objstore.Info{Name: name, Size: int64(len(b))}, err
}
func (o *objects) Delete(_ context.Context, names ...string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range names {
		delete(o.m, n)
	}
	return nil
}
func (o *objects) List(_ context.Context, from, to string, fn func(objstore.Info) bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var names []string
	for n := range o.m {
		if n >= from && (to == "" || n < to) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if !fn(objstore.Info{Name: n, Size: int64(len(o.m[n]))}) {
			break
		}
	}
	return nil
}

func newFake(t *testing.T) *fake {
	f := &fake{kv: memkv.New(), objects: &objects{m: make(map[string][]byte)}}
	t.Cleanup(func() { f.kv.Close() })
	return f
}

// clients runs test over the socket of a data directory with a very long path, and in one process.
func clients(t *testing.T, test func(t *testing.T, f *fake, c *Client)) {
	t.Run("socket", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Fatalf("Dial before Listen: %v", err)
		}
		l, err := Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, socketName))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("socket: %v %v", st, err)
		}
		f := newFake(t)
		s := &http.Server{Handler: Handler(f)}
		go s.Serve(l)
		c, err := Dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		test(t, f, c)
		c.Close()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Fatalf("Dial after Close: %v", err)
		}
	})
	t.Run("local", func(t *testing.T) {
		f := newFake(t)
		c := Local(f)
		test(t, f, c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		l, err := Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer l.(*listener).dir.Close()
		l.(*listener).Listener.Close() // without removing the file, as a crash does
		if _, err := Dial(t.Context(), dir); !errors.Is(err, ErrNotRunning) {
			t.Fatal(err)
		}
	}
}

func TestDisks(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		s, err := c.Status(t.Context())
		want, _ := f.Status(t.Context())
		if err != nil || !reflect.DeepEqual(s, want) {
			t.Errorf("Status: %+v %v", s, err)
		}
		if d, err := c.ASDs(t.Context()); err != nil || len(d) != 1 {
			t.Errorf("ASDs: %v %v", d, err)
		}
		if d, err := c.AddASD(t.Context(), "/new"); err != nil || d.Dir != "/new" {
			t.Errorf("AddASD: %v %v", d, err)
		}
		if _, err := c.AddASD(t.Context(), "/taken"); err == nil || err.Error() != "the folder is not empty" {
			t.Errorf("AddASD: %v", err)
		}
		if d, err := c.ChangeASD(t.Context(), ChangeRequest{"7", Purge, true}); err != nil || d.ID != "7" || d.State != "purgetrue" {
			t.Errorf("ChangeASD: %v %v", d, err)
		}
	})
}

func TestFsck(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		var got []FsckEvent
		if err := c.Fsck(t.Context(), FsckRequest{}, func(e FsckEvent) { got = append(got, e) }); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, fsckEvents) {
			t.Errorf("events %+v", got)
		}
		if err := c.Fsck(t.Context(), FsckRequest{Repair: true}, func(FsckEvent) {}); !errors.Is(err, objstore.ErrClosed) {
			t.Errorf("error %v", err)
		}
		if err := c.Fsck(t.Context(), FsckRequest{Data: true}, func(FsckEvent) {}); err == nil {
			t.Error("a stream that was cut off counts as a finished check")
		}
	})
}

func TestKV(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		ctx := t.Context()
		if v, err := c.KVGet(ctx, "user", []byte("a")); err != nil || v[0].Found {
			t.Fatalf("absent: %v %v", v, err)
		}
		var q []kv.Step
		const n = 2*maxPage + 17
		for i := range n {
			q = append(q, kv.Step{Op: kv.OpSet, Keyspace: "user", Key: fmt.Appendf(nil, "%05d\xff", i), Value: []byte{byte(i)}})
		}
		if r, err := c.KVSequence(ctx, q); err != nil || len(r) != n {
			t.Fatal(len(r), err)
		}
		_, err := c.KVSequence(ctx, []kv.Step{{Op: kv.OpAssertExists, Keyspace: "user", Key: []byte("x")}})
		if !errors.Is(err, kv.ErrConflict) {
			t.Fatalf("conflict: %v", err)
		}
		for _, r := range []struct {
			q    RangeRequest
			want int
		}{
			{RangeRequest{}, n}, {RangeRequest{Reverse: true}, n}, {RangeRequest{Limit: 5}, 5}, {RangeRequest{Limit: maxPage + 1}, maxPage + 1},
			{RangeRequest{From: []byte("00010"), To: []byte("00020")}, 10}, {RangeRequest{KeysOnly: true, Limit: maxPage}, maxPage},
		} {
			r.q.Keyspace = "user"
			var keys []string
			more, err := c.KVRange(ctx, r.q, func(p Pair) error {
				keys = append(keys, string(p.Key))
				if r.q.KeysOnly == (len(p.Value) > 0) {
					t.Errorf("value %v with KeysOnly %v", p.Value, r.q.KeysOnly)
				}
				return nil
			})
			if r.q.Reverse {
				slices.Reverse(keys)
			}
			if err != nil || len(keys) != r.want || !slices.IsSorted(keys) || len(slices.Compact(keys)) != r.want {
				t.Errorf("%+v: %d keys, %v", r.q, len(keys), err)
			}
			if more != (r.q.Limit > 0) {
				t.Errorf("%+v: more is %v", r.q, more)
			}
			if count, err := c.KVCount(ctx, r.q); err != nil || r.q.Limit == 0 && count != uint64(r.want) {
				t.Errorf("%+v: counted %d, %v", r.q, count, err)
			}
		}
		v, err := c.KVGet(ctx, "user", []byte("00003\xff"), []byte("none"), []byte("00007\xff"))
		if err != nil || !bytes.Equal(v[0].Value, []byte{3}) || v[1].Found || !bytes.Equal(v[2].Value, []byte{7}) {
			t.Errorf("get: %v %v", v, err)
		}
		if _, err := c.KVGet(ctx, "user", make([][]byte, maxKeys+1)...); !errors.As(err, new(*kv.TooLargeError)) {
			t.Errorf("too many keys: %v", err)
		}
	})
}

func TestKVWatch(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		enough := errors.New("enough")
		var got []WatchEvent
		err := c.KVWatch(t.Context(), WatchRequest{Keyspace: "user", Prefix: []byte("p"), From: 3}, func(e WatchEvent) error {
			if got = append(got, e); len(got) == 3 {
				return enough
			}
			return nil
		})
		want := []WatchEvent{{Index: 3, Key: []byte("p"), Value: []byte("v")}, {Index: 4, Key: []byte("p"), Deleted: true}, {Index: 5}}
		if !errors.Is(err, enough) || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %+v", err, got)
		}
		if err := c.KVWatch(t.Context(), WatchRequest{From: 1}, func(WatchEvent) error { return nil }); !errors.Is(err, kv.ErrCompacted) {
			t.Errorf("from before the log: %v", err)
		}
	})
}

func TestKVBackup(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		var b bytes.Buffer
		if index, err := c.KVBackup(t.Context(), &b); err != nil || index != 42 || b.Len() != 3<<20 {
			t.Errorf("%d bytes at %d, %v", b.Len(), index, err)
		}
		f.cut.Store(true)
		if _, err := c.KVBackup(t.Context(), io.Discard); err == nil {
			t.Error("a backup that was cut off counts as whole")
		}
		if v, err := c.KVVerify(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%+v %v", v, err)
		}
	})
}

func TestObjects(t *testing.T) {
	clients(t, func(t *testing.T, f *fake, c *Client) {
		ctx := t.Context()
		big := bytes.Repeat([]byte("0123456789abcdef"), 9<<16) // 9 MiB
		for name, content := range map[string][]byte{"big": big, "empty": {}, "not\xfftext/&?#": []byte("x")} {
			if _, err := c.ObjectStat(ctx, "user", name); !errors.Is(err, objstore.ErrNotFound) {
				t.Fatalf("stat of nothing: %v", err)
			}
			i, err := c.ObjectPut(ctx, "user", name, bytes.NewReader(content), int64(len(content)))
			if err != nil || i.Name != name || i.Size != int64(len(content)) {
				t.Fatalf("put %q: %+v %v", name, i, err)
			}
			var got bytes.Buffer
			if _, err := c.ObjectGet(ctx, "user", name, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
				t.Fatalf("get %q: %d bytes, %v", name, got.Len(), err)
			}
		}
		if _, err := c.ObjectPut(ctx, "user", "big", strings.NewReader("y"), 1); !errors.Is(err, objstore.ErrExists) {
			t.Errorf("put again: %v", err)
		}
		if _, err := c.ObjectPut(ctx, "user", "", strings.NewReader("y"), 1); !errors.Is(err, ErrBadRequest) {
			t.Errorf("empty name: %v", err)
		}
		for i := range maxPage + 3 {
			f.objects.Put(ctx, fmt.Sprintf("many/%05d", i), nil)
		}
		for limit, want := range map[int]int{0: maxPage + 3, 2: 2, maxPage + 1: maxPage + 1} {
			n := 0
			if err := c.ObjectList(ctx, "user", "many/", "many0", limit, func(objstore.Info) error { n++; return nil }); err != nil || n != want {
				t.Errorf("list with limit %d: %d, %v", limit, n, err)
			}
		}
		if err := c.ObjectDelete(ctx, "user", "big"); err != nil {
			t.Error(err)
		}
		if err := c.ObjectDelete(ctx, "user", "big"); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("delete again: %v", err)
		}
		if err := c.ObjectList(ctx, "other", "", "", 0, nil); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("another namespace: %v", err)
		}
	})
}

func TestMalformedRequests(t *testing.T) {
	c := Local(newFake(t))
	defer c.Close()
	for _, r := range []struct{ path, body string }{
		{"/v1/kv/get", "{"}, {"/v1/kv/get", `{"keyspac":"x"}`}, {"/v1/kv/range", `{"limit":-1}`}, {"/v1/fsck", "x"}, {"/v1/asds", "[]"},
	} {
		_, err := c.do(t.Context(), http.MethodPost, r.path, nil, strings.NewReader(r.body), int64(len(r.body)))
		if !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s %s: %v", r.path, r.body, err)
		}
	}
	if _, err := c.do(t.Context(), http.MethodGet, "/v2/x", nil, nil, -1); err == nil {
		t.Error("an unknown path was answered")
	}
}
