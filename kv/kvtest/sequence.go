package kvtest

import (
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

func testSequence(t *testing.T, f *fixture) {
	f.put(kv.Durable, "a", "k", "v")
	set := []kv.SequenceUpdate{
		{Keyspace: "a", Key: []byte("k"), Value: []byte("w")},
		{Keyspace: "b", Key: []byte("n"), Value: []byte("new")},
		{Keyspace: "b", Key: []byte("gone"), Value: []byte("x")},
		{Keyspace: "b", Key: []byte("gone"), Delete: true},
	}
	for _, c := range []struct {
		name   string
		assert kv.Assert
		holds  bool
	}{
		{"absent but there", kv.Assert{Key: []byte("k"), Absent: true}, false},
		{"other value", kv.Assert{Key: []byte("k"), Value: []byte("x")}, false},
		{"nil is empty, not anything", kv.Assert{Key: []byte("k")}, false},
		{"value of an absent key", kv.Assert{Key: []byte("x"), Value: []byte("v")}, false},
		{"exists but absent", kv.Assert{Key: []byte("x"), Exists: true}, false},
		{"absent", kv.Assert{Key: []byte("x"), Absent: true}, true},
		{"exists", kv.Assert{Key: []byte("k"), Exists: true}, true},
	} {
		c.assert.Keyspace = "a"
		err := kv.Apply(f.ctx, f, kv.Ordered, kv.Sequence{
			Asserts: []kv.Assert{{Keyspace: "a", Key: []byte("k"), Exists: true}, c.assert}, Updates: set})
		if c.holds {
			f.must(err)
			f.want(kv.Linearizable, "a", "k", "w")
			f.want(kv.Linearizable, "b", "n", "new")
			f.want(kv.Linearizable, "b", "gone", "<none>")
			continue
		}
		var conflict *kv.ConflictError
		if !errors.Is(err, kv.ErrConflict) || !errors.As(err, &conflict) || conflict.Index != 1 {
			t.Errorf("%s: %v, want a conflict on assert 1", c.name, err)
		}
		f.want(kv.Linearizable, "a", "k", "v")
		f.want(kv.Linearizable, "b", "n", "<none>")
	}
	var large *kv.TooLargeError
	if err := kv.Apply(f.ctx, f, kv.Durable, kv.Sequence{Asserts: []kv.Assert{{Keyspace: "a"}}}); !errors.As(err, &large) {
		t.Errorf("assert without a key: %v", err)
	}
	if err := kv.Apply(f.ctx, f, kv.Durable, kv.Sequence{Updates: make([]kv.SequenceUpdate, kv.MaxSequence+1)}); !errors.As(err, &large) {
		t.Errorf("long sequence: %v", err)
	}
}
