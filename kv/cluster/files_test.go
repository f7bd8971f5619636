package cluster

import (
	"bytes"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

func FuzzMark(f *testing.F) {
	f.Add(mark{created: true, index: 7, store: "s"}.encode())
	f.Add(mark{}.encode())
	f.Add([]byte("gabionmk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMark("mark", b)
		if err != nil {
			var damaged *kv.CorruptError
			if !errors.As(err, &damaged) {
				t.Fatal(err)
			}
			return
		}
		if again := m.encode(); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzStreamHeader(f *testing.F) {
	f.Add(encodeStreamHeader("s0000001"))
	f.Add(encodeStreamHeader("directory")[:5])
	f.Add([]byte("gbrs\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		id, err := readStreamHeader(r)
		if err != nil {
			if !errors.Is(err, errStreamHeader) {
				t.Fatal(err)
			}
			return
		}
		if again := encodeStreamHeader(id); !bytes.HasPrefix(b, again) || r.Len() != len(b)-len(again) {
			t.Fatalf("%x was read as %q", b, id)
		}
	})
}

func FuzzJoinMessage(f *testing.F) {
	var b bytes.Buffer
	if err := writeMessage(&b, &clusterpb.JoinRequest{Id: "a", Address: "h:1", Secret: make([]byte, 32)}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:6])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &clusterpb.JoinRequest{}
		_ = readMessage(bytes.NewReader(b), m, maxJoinRequest)
	})
}
