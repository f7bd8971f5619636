package kvrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// TestOps: the numbers of the operations are those that are published.
func TestOps(t *testing.T) {
	want := map[kv.Op]kvpb.Step_Op{
		kv.OpAssert: kvpb.Step_OP_ASSERT, kv.OpAssertExists: kvpb.Step_OP_ASSERT_EXISTS, kv.OpAssertAbsent: kvpb.Step_OP_ASSERT_ABSENT,
		kv.OpAssertRange: kvpb.Step_OP_ASSERT_RANGE, kv.OpGet: kvpb.Step_OP_GET, kv.OpSet: kvpb.Step_OP_SET, kv.OpDelete: kvpb.Step_OP_DELETE,
		kv.OpDeletePrefix: kvpb.Step_OP_DELETE_PREFIX, kv.OpTestAndSet: kvpb.Step_OP_TEST_AND_SET, kv.OpReplace: kvpb.Step_OP_REPLACE,
		kv.OpConfirm: kvpb.Step_OP_CONFIRM,
	}
	for op, published := range want {
		if int(op) != int(published) {
			t.Errorf("%v is %d here", published, op)
		}
	}
	if len(want) != len(kvpb.Step_Op_name)-1 {
		t.Errorf("%d operations are published, %d compared", len(kvpb.Step_Op_name)-1, len(want))
	}
}

var genBytes = rapid.SliceOfN(rapid.Byte(), 0, 40)

func genStep(t *rapid.T) kv.Step {
	st := kv.Step{
		Op: kv.Op(rapid.IntRange(1, 11).Draw(t, "op")), Keyspace: kv.Keyspace(rapid.StringN(0, 8, -1).Draw(t, "ks")),
		Key: genBytes.Draw(t, "key"), Value: genBytes.Draw(t, "value"), Expect: genBytes.Draw(t, "expect"),
		ExpectAbsent: rapid.Bool().Draw(t, "absent"), Remove: rapid.Bool().Draw(t, "remove"), Limit: rapid.IntRange(0, 1<<20).Draw(t, "limit"),
	}
	if st.Op == kv.OpAssertRange {
		st.Digest = [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
		st.To = rapid.OneOf(rapid.Just[[]byte](nil), rapid.Just([]byte{}), genBytes).Draw(t, "to")
	}
	return st
}

// TestApplyOnTheWire: what the client encodes, the server and the generated code decode to the same.
func TestApplyOnTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &call{op: opApply, id: rapid.Uint64().Draw(t, "id"), store: rapid.StringN(1, 20, -1).Draw(t, "store"), writes: true}
		c.write = writeOptions{client: bytes.Repeat([]byte{1}, 16), slot: rapid.Uint32().Draw(t, "slot"), sequence: rapid.Uint64().Draw(t, "sequence"),
			repeat: rapid.Bool().Draw(t, "repeat"), commit: kv.Commit(rapid.IntRange(0, 1).Draw(t, "commit"))}
		for range rapid.IntRange(0, 5).Draw(t, "steps") {
			c.steps = append(c.steps, genStep(t))
		}
		b := c.append(nil)
		if len(b) > c.size() {
			t.Fatalf("%d bytes, foreseen were %d", len(b), c.size())
		}
		reqs, refused, err := decodeExec(b, names{})
		if err != nil || refused != nil || len(reqs) != 1 {
			t.Fatalf("%v %v %v", reqs, refused, err)
		}
		r := reqs[0]
		if r.id != c.id || r.store != c.store || !reflect.DeepEqual(r.write, c.write) {
			t.Fatalf("decoded %+v, sent %+v", r, c)
		}
		var m kvpb.ExecRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		steps := m.Requests[0].GetApply().GetSteps()
		for i, want := range c.steps {
			got, gen := r.steps[i], steps[i]
			if got.Op != want.Op || got.Keyspace != want.Keyspace || !bytes.Equal(got.Key, want.Key) || !bytes.Equal(got.Value, want.Value) ||
				!bytes.Equal(got.Expect, want.Expect) || got.ExpectAbsent != want.ExpectAbsent || got.Remove != want.Remove || got.Limit != want.Limit ||
				got.Digest != want.Digest || (got.To == nil) != (want.To == nil) || !bytes.Equal(got.To, want.To) {
				t.Fatalf("step %d is %+v, sent was %+v", i, got, want)
			}
			if int(gen.Op) != int(want.Op) || string(gen.Keyspace) != string(want.Keyspace) || !bytes.Equal(gen.Value, want.Value) || gen.Remove != want.Remove || gen.Limit != uint64(want.Limit) {
				t.Fatalf("step %d is %v by the generated code, sent was %+v", i, gen, want)
			}
		}
	})
}

// TestErrorsOnTheWire: errors match on the other side as they do here.
func TestErrorsOnTheWire(t *testing.T) {
	for _, err := range []error{
		kv.ErrNotFound, kv.ErrUnknownOutcome, kv.ErrClosed, kv.ErrNoStore, kv.ErrNoProcedure, ErrTooMany, ErrTooStale, ErrResultForgotten,
		raftkv.ErrNoHash, errUnregistered, errStale, context.Canceled,
		&kv.ConflictError{Index: 3, Keyspace: "a\xff", Key: []byte("k\xfe"), Found: true, Reason: "because"},
		&kv.TooLargeError{What: "key", Size: 5, Max: 4, KeyPreview: []byte("k\xff")},
		&kv.CompactedError{First: 7}, &kv.FencedError{Holder: "h"}, &kv.NotLeaderError{Leader: "n1"},
		&kv.NoQuorumError{Missing: []string{"a", "b"}, Err: errors.New("x")},
		&kv.CorruptError{What: "file", Err: errors.New("bits")},
		&ProcedureError{Procedure: "p", Message: "m", Detail: []byte{1}}, &InvalidError{"nonsense"},
	} {
		b, merr := proto.Marshal(encodeError(fmt.Errorf("around: %w", err), func(id string) string { return "addr of " + id }))
		if merr != nil {
			t.Errorf("%v: %v", err, merr)
			continue
		}
		got := unmarshalError(b)
		viaStatus, ok := fromStatus(toStatus(encodeError(err, func(string) string { return "" })))
		if !ok {
			t.Errorf("%v has no details in its status", err)
		}
		for _, got := range []error{got, viaStatus} {
			if errors.Is(got, err) {
				continue
			}
			target := reflect.New(reflect.TypeOf(err))
			if !errors.As(got, target.Interface()) || target.Elem().Interface().(error).Error() != err.Error() {
				t.Errorf("%v arrives as %v", err, got)
			}
		}
	}
	for _, is := range []struct{ err, target error }{
		{&kv.ConflictError{}, kv.ErrConflict}, {&kv.CompactedError{}, kv.ErrCompacted}, {&kv.FencedError{}, kv.ErrFenced}, {&kv.NoQuorumError{}, kv.ErrNoQuorum},
	} {
		if got := decodeError(encodeError(is.err, func(string) string { return "" })); !errors.Is(got, is.target) {
			t.Errorf("%v arrives as %v", is.err, got)
		}
	}
}

func execSeed() []byte {
	var b []byte
	for id, c := range []*call{
		{op: opGet, keys: []Key{{"a", []byte("k")}, {"b", nil}}, read: readOptions{level: kvpb.Level_SESSION, minIndex: 5, maxAge: 6}},
		{op: opApply, write: writeOptions{client: make([]byte, 16), slot: 3, sequence: 9, repeat: true, commit: kv.Ordered},
			steps: []kv.Step{{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: []byte("v")}, {Op: kv.OpAssertRange, Keyspace: "a", To: []byte{}}}},
		{op: opPing, cold: pingMessage},
	} {
		c.id, c.store = uint64(id+1), "s"
		b = c.append(b)
	}
	return b
}

// FuzzRequests: whatever arrives is decoded or refused, and never makes more of it than it is.
func FuzzRequests(f *testing.F) {
	f.Add(execSeed())
	f.Add([]byte{0x0a, 0x80, 0x80, 0x80, 0x00})
	f.Add(bytes.Repeat([]byte{0x0a, 0x00}, 100))
	f.Add(append([]byte{0x0a, 0x0c, 0x2a, 0x0a}, bytes.Repeat([]byte{0x1a, 0x00}, 5)...))
	srv := &Server{}
	f.Fuzz(func(t *testing.T, data []byte) {
		reqs, refused, err := decodeExec(data, names{})
		if err != nil {
			return
		}
		size := 0
		for i := range reqs {
			size += reqs[i].size
			if refused == nil || refused[i] == nil {
				_ = srv.check(&reqs[i])
			}
		}
		if size > len(data) {
			t.Errorf("%d bytes of requests in a message of %d", size, len(data))
		}
	})
}

// FuzzAnswers: the client's decoders.
func FuzzAnswers(f *testing.F) {
	results := appendResults(nil, []kv.StepResult{{Found: true, Value: []byte("v")}, {Count: 3}})
	f.Add(results)
	f.Add(appendView(results, 2, 5, 6, 7))
	page, err := proto.Marshal(&kvpb.RangeResponse{Entries: []*kvpb.KeyValue{{Key: []byte("k"), Value: []byte("v")}}, More: true, Index: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page)
	f.Add(row{state: rowApplied, sequence: 4, body: results}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, _ = decodeResults(data, 2)
		_, _ = decodeValues(data, make([]Value, 2))
		if p, err := decodePage(data); err == nil {
			_ = p.Next(kv.Range{})
			_ = p.Next(kv.Range{Reverse: true})
		}
		if r, err := decodeRow(data); err == nil && !bytes.Equal(r.encode(), data) {
			t.Errorf("%x becomes %x", data, r.encode())
		}
		_ = unmarshalError(data)
	})
}

// TestForgetIdle: clients are forgotten a day after their last write, not before, and their writes are
// refused then.
func TestForgetIdle(t *testing.T) {
	g := startGroup(t, groupOptions{members: 1})
	ctx := testContext(t)
	s := g.client(ClientOptions{}).Store(testStore)
	set := func() {
		t.Helper()
		if err := s.Set(ctx, kv.Durable, "a", []byte("k"), nil); err != nil {
			t.Fatal(err)
		}
	}
	set()
	before := s.identity
	h, err := g.nodes[0].server.host(testStore)
	if err != nil {
		t.Fatal(err)
	}
	rows := func() (n int) {
		if err := g.nodes[0].store.View(ctx, kv.Linearizable, func(r kv.Reader) error {
			return r.Range(kv.SystemKeyspace, kv.Prefix([]byte(clientPrefix)), func(_, _ []byte) bool { n++; return true })
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := h.forgetIdle(ctx, hour()+idleHours-1); err != nil || rows() != 2 {
		t.Errorf("%d rows, %v", rows(), err)
	}
	if err := h.forgetIdle(ctx, hour()+idleHours+1); err != nil || rows() != 0 {
		t.Errorf("%d rows after a day, %v", rows(), err)
	}
	set() // it registers again, as another
	if string(s.identity) == string(before) || rows() != 2 {
		t.Errorf("%d rows of %x", rows(), s.identity)
	}
	// An old copy of a write of the forgotten client does nothing.
	w := &request{op: opApply, write: writeOptions{client: before, sequence: 1}, steps: []kv.Step{{Op: kv.OpSet, Keyspace: "a", Key: []byte("old")}}}
	o := &one{ctx: ctx, told: make(chan struct{})}
	h.write(work{req: w, to: o})
	<-o.told
	if !errors.Is(o.err, errUnregistered) {
		t.Errorf("a write of a forgotten client: %v", o.err)
	}
}

// TestCopies: copies of writes that arrive late or twice.
func TestCopies(t *testing.T) {
	g := startGroup(t, groupOptions{members: 1})
	ctx := testContext(t)
	s := g.client(ClientOptions{}).Store(testStore)
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("0")); err != nil {
		t.Fatal(err)
	}
	h, err := g.nodes[0].server.host(testStore)
	if err != nil {
		t.Fatal(err)
	}
	client := s.identity
	send := func(sequence uint64, repeat bool, steps ...kv.Step) (results []kv.StepResult, info writeInfo, err error) {
		o := &one{ctx: ctx, told: make(chan struct{})}
		h.write(work{req: &request{op: opApply, write: writeOptions{client: client, slot: 9, sequence: sequence, repeat: repeat}, steps: steps}, to: o})
		<-o.told
		if o.err != nil {
			return nil, info, o.err
		}
		return decodeResults(o.body, len(steps))
	}
	replace := kv.Step{Op: kv.OpReplace, Keyspace: "a", Key: []byte("k"), Value: []byte("1")}
	for i, repeat := range []bool{false, true, false} { // also a copy that the network has doubled
		r, info, err := send(1, repeat, replace)
		if err != nil || string(r[0].Value) != "0" || info.repeated != (i > 0) {
			t.Errorf("copy %d: %v %+v %v", i, r, info, err)
		}
	}
	// Refused while an earlier copy is under way: that one is refused too, when it arrives.
	assert := kv.Step{Op: kv.OpAssert, Keyspace: "a", Key: []byte("k"), Value: []byte("2")}
	set := kv.Step{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: []byte("3")}
	var conflict *kv.ConflictError
	if _, _, err := send(2, true, assert, set); !errors.As(err, &conflict) {
		t.Errorf("a conflict: %v", err)
	}
	if err := s.Set(ctx, kv.Durable, "a", []byte("k"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := send(2, false, assert, set); !errors.As(err, &conflict) {
		t.Errorf("an earlier copy of what was refused: %v", err)
	}
	if _, _, err := send(1, false, replace); !errors.Is(err, errStale) {
		t.Errorf("an old copy: %v", err)
	}
	// A result that is too large to be kept.
	big := kv.Step{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: make([]byte, maxStored+1)}
	if _, _, err := send(3, false, big); err != nil {
		t.Fatal(err)
	}
	if r, _, err := send(4, false, replace); err != nil || len(r[0].Value) != maxStored+1 {
		t.Errorf("a large result: %v", err)
	}
	if _, _, err := send(4, true, replace); !errors.Is(err, ErrResultForgotten) {
		t.Errorf("a large result the second time: %v", err)
	}
	v, err := s.Get(ctx, "a", []byte("k"), ReadOptions{})
	if err != nil || string(v) != "1" {
		t.Errorf("%q, %v", v, err)
	}
}
