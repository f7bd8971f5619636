package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

// testSequence: an assert that does not hold names its step and leaves everything as it was.
func testSequence(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "k", "v")
	absent, _, err := digestOf(f, "b", kv.Range{})
	f.must(err)
	here, n, err := digestOf(f, "a", kv.Range{From: []byte("k"), To: []byte("l")})
	f.must(err)
	if n != 1 || here == absent {
		t.Errorf("the digest of %d keys is %x, of none %x", n, here, absent)
	}
	for _, c := range []struct {
		name   string
		assert kv.Step
		holds  bool
	}{
		{"absent but there", kv.Step{Op: kv.OpAssertAbsent, Key: []byte("k")}, false},
		{"other value", kv.Step{Op: kv.OpAssert, Key: []byte("k"), Value: []byte("x")}, false},
		{"nil is empty, not anything", kv.Step{Op: kv.OpAssert, Key: []byte("k")}, false},
		{"value of an absent key", kv.Step{Op: kv.OpAssert, Key: []byte("x"), Value: []byte("v")}, false},
		{"exists but absent", kv.Step{Op: kv.OpAssertExists, Key: []byte("x")}, false},
		{"range is not empty", kv.Step{Op: kv.OpAssertRange, Digest: absent}, false},
		{"range has more", kv.Step{Op: kv.OpAssertRange, Digest: here, Key: []byte("l")}, false},
		{"own write", kv.Step{Op: kv.OpAssert, Key: []byte("first"), Value: []byte("other")}, false},
		{"absent", kv.Step{Op: kv.OpAssertAbsent, Key: []byte("x")}, true},
		{"exists", kv.Step{Op: kv.OpAssertExists, Key: []byte("k")}, true},
		{"range", kv.Step{Op: kv.OpAssertRange, Digest: here, Key: []byte("k"), To: []byte("kk")}, true},
		{"empty range", kv.Step{Op: kv.OpAssertRange, Digest: absent, Key: []byte("l")}, true},
		{"own write holds", kv.Step{Op: kv.OpAssert, Key: []byte("first"), Value: []byte("1")}, true},
	} {
		c.assert.Keyspace = "a"
		_, err := kv.Apply(f.ctx, f, kv.Ordered, []kv.Step{
			{Op: kv.OpSet, Keyspace: "a", Key: []byte("first"), Value: []byte("1")},
			c.assert,
			{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: []byte("w")},
			{Op: kv.OpSet, Keyspace: "b", Key: []byte("n"), Value: []byte("new")},
			{Op: kv.OpSet, Keyspace: "b", Key: []byte("gone"), Value: []byte("x")},
			{Op: kv.OpDelete, Keyspace: "b", Key: []byte("gone")},
		})
		if c.holds {
			f.must(err)
			f.want(kv.Linearizable, "a", "k", "w")
			f.want(kv.Linearizable, "b", "n", "new")
			f.want(kv.Linearizable, "b", "gone", "<none>")
			f.must(reset(f))
			continue
		}
		var conflict *kv.ConflictError
		if !errors.Is(err, kv.ErrConflict) || !errors.As(err, &conflict) || conflict.Index != 1 {
			t.Errorf("%s: %v, want a conflict on step 1", c.name, err)
		}
		f.want(kv.Linearizable, "a", "k", "v")
		f.want(kv.Linearizable, "a", "first", "<none>")
		f.want(kv.Linearizable, "b", "n", "<none>")
	}
}

// reset puts the picture of testSequence back.
func reset(f *fixture) error {
	_, err := kv.Apply(f.ctx, f, kv.Ordered, []kv.Step{
		{Op: kv.OpDeletePrefix, Keyspace: "a"}, {Op: kv.OpDeletePrefix, Keyspace: "b"},
		{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: []byte("v")},
	})
	return err
}

func digestOf(f *fixture, ks kv.Keyspace, r kv.Range) (sum [32]byte, n uint64, err error) {
	err = f.View(f.ctx, kv.Linearizable, func(rd kv.Reader) error {
		sum, n, err = kv.DigestRange(rd, ks, r)
		return err
	})
	return sum, n, err
}

// testSteps: what each operation tells and leaves.
func testSteps(t *testing.T, f *fixture) {
	for i, c := range []struct {
		step  kv.Step
		want  kv.StepResult
		after string // what the key "k" has then
	}{
		{kv.Step{Op: kv.OpGet}, kv.StepResult{}, "<none>"},
		{kv.Step{Op: kv.OpReplace, Value: []byte("1")}, kv.StepResult{}, "1"},
		{kv.Step{Op: kv.OpGet}, kv.StepResult{Found: true, Value: []byte("1")}, "1"},
		{kv.Step{Op: kv.OpReplace, Value: []byte("2")}, kv.StepResult{Found: true, Value: []byte("1")}, "2"},
		{kv.Step{Op: kv.OpReplace, Remove: true}, kv.StepResult{Found: true, Value: []byte("2")}, "<none>"},
		{kv.Step{Op: kv.OpTestAndSet, Expect: []byte("2"), Value: []byte("3")}, kv.StepResult{}, "<none>"},
		{kv.Step{Op: kv.OpTestAndSet, Value: []byte("3")}, kv.StepResult{}, "<none>"},
		{kv.Step{Op: kv.OpTestAndSet, ExpectAbsent: true, Value: []byte("3")}, kv.StepResult{Count: 1}, "3"},
		{kv.Step{Op: kv.OpTestAndSet, ExpectAbsent: true, Value: []byte("4")}, kv.StepResult{Found: true, Value: []byte("3")}, "3"},
		{kv.Step{Op: kv.OpTestAndSet, Expect: []byte("x"), Value: []byte("4")}, kv.StepResult{Found: true, Value: []byte("3")}, "3"},
		{kv.Step{Op: kv.OpTestAndSet, Expect: []byte("3"), Value: []byte("4")}, kv.StepResult{Found: true, Value: []byte("3"), Count: 1}, "4"},
		{kv.Step{Op: kv.OpTestAndSet, Expect: []byte("4"), Remove: true}, kv.StepResult{Found: true, Value: []byte("4"), Count: 1}, "<none>"},
		{kv.Step{Op: kv.OpConfirm, Value: []byte("5")}, kv.StepResult{Count: 1}, "5"},
		{kv.Step{Op: kv.OpConfirm, Value: []byte("5")}, kv.StepResult{Found: true}, "5"},
		{kv.Step{Op: kv.OpConfirm}, kv.StepResult{Found: true, Count: 1}, ""},
		{kv.Step{Op: kv.OpDelete}, kv.StepResult{}, "<none>"},
		{kv.Step{Op: kv.OpDelete}, kv.StepResult{}, "<none>"},
		{kv.Step{Op: kv.OpSet, Value: []byte("6")}, kv.StepResult{}, "6"},
		{kv.Step{Op: kv.OpDeletePrefix}, kv.StepResult{Count: 1}, "<none>"},
	} {
		c.step.Keyspace, c.step.Key = "a", []byte("k")
		got, err := kv.Apply(f.ctx, f, kv.Commit(i%2), []kv.Step{c.step})
		f.must(err)
		if len(got) != 1 || got[0].Found != c.want.Found || !bytes.Equal(got[0].Value, c.want.Value) || got[0].Count != c.want.Count {
			t.Errorf("step %d %+v: %+v, want %+v", i, c.step, got, c.want)
		}
		f.want(kv.Pending, "a", "k", c.after)
	}
}

// testDeletePrefix: neighbours stay, a limit cuts off, the transaction's own writes count.
func testDeletePrefix(t *testing.T, f *fixture) {
	prefix := func(key string, limit int) kv.Step {
		return kv.Step{Op: kv.OpDeletePrefix, Keyspace: "a", Key: []byte(key), Limit: limit}
	}
	var steps []kv.Step
	for _, k := range []string{"a", "b", "b\x00", "ba", "bb", "b\xff", "c"} {
		steps = append(steps, kv.Step{Op: kv.OpSet, Keyspace: "a", Key: []byte(k)})
	}
	got, err := kv.Apply(f.ctx, f, kv.Durable, append(steps, prefix("b", 2), prefix("b", 2), prefix("b", 2), prefix("b", 0)))
	f.must(err)
	for i, want := range []uint64{2, 2, 1, 0} {
		if n := got[len(steps)+i].Count; n != want {
			t.Errorf("round %d deleted %d keys, want %d", i, n, want)
		}
	}
	f.must(f.View(f.ctx, kv.Linearizable, func(r kv.Reader) error {
		if got, err := list(r, "a", kv.Range{}); err != nil || got != "a= c=" {
			return fmt.Errorf("left are %q, %v", got, err)
		}
		return nil
	}))
}

// testStepLimits: what a sequence must not contain is refused before anything runs.
func testStepLimits(t *testing.T, f *fixture) {
	var large *kv.TooLargeError
	for name, steps := range map[string][]kv.Step{
		"assert without a key":   {{Op: kv.OpAssertAbsent, Keyspace: "a"}},
		"get without a keyspace": {{Op: kv.OpGet, Key: []byte("k")}},
		"too many":               make([]kv.Step, kv.MaxSteps+1),
		"long key":               {{Op: kv.OpGet, Keyspace: "a", Key: make([]byte, kv.MaxKey+1)}},
		"long value":             {{Op: kv.OpSet, Keyspace: "a", Key: []byte("k"), Value: make([]byte, kv.MaxValue+1)}},
		"long in all": {
			{Op: kv.OpAssert, Keyspace: "a", Key: []byte("k"), Value: make([]byte, kv.MaxValue)},
			{Op: kv.OpAssert, Keyspace: "a", Key: []byte("k"), Value: make([]byte, kv.MaxValue)},
			{Op: kv.OpAssert, Keyspace: "a", Key: []byte("k"), Value: make([]byte, kv.MaxValue)},
			{Op: kv.OpTestAndSet, Keyspace: "a", Key: []byte("k"), Expect: make([]byte, kv.MaxValue)},
		},
	} {
		if _, err := kv.Apply(f.ctx, f, kv.Durable, steps); !errors.As(err, &large) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var wrong *kv.StepError
	for _, st := range []kv.Step{{}, {Op: 200}, {Op: kv.OpDeletePrefix, Limit: -1}} {
		st.Keyspace, st.Key = "a", []byte("k")
		if _, err := kv.Apply(f.ctx, f, kv.Durable, []kv.Step{st}); !errors.As(err, &wrong) {
			t.Errorf("step %+v: %v", st, err)
		}
	}
}
