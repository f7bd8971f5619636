package raftkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv/logpb"
)

// encode is the batch that the store would write for the operations; a nil value deletes.
func encode(term, number uint64, ops []op) []byte {
	b := appendHeader(nil, term, number)
	for _, o := range ops {
		b, _, _ = appendOp(b, o.ks, o.key, o.sealed, o.sealed == nil)
	}
	return b
}

// TestCodecAgrees: what is written by hand reads as the published message, and the other way round.
func TestCodecAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		term, number := rapid.Uint64().Draw(t, "term"), rapid.Uint64().Draw(t, "number")
		var ops []op // sealed holds the plain value here
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			o := op{
				ks:  kv.Keyspace(rapid.SliceOfN(rapid.Byte(), 1, kv.MaxKeyspace).Draw(t, "ks")),
				key: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "key"),
			}
			if rapid.Bool().Draw(t, "put") {
				o.sealed = append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")...)
			}
			ops = append(ops, o)
		}
		b := encode(term, number, ops)

		var m logpb.WriteBatch
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		if m.Term != term || m.Number != number || len(m.Ops) != len(ops) {
			t.Fatalf("the message has term %d, number %d and %d operations", m.Term, m.Number, len(m.Ops))
		}
		for i, o := range m.Ops {
			want := ops[i]
			if string(o.Keyspace) != string(want.ks) || !bytes.Equal(o.Key, want.key) || (o.Sealed == nil) != (want.sealed == nil) {
				t.Fatalf("operation %d differs: %v", i, o)
			}
			if o.Sealed == nil {
				continue
			}
			value, err := unseal(want.ks, want.key, o.Sealed)
			if err != nil || !bytes.Equal(value, want.sealed) {
				t.Fatalf("operation %d: %v", i, err)
			}
		}

		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		var got []op
		h, err := decodeBatch(again, func(o op) error { got = append(got, o); return nil })
		if err != nil || h != (header{term, number}) || len(got) != len(ops) {
			t.Fatalf("decoded %v with %d operations, %v", h, len(got), err)
		}
		for i, o := range got {
			if o.ks != ops[i].ks || !bytes.Equal(o.key, ops[i].key) || !bytes.Equal(o.sealed, m.Ops[i].Sealed) || (o.sealed == nil) != (m.Ops[i].Sealed == nil) {
				t.Fatalf("operation %d differs", i)
			}
		}
		if quick, err := decodeHeader(b); err != nil || quick != h {
			t.Fatalf("header %v, %v; want %v", quick, err, h)
		}
		if quick, err := decodeHeader(again); err != nil || quick != h {
			t.Fatalf("header of the generated encoder %v, %v; want %v", quick, err, h)
		}
	})
}

// TestCodecNoticesDamage: a flipped bit never makes another put of a put. (It may make a delete of it;
// the checksums around a whole log record and a whole page are there for that.)
func TestCodecNoticesDamage(t *testing.T) {
	b := encode(3, 4, []op{{"inode", []byte("some key"), []byte("some value")}, {"dirent", []byte("other"), []byte{}}})
	for i := headerSize; i < len(b); i++ {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			var got []op
			_, err := decodeBatch(c, func(o op) error { got = append(got, o); return nil })
			if err == nil && len(got) == 2 && got[0].sealed != nil && got[1].sealed != nil {
				t.Errorf("bit %d of byte %d was not noticed", bit, i)
			}
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(encode(1, 2, []op{{"inode", []byte("k"), []byte("v")}, {"x", []byte("gone"), nil}}))
	f.Add([]byte{})
	f.Add([]byte{tagOps, 0})
	f.Add([]byte("\x98\x98\x98\x9800"))
	f.Add([]byte{tagOps, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ops []op
		h, err := decodeBatch(b, func(o op) error {
			if err := kv.CheckKey(o.ks, o.key); err != nil {
				t.Fatal(err)
			}
			if o.sealed != nil {
				value, err := unseal(o.ks, o.key, o.sealed)
				if err != nil {
					t.Fatal(err)
				}
				o.sealed = value
			}
			ops = append(ops, o)
			return nil
		})
		var m logpb.WriteBatch
		if perr := proto.Unmarshal(b, &m); err == nil && perr != nil {
			t.Fatalf("accepted what the generated code refuses: %v", perr)
		}
		if err != nil {
			if !errors.Is(err, errBatch) && !errors.Is(err, errSeal) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		// What was understood survives a round trip.
		n := 0
		if again, err := decodeBatch(encode(h.term, h.number, ops), func(op) error { n++; return nil }); err != nil || again != h || n != len(ops) {
			t.Fatalf("round trip: %v, %d of %d operations, %v", again, n, len(ops), err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(state{applied: 4, term: 2, number: 3, snapshot: snapshotMeta{Index: 3, Config: []byte("x")}}.marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := unmarshalState(b); err == nil && !bytes.Equal(st.marshal(), b) {
			t.Fatal("does not survive a round trip")
		}
	})
}

func FuzzFormat(f *testing.F) {
	dir := f.TempDir()
	if err := checkFormat(dir, "member", true); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("gabionkv"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := parseFormat("f", b); err == nil && len(id) > maxID {
			t.Fatalf("an ID of %d bytes", len(id))
		}
	})
}

// TestChecksum holds the checksum against its definition.
func TestChecksum(t *testing.T) {
	for _, c := range []struct{ ks, key, value string }{
		{"inode", "k", "value"}, {"\x00system", "key", ""}, {"x", string(make([]byte, 70000)), "v"}, {strings.Repeat("s", 64), "\xff", "\x00\x80"},
	} {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(c.ks)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c.key)))
		b = append(b, c.ks+c.key+c.value...)
		if got, want := checksum(kv.Keyspace(c.ks), []byte(c.key), []byte(c.value)), crc(b); got != want {
			t.Errorf("checksum of %.10q/%.10q is %x, want %x", c.ks, c.key, got, want)
		}
	}
	key, value := []byte{1}, []byte{2}
	if n := testing.AllocsPerRun(100, func() { checksum("inode", key, value) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
