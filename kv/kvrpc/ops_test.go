package kvrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

type opsFixture struct {
	t   *testing.T
	g   *group
	c   *Client
	s   *Store
	ctx context.Context
}

func (f *opsFixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *opsFixture) want(ks kv.Keyspace, key, value string) {
	f.t.Helper()
	v, err := f.s.Get(f.ctx, ks, []byte(key), ReadOptions{})
	if errors.Is(err, kv.ErrNotFound) {
		v, err = []byte("<none>"), nil
	}
	if err != nil || string(v) != value {
		f.t.Errorf("%s/%s is %q, %v; want %q", ks, key, v, err, value)
	}
}

type detailed struct{ error }

func (detailed) Detail() []byte { return []byte("detail") }

var testProcedures = map[string]Procedure{
	"add": func(tx kv.Txn, args []byte) ([]byte, error) {
		v, err := tx.Get("p", args)
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return nil, err
		}
		v = append(bytes.Clone(v), 'x')
		tx.Put("p", bytes.Clone(args), v)
		return v, nil
	},
	"fail": func(tx kv.Txn, _ []byte) ([]byte, error) {
		tx.Put("p", []byte("lost"), nil)
		return nil, errors.New("mine")
	},
	"tell":  func(kv.Txn, []byte) ([]byte, error) { return nil, detailed{errors.New("told")} },
	"typed": func(kv.Txn, []byte) ([]byte, error) { return nil, &kv.FencedError{Holder: "someone"} },
}

// TestOperations runs every operation over the wire, against one group of three members.
func TestOperations(t *testing.T) {
	g := startGroup(t, groupOptions{heartbeat: 2 * time.Second, procedures: testProcedures, server: func(o *ServerOptions) { o.MaxWatches = 3; o.Version = "v0" }})
	c := g.client(ClientOptions{})
	for name, test := range map[string]func(*opsFixture){
		"Keys": (*opsFixture).keys, "Sequence": (*opsFixture).sequence, "Range": (*opsFixture).ranges,
		"Levels": (*opsFixture).levels, "Procedures": (*opsFixture).procedures, "Limits": (*opsFixture).limits,
		"Errors": (*opsFixture).errors, "Watch": (*opsFixture).watch, "Admin": (*opsFixture).admin,
		"Generated": (*opsFixture).generated, "Deadline": (*opsFixture).deadline,
	} {
		t.Run(name, func(t *testing.T) {
			test(&opsFixture{t, g, c, c.Store(testStore), testContext(t)})
		})
	}
}

func (f *opsFixture) keys() {
	for _, c := range []kv.Commit{kv.Durable, kv.Ordered} {
		k := []byte(fmt.Sprint("k", c))
		f.must(f.s.Set(f.ctx, c, "a", k, []byte("v")))
		f.want("a", string(k), "v")
		ok, err := f.s.Exists(f.ctx, "a", k, ReadOptions{})
		if err != nil || !ok {
			f.t.Errorf("exists: %v, %v", ok, err)
		}
		before, swapped, err := f.s.TestAndSet(f.ctx, c, "a", k, []byte("other"), []byte("w"))
		if err != nil || swapped || string(before.Value) != "v" {
			f.t.Errorf("test and set: %v %v %v", before, swapped, err)
		}
		if before, swapped, err = f.s.TestAndSet(f.ctx, c, "a", k, []byte("v"), []byte("w")); err != nil || !swapped || string(before.Value) != "v" {
			f.t.Errorf("test and set: %v %v %v", before, swapped, err)
		}
		f.want("a", string(k), "w")
		if before, err = f.s.Replace(f.ctx, c, "a", k, nil); err != nil || string(before.Value) != "w" {
			f.t.Errorf("replace: %v %v", before, err)
		}
		f.want("a", string(k), "<none>")
		if _, swapped, err = f.s.TestAndSet(f.ctx, c, "a", k, nil, []byte{}); err != nil || !swapped {
			f.t.Errorf("test absent and set: %v %v", swapped, err)
		}
		f.want("a", string(k), "")
		for i, want := range []bool{true, false} {
			written, err := f.s.Confirm(f.ctx, c, "a", k, []byte("c"))
			if err != nil || written != want {
				f.t.Errorf("confirm %d: %v %v", i, written, err)
			}
		}
		f.must(f.s.Delete(f.ctx, c, "a", k))
		f.must(f.s.Delete(f.ctx, c, "a", k))
		f.want("a", string(k), "<none>")
	}
	f.must(f.s.Sync(f.ctx))
	f.must(f.s.Sync(f.ctx))
	values, err := f.s.MultiGet(f.ctx, nil, ReadOptions{})
	if err != nil || len(values) != 0 {
		f.t.Errorf("get of no keys: %v %v", values, err)
	}
	large := bytes.Repeat([]byte("v"), kv.MaxValue)
	f.must(f.s.Set(f.ctx, kv.Durable, "a", []byte("large"), large))
	values, err = f.s.MultiGet(f.ctx, []Key{{"a", []byte("large")}, {"a", []byte("absent")}, {"b", []byte("large")}}, ReadOptions{})
	if err != nil || !bytes.Equal(values[0].Value, large) || values[1].Found || values[2].Found {
		f.t.Errorf("multi-get: %v", err)
	}
	before, err := f.s.Replace(f.ctx, kv.Durable, "a", []byte("large"), nil)
	if err != nil || !bytes.Equal(before.Value, large) {
		f.t.Errorf("replace a large value: %d bytes, %v", len(before.Value), err)
	}
}

func (f *opsFixture) sequence() {
	f.must(f.s.Set(f.ctx, kv.Durable, "q", []byte("a"), []byte("1")))
	d := kv.NewDigest()
	d.Add([]byte("a"), []byte("1"))
	results, err := f.s.Apply(f.ctx, kv.Durable, []kv.Step{
		{Op: kv.OpAssert, Keyspace: "q", Key: []byte("a"), Value: []byte("1")},
		{Op: kv.OpAssertExists, Keyspace: "q", Key: []byte("a")},
		{Op: kv.OpAssertAbsent, Keyspace: "q", Key: []byte("b")},
		{Op: kv.OpAssertRange, Keyspace: "q", Digest: d.Sum()},
		{Op: kv.OpAssertRange, Keyspace: "q", To: []byte{}, Digest: kv.NewDigest().Sum()},
		{Op: kv.OpSet, Keyspace: "q", Key: []byte("b"), Value: []byte("2")},
		{Op: kv.OpGet, Keyspace: "q", Key: []byte("b")},
		{Op: kv.OpDeletePrefix, Keyspace: "q", Limit: 1},
	})
	if err != nil || string(results[6].Value) != "2" || results[7].Count != 1 {
		f.t.Errorf("sequence: %v %v", results, err)
	}
	f.want("q", "a", "<none>")
	f.want("q", "b", "2")
	_, err = f.s.Apply(f.ctx, kv.Durable, []kv.Step{
		{Op: kv.OpSet, Keyspace: "q", Key: []byte("c"), Value: []byte("3")},
		{Op: kv.OpAssert, Keyspace: "q", Key: []byte("b"), Value: []byte("other")},
	})
	var conflict *kv.ConflictError
	if !errors.As(err, &conflict) || !errors.Is(err, kv.ErrConflict) || conflict.Index != 1 || conflict.Keyspace != "q" || !conflict.Found {
		f.t.Errorf("a failed assert: %v", err)
	}
	f.want("q", "c", "<none>")
	n, err := f.s.DeletePrefix(f.ctx, kv.Durable, "q", nil, 0)
	if err != nil || n != 1 {
		f.t.Errorf("delete prefix: %d, %v", n, err)
	}
}

func (f *opsFixture) ranges() {
	var steps []kv.Step
	for i := range 100 {
		steps = append(steps, kv.Step{Op: kv.OpSet, Keyspace: "r", Key: fmt.Appendf(nil, "%03d", i), Value: bytes.Repeat([]byte{byte(i)}, i*10)})
	}
	_, err := f.s.Apply(f.ctx, kv.Durable, steps)
	f.must(err)
	for _, r := range []kv.Range{{}, {Reverse: true}, {From: []byte("010"), To: []byte("090")}, {From: []byte("010"), To: []byte("090"), Reverse: true}, {To: []byte{}}, kv.Prefix([]byte("05"))} {
		for _, o := range []RangeOptions{{}, {MaxBytes: 1000}, {MaxBytes: 1}, {KeysOnly: true}, {ReadOptions: ReadOptions{Level: Session}}} {
			for _, limit := range []int{0, 7} {
				if limit > 0 && o.MaxBytes == 1 {
					continue
				}
				var want []string
				for i := range 100 {
					k := fmt.Sprintf("%03d", i)
					if r.Reverse {
						k = fmt.Sprintf("%03d", 99-i)
					}
					if within(r, []byte(k)) {
						want = append(want, k)
					}
				}
				var paged []string
				for page := r; ; {
					page.Limit = limit
					p, err := f.s.Range(f.ctx, "r", page, o)
					f.must(err)
					for _, e := range p.Entries {
						paged = append(paged, string(e.Key))
						var n int
						fmt.Sscanf(string(e.Key), "%d", &n)
						if len(e.Value) != n*10 && !o.KeysOnly || o.KeysOnly && len(e.Value) != 0 {
							f.t.Fatalf("%s has %d bytes", e.Key, len(e.Value))
						}
					}
					if limit > 0 && len(p.Entries) > limit {
						f.t.Fatalf("%d entries in a page of %d", len(p.Entries), limit)
					}
					if !p.More {
						break
					}
					page = p.Next(page)
				}
				if fmt.Sprint(paged) != fmt.Sprint(want) {
					f.t.Fatalf("range %+v limit %d: %v, want %v", r, limit, paged, want)
				}
				var scanned []string
				r.Limit = limit
				f.must(f.s.Scan(f.ctx, "r", r, o, func(k, _ []byte) bool { scanned = append(scanned, string(k)); return true }))
				if limit > 0 {
					want = want[:min(limit, len(want))]
				}
				if fmt.Sprint(scanned) != fmt.Sprint(want) {
					f.t.Fatalf("scan %+v: %v, want %v", r, scanned, want)
				}
				r.Limit = 0
			}
		}
	}
	n, err := f.s.Count(f.ctx, "r", kv.Prefix([]byte("00")), ReadOptions{})
	if err != nil || n.Keys != 10 || n.Bytes != 30+450 {
		f.t.Errorf("count: %+v, %v", n, err)
	}
	if _, err := f.s.Apply(f.ctx, kv.Durable, []kv.Step{{Op: kv.OpAssertRange, Keyspace: "r", Key: []byte("00"), To: []byte("01"), Digest: n.Digest}}); err != nil {
		f.t.Errorf("the digest of count does not hold: %v", err)
	}
}

// levels: a session read shows what the client has written, at every member; a stale one says its age.
func (f *opsFixture) levels() {
	for i := range 50 {
		v := fmt.Sprint(i)
		f.must(f.s.Set(f.ctx, kv.Durable, "l", []byte("k"), []byte(v)))
		f.s.mu.Lock()
		f.s.reader = i // another member each time
		f.s.mu.Unlock()
		var info ReadInfo
		got, err := f.s.Get(f.ctx, "l", []byte("k"), ReadOptions{Level: Session, Info: &info})
		if err != nil || string(got) != v || info.Seen < f.s.Index() {
			f.t.Fatalf("session read: %q, %v, %+v; want %q", got, err, info, v)
		}
		for _, l := range []kv.Level{kv.Linearizable, kv.Pending} {
			if got, err := f.s.Get(f.ctx, "l", []byte("k"), ReadOptions{Level: l}); err != nil || string(got) != v {
				f.t.Fatalf("level %d: %q, %v; want %q", l, got, err, v)
			}
		}
		if _, err := f.s.Get(f.ctx, "l", []byte("k"), ReadOptions{Level: kv.Stale, Info: &info}); err != nil && !errors.Is(err, kv.ErrNotFound) {
			f.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(f.ctx, 300*time.Millisecond)
	defer cancel()
	_, err := f.s.Get(ctx, "l", []byte("k"), ReadOptions{Level: Session, MinIndex: 1 << 60})
	if !errors.Is(err, context.DeadlineExceeded) {
		f.t.Errorf("a read of the future: %v", err)
	}
	if _, err := f.s.Get(f.ctx, "l", []byte("k"), ReadOptions{Level: 77}); err == nil {
		f.t.Error("an unknown level is accepted")
	}
}

func (f *opsFixture) procedures() {
	for i := 1; i <= 3; i++ {
		got, err := f.s.Call(f.ctx, kv.Commit(i%2), "add", []byte("n"))
		if err != nil || len(got) != i {
			f.t.Errorf("call %d: %q, %v", i, got, err)
		}
	}
	var failed *ProcedureError
	_, err := f.s.Call(f.ctx, kv.Durable, "fail", nil)
	if !errors.As(err, &failed) || failed.Message != "mine" || failed.Procedure != "fail" {
		f.t.Errorf("a failed procedure: %v", err)
	}
	f.want("p", "lost", "<none>")
	if _, err = f.s.Call(f.ctx, kv.Durable, "tell", nil); !errors.As(err, &failed) || string(failed.Detail) != "detail" {
		f.t.Errorf("a failed procedure with detail: %v", err)
	}
	var fenced *kv.FencedError
	if _, err = f.s.Call(f.ctx, kv.Durable, "typed", nil); !errors.As(err, &fenced) || fenced.Holder != "someone" {
		f.t.Errorf("a procedure with a typed error: %v", err)
	}
	if _, err = f.s.Call(f.ctx, kv.Durable, "none", nil); !errors.Is(err, kv.ErrNoProcedure) {
		f.t.Errorf("an unknown procedure: %v", err)
	}
}

// limits: what is over a limit is refused by the server too, with a typed error, and leaves the
// connection usable.
func (f *opsFixture) limits() {
	c := f.g.client(ClientOptions{unchecked: true})
	s := c.Store(testStore)
	var large *kv.TooLargeError
	set := func(ks kv.Keyspace, k, v int) []kv.Step {
		return []kv.Step{{Op: kv.OpSet, Keyspace: ks, Key: make([]byte, k), Value: make([]byte, v)}}
	}
	var many []kv.Step
	for range kv.MaxSteps + 1 {
		many = append(many, kv.Step{Op: kv.OpDelete, Keyspace: "x", Key: []byte("k")})
	}
	var sum []kv.Step
	for range 5 {
		sum = append(sum, set("x", 1, kv.MaxBatch/5)...)
	}
	for _, c := range []struct {
		what  string
		steps []kv.Step
	}{
		{"keyspace", set("", 1, 1)}, {"keyspace", set(kv.Keyspace(make([]byte, kv.MaxKeyspace+1))+"", 1, 1)},
		{"key", set("x", 0, 1)}, {"key", set("x", kv.MaxKey+1, 1)}, {"value", set("x", 1, kv.MaxValue+1)},
		{"sequence", many}, {"sequence", sum},
	} {
		_, err := s.Apply(f.ctx, kv.Durable, c.steps)
		if c.what == "keyspace" && len(c.steps[0].Keyspace) > 1 {
			var bad *InvalidError // it begins with a zero byte
			if !errors.As(err, &bad) {
				f.t.Errorf("reserved keyspace: %v", err)
			}
			continue
		}
		if !errors.As(err, &large) || large.What != c.what {
			f.t.Errorf("%s: %v", c.what, err)
		}
		if err := f.s.Set(f.ctx, kv.Durable, "x", []byte("k"), nil); err != nil {
			f.t.Fatalf("afterwards: %v", err)
		}
	}
	if _, err := f.s.MultiGet(f.ctx, make([]Key, MaxGet+1), ReadOptions{}); !errors.As(err, &large) {
		f.t.Errorf("too many keys: %v", err)
	}
	// A message that is larger than any may be.
	if _, err := s.Apply(f.ctx, kv.Durable, set("x", 1, maxMessage)); !errors.As(err, &large) || large.What != "message" {
		f.t.Errorf("a huge message: %v", err)
	}
	conn, err := grpc.NewClient(f.g.addrs()[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	f.must(err)
	defer conn.Close()
	_, err = kvpb.NewKVClient(conn).Ping(f.ctx, &kvpb.PingRequest{Payload: make([]byte, maxMessage)})
	if status.Code(err) != codes.ResourceExhausted {
		f.t.Errorf("a huge message that the client does not look at: %v", err)
	}
	if _, err := f.s.Get(f.ctx, kv.SystemKeyspace, []byte("client/"), ReadOptions{}); err == nil || errors.Is(err, kv.ErrNotFound) {
		f.t.Errorf("a reserved keyspace can be read: %v", err)
	}
	if _, err := f.s.Range(f.ctx, kv.SystemKeyspace, kv.Range{}, RangeOptions{}); err == nil {
		f.t.Error("a reserved keyspace can be listed")
	}
	if err := f.s.Watch(f.ctx, WatchOptions{Keyspace: kv.SystemKeyspace}, nil); err == nil {
		f.t.Error("a reserved keyspace can be watched")
	}
}

func (f *opsFixture) errors() {
	if err := f.c.Store("nowhere").Set(f.ctx, kv.Durable, "a", []byte("k"), nil); !errors.Is(err, kv.ErrNoStore) {
		f.t.Errorf("an unknown store: %v", err)
	}
	c := f.g.client(ClientOptions{})
	s := c.Store(testStore)
	f.must(s.Set(f.ctx, kv.Durable, "a", []byte("k"), nil))
	f.must(c.Close())
	if err := s.Set(f.ctx, kv.Durable, "a", []byte("k"), nil); !errors.Is(err, ErrClientClosed) || !errors.Is(err, kv.ErrClosed) {
		f.t.Errorf("a closed client: %v", err)
	}
	gone, cancel := context.WithCancel(f.ctx)
	cancel()
	if err := f.s.Set(gone, kv.Durable, "a", []byte("k"), nil); !errors.Is(err, context.Canceled) {
		f.t.Errorf("a cancelled context: %v", err)
	}
}

func (f *opsFixture) watch() {
	var info ReadInfo
	_, err := f.s.MultiGet(f.ctx, nil, ReadOptions{Info: &info})
	f.must(err)
	for i := range 5 {
		f.must(f.s.Set(f.ctx, kv.Durable, "w", fmt.Appendf(nil, "a%d", i), []byte("v")))
		f.must(f.s.Set(f.ctx, kv.Durable, "w", fmt.Appendf(nil, "b%d", i), []byte("other")))
	}
	f.must(f.s.Delete(f.ctx, kv.Durable, "w", []byte("a0")))
	var got []string
	enough := errors.New("enough")
	last := uint64(0)
	err = f.s.Watch(f.ctx, WatchOptions{Keyspace: "w", Prefix: []byte("a"), From: info.Index + 1}, func(index uint64, events []Event) error {
		if index <= last {
			f.t.Errorf("index %d after %d", index, last)
		}
		last = index
		for _, e := range events {
			got = append(got, fmt.Sprintf("%s=%s %v", e.Key, e.Value, e.Deleted))
		}
		if len(got) >= 6 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || fmt.Sprint(got) != "[a0=v false a1=v false a2=v false a3=v false a4=v false a0= true]" {
		f.t.Errorf("watch: %v, %v", got, err)
	}
	// Too many on one connection.
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	api, err := f.c.api(f.g.addrs()[0])
	f.must(err)
	for range 3 {
		stream, err := api.Watch(ctx, &kvpb.WatchRequest{Store: testStore, Keyspace: []byte("w"), From: 1})
		f.must(err)
		if _, err := stream.Recv(); err != nil {
			f.t.Fatal(err)
		}
	}
	stream, err := api.Watch(ctx, &kvpb.WatchRequest{Store: testStore, Keyspace: []byte("w"), From: 1})
	f.must(err)
	if _, err = stream.Recv(); !errors.Is(f.c.callError(ctx, err), ErrTooMany) {
		f.t.Errorf("a watch too many: %v", err)
	}
}

func (f *opsFixture) admin() {
	f.must(f.s.Set(f.ctx, kv.Durable, "adm", []byte("k"), []byte("v")))
	st, err := f.s.Status(f.ctx)
	if err != nil || !st.Leads || len(st.Members) != 3 || st.AppliedIndex == 0 || st.Operations == 0 {
		f.t.Errorf("status: %v, %v", st, err)
	}
	p, err := f.s.Ping(f.ctx)
	if err != nil || !p.Leads || p.Version != "v0" {
		f.t.Errorf("ping: %v, %v", p, err)
	}
	if _, err := f.c.Ping(f.ctx, f.g.addrs()[1]); err != nil {
		f.t.Error(err)
	}
	var file bytes.Buffer
	index, err := f.s.Backup(f.ctx, &file)
	if err != nil || index == 0 {
		f.t.Fatalf("backup: %d, %v", index, err)
	}
	found := false
	info, err := backup.Read(f.ctx, &file, func(ks kv.Keyspace, k, v []byte) error {
		found = found || ks == "adm" && string(k) == "k" && string(v) == "v"
		return nil
	})
	if err != nil || !found || info.Index != index {
		f.t.Errorf("backup: %+v, found %v, %v", info, found, err)
	}
	id, err := f.s.HashStart(f.ctx)
	f.must(err)
	sums := map[string]bool{}
	for _, addr := range f.g.addrs() {
		var r *kvpb.HashResponse
		eventually(f.t, "for the sum of "+addr, func() bool {
			r, err = f.s.HashAt(f.ctx, addr, id)
			return err != nil || !r.Pending
		})
		f.must(err)
		sums[fmt.Sprintf("%d %x %d", r.Index, r.Sum, r.Keys)] = true
	}
	if len(sums) != 1 {
		f.t.Errorf("members differ: %v", sums)
	}
}

// generated: the published interface, with the generated client and the ordinary codec.
func (f *opsFixture) generated() {
	conn, err := grpc.NewClient(f.g.nodes[f.g.leader()].rpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	f.must(err)
	defer conn.Close()
	api := kvpb.NewKVClient(conn)
	set := &kvpb.Step{Op: kvpb.Step_OP_SET, Keyspace: []byte("g"), Key: []byte("k"), Value: []byte("v")}
	get := &kvpb.Step{Op: kvpb.Step_OP_GET, Keyspace: []byte("g"), Key: []byte("k")}
	r, err := api.Apply(f.ctx, &kvpb.ApplyRequest{Store: testStore, Steps: []*kvpb.Step{set, get}})
	if err != nil || r.Index == 0 || len(r.Results) != 2 || string(r.Results[1].Value) != "v" {
		f.t.Fatalf("apply: %v, %v", r, err)
	}
	v, err := api.Get(f.ctx, &kvpb.GetRequest{Store: testStore, Keys: []*kvpb.Key{{Keyspace: []byte("g"), Key: []byte("k")}, {Keyspace: []byte("g"), Key: []byte("absent")}}})
	if err != nil || len(v.Values) != 2 || string(v.Values[0].Value) != "v" || v.Values[1].Found || v.Index == 0 || v.Seen < v.Index {
		f.t.Fatalf("get: %v, %v", v, err)
	}
	p, err := api.Range(f.ctx, &kvpb.RangeRequest{Store: testStore, Keyspace: []byte("g")})
	if err != nil || len(p.Entries) != 1 || string(p.Entries[0].Key) != "k" || p.More || p.Index == 0 {
		f.t.Fatalf("range: %v, %v", p, err)
	}
	n, err := api.Count(f.ctx, &kvpb.CountRequest{Store: testStore, Keyspace: []byte("g")})
	if err != nil || n.Keys != 1 || n.Bytes != 2 || len(n.Digest) != 32 || n.Seen == 0 {
		f.t.Fatalf("count: %v, %v", n, err)
	}
	client := bytes.Repeat([]byte{7}, clientBytes)
	_, err = api.Register(f.ctx, &kvpb.RegisterRequest{Store: testStore, Client: client})
	f.must(err)
	call := &kvpb.CallRequest{Store: testStore, Procedure: "add", Args: []byte("gen"), Write: &kvpb.WriteOptions{Client: client, Slot: 3, Sequence: 1}}
	for i := range 3 {
		r, err := api.Call(f.ctx, call)
		if err != nil || string(r.Result) != "x" || r.Repeated != (i > 0) {
			f.t.Errorf("call %d: %v, %v", i, r, err)
		}
	}
	stream, err := api.Exec(f.ctx)
	f.must(err)
	f.must(stream.Send(&kvpb.ExecRequest{Requests: []*kvpb.Request{
		{Id: 5, Op: &kvpb.Request_Get{Get: &kvpb.GetRequest{Store: testStore, Keys: []*kvpb.Key{{Keyspace: []byte("g"), Key: []byte("k")}}}}},
		{Id: 6, Op: &kvpb.Request_Ping{Ping: &kvpb.PingRequest{Payload: []byte("hello")}}},
		{Id: 7, Op: &kvpb.Request_Apply{Apply: &kvpb.ApplyRequest{Store: "nowhere"}}},
		{Id: 8},
	}}))
	f.must(stream.CloseSend())
	answers := map[uint64]*kvpb.Response{}
	for len(answers) < 4 {
		m, err := stream.Recv()
		f.must(err)
		for _, r := range m.Responses {
			answers[r.Id] = r
		}
	}
	if a := answers[5].GetGet(); a == nil || string(a.Values[0].Value) != "v" {
		f.t.Errorf("get over exec: %v", answers[5])
	}
	if a := answers[6].GetPing(); a == nil || string(a.Payload) != "hello" {
		f.t.Errorf("ping over exec: %v", answers[6])
	}
	if a := answers[7].GetError(); a.GetKind() != kvpb.Error_NO_STORE {
		f.t.Errorf("an unknown store over exec: %v", answers[7])
	}
	if a := answers[8].GetError(); a.GetKind() != kvpb.Error_INVALID {
		f.t.Errorf("no operation over exec: %v", answers[8])
	}
}

// deadline: writes that are cut off at random moments say truly whether they may have happened.
func (f *opsFixture) deadline() {
	var w sync.WaitGroup
	for n := range 8 {
		w.Go(func() {
			for i := range 40 {
				key := fmt.Appendf(nil, "%d.%d", n, i)
				ctx, cancel := context.WithTimeout(f.ctx, time.Duration(i*n)*20*time.Microsecond)
				err := f.s.Set(ctx, kv.Durable, "d", key, []byte("v"))
				cancel()
				_, gerr := f.s.Get(f.ctx, "d", key, ReadOptions{})
				switch {
				case err == nil && gerr != nil:
					f.t.Errorf("an acknowledged write: %v", gerr)
				case errors.Is(err, kv.ErrUnknownOutcome), err == nil:
				case !errors.Is(err, context.DeadlineExceeded) || !errors.Is(gerr, kv.ErrNotFound):
					f.t.Errorf("%v, and then the key: %v", err, gerr)
				}
			}
		})
	}
	w.Wait()
}
