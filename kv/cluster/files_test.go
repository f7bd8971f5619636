package cluster

import (
	"bytes"
	"errors"
	"path/filepath"
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

func FuzzAddresses(f *testing.F) {
	b, err := encodeAddresses(&clusterpb.Addresses{Addresses: []*clusterpb.Address{{Id: "a", Address: "h:1", Generation: 2}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:12])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseAddresses("addresses", b)
		if err != nil {
			var damaged *kv.CorruptError
			if !errors.As(err, &damaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeAddresses(m)
		if err == nil {
			_, err = parseAddresses("addresses", again)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestLostAddressBook: a node whose book is lost counts on from what others remember of it.
func TestLostAddressBook(t *testing.T) {
	t.Parallel()
	b, err := openAddresses(t.TempDir(), "a", "h:1")
	if err != nil {
		t.Fatal(err)
	}
	err = b.learn([]*clusterpb.Address{
		{Id: "a", Address: "old:1", Generation: 7}, {Id: "b", Address: "h:2", Generation: 1},
		{Id: "b", Address: "h:3", Generation: 1}, {Id: "c", Address: "no address", Generation: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if own := b.own(); own.Address != "h:1" || own.Generation != 8 {
		t.Errorf("the node's own address is %v", own)
	}
	if b.get("b") != "h:2" || b.get("c") != "" {
		t.Errorf("b is at %q, c at %q", b.get("b"), b.get("c"))
	}
	again, err := openAddresses(filepath.Dir(b.path), "a", "h:9")
	if err != nil {
		t.Fatal(err)
	}
	if own := again.own(); own.Address != "h:9" || own.Generation != 9 || again.get("b") != "h:2" {
		t.Errorf("read again: %v", again.all())
	}
}
