package batch_test

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/internal/batch"
)

type op struct {
	ks         kv.Keyspace
	key, value []byte
}

func encode(ops []op) []byte {
	var e batch.Encoder
	for _, o := range ops {
		if o.value == nil {
			e.Delete(o.ks, o.key)
		} else {
			e.Put(o.ks, o.key, o.value)
		}
	}
	return e.Finish()
}

func decode(data []byte) (ops []op, err error) {
	err = batch.Decode(data, func(ks kv.Keyspace, key, value []byte) error {
		ops = append(ops, op{ks, key, value})
		return nil
	})
	return ops, err
}

func TestRoundTrip(t *testing.T) {
	genOp := rapid.Custom(func(t *rapid.T) op {
		o := op{ks: kv.Keyspace(rapid.SampledFrom([]string{"a", "b", "inode", "\x00system"}).Draw(t, "ks"))}
		o.key = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "key")
		if rapid.Bool().Draw(t, "put") {
			o.value = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
		}
		return o
	})
	rapid.Check(t, func(t *rapid.T) {
		ops := rapid.SliceOfN(genOp, 0, 20).Draw(t, "ops")
		data := encode(ops)
		got, err := decode(data)
		if err != nil || len(got) != len(ops) {
			t.Fatalf("%d operations came back as %d: %v", len(ops), len(got), err)
		}
		for i := range ops {
			if ops[i].ks != got[i].ks || !bytes.Equal(ops[i].key, got[i].key) ||
				(ops[i].value == nil) != (got[i].value == nil) || !bytes.Equal(ops[i].value, got[i].value) {
				t.Fatalf("operation %d: %v came back as %v", i, ops[i], got[i])
			}
		}
		// Every single damaged byte is noticed.
		data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := decode(data); !errors.Is(err, batch.ErrMalformed) {
			t.Fatalf("a damaged batch: %v", err)
		}
	})
}

// FuzzDecode: whatever arrives is decoded or refused, and what is decoded is encoded to the same
// operations.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(nil))
	f.Add(encode([]op{{"a", []byte("k"), []byte("v")}, {"a", []byte("k"), nil}, {"b", []byte("k"), []byte{}}}))
	f.Add(batch.Sum([]byte("GSB\x01\x04\x01k\x00")))
	f.Add(batch.Sum([]byte("GSB\x01\x00\x01a\xff\xff\xff\xff\xff\x01k")))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, batch.Sum(append([]byte("GSB\x01"), data...))} {
			ops, err := decode(data)
			if err != nil {
				if !errors.Is(err, batch.ErrMalformed) {
					t.Fatalf("an error of another kind: %v", err)
				}
				continue
			}
			again, err := decode(encode(ops))
			if err != nil || len(again) != len(ops) {
				t.Fatalf("%d operations came back as %d: %v", len(ops), len(again), err)
			}
		}
	})
}
