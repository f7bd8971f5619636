package crypt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/objstore"
)

func fileSecret(b byte) Secret { return Secret{KeyFile, bytes.Repeat([]byte{b}, 32)} }

func testKeys(t testing.TB, namespace uint32) (*Keys, *NamespaceKeys) {
	t.Helper()
	k, err := NewKeys(fileSecret(1))
	if err != nil {
		t.Fatal(err)
	}
	k = k.Add(namespace)
	n, err := k.Namespace(namespace)
	if err != nil {
		t.Fatal(err)
	}
	return k, n
}

// cheap is argon2id for tests.
var cheap = cost{time: 1, memory: 64, lanes: 1}

func TestSecrets(t *testing.T) {
	pass := func(s string) Secret { return Secret{Passphrase, []byte(s)} }
	for _, c := range []struct{ right, wrong Secret }{
		{fileSecret(1), fileSecret(2)},
		{fileSecret(1), pass(strings.Repeat("\x01", 32))},
		{pass("correct horse"), pass("correct house")},
		{pass("correct horse"), Secret{KeyFile, []byte("correct horse battery staple, long enough")}},
		{fileSecret(1), Secret{KeyFile, []byte("short")}},
	} {
		k, err := newKeys(c.right, cheap)
		if err != nil {
			t.Fatal(err)
		}
		k = k.Add(5)
		ring, err := DecodeKeyring(k.Encode())
		if err != nil || !reflect.DeepEqual(ring, k.Keyring) {
			t.Fatal(ring, err)
		}
		if _, err := ring.Unlock(c.wrong); !errors.Is(err, objstore.ErrWrongKey) {
			t.Errorf("%v opened with another secret: %v", c.right.Kind, err)
		}
		open, err := ring.Unlock(c.right)
		if err != nil {
			t.Fatal(err)
		}
		a, errA := k.Namespace(5)
		b, errB := open.Namespace(5)
		if errA != nil || errB != nil || !reflect.DeepEqual(a, b) {
			t.Fatal(errA, errB)
		}
		if _, err := open.Namespace(6); !errors.Is(err, objstore.ErrNotFound) {
			t.Fatal(err)
		}
	}
	for _, bad := range []Secret{{}, {KeyFile, nil}, {KeyFile, make([]byte, MaxKeyFile+1)}, {Passphrase, []byte("short")}, {9, make([]byte, 100)}} {
		if _, err := NewKeys(bad); err == nil {
			t.Errorf("made a keyring for %v of %d bytes", bad.Kind, len(bad.Bytes))
		}
	}
}

func TestRotateAndChange(t *testing.T) {
	k, first := testKeys(t, 3)
	_, w := first.NewObject(77)
	k, err := k.Rotate(3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(4); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if k, err = k.Change(fileSecret(9)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Unlock(fileSecret(1)); !errors.Is(err, objstore.ErrWrongKey) {
		t.Fatal("the old secret still opens it:", err)
	}
	if k, err = k.Unlock(fileSecret(9)); err != nil {
		t.Fatal(err)
	}
	second, err := k.Namespace(3)
	if err != nil || second.Newest() != 2 || second.Secret("a") != first.Secret("a") || second.Secret("a") == second.Secret("b") {
		t.Fatal(second.Newest(), err)
	}
	w2, err := second.Rewrap(77, w)
	if err != nil || w2.Key != 2 {
		t.Fatal(w2, err)
	}
	// The same data key, by the old seal and the new one.
	p := Position{Len: 5}
	old, _ := first.Object(77, w)
	sealed := old.Seal(nil, []byte("hello"), p)
	for _, w := range []*Wrapped{w, w2} {
		o, err := second.Object(77, w)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := o.Open(nil, sealed, p); err != nil || string(got) != "hello" {
			t.Fatal(got, err)
		}
	}
	for _, bad := range []struct {
		id uint64
		w  *Wrapped
		n  *NamespaceKeys
	}{{78, w2, second}, {77, w2, first}, {77, &Wrapped{1, w2.Box}, second}, {77, &Wrapped{3, w2.Box}, second}} {
		if _, err := bad.n.Object(bad.id, bad.w); !errors.Is(err, objstore.ErrWrongKey) {
			t.Errorf("upload %d, key %d: %v", bad.id, bad.w.Key, err)
		}
	}
}

// TestFramesStayWhereTheyBelong: a frame opens only with its own key, at its own place, and whole.
func TestFramesStayWhereTheyBelong(t *testing.T) {
	_, n := testKeys(t, 3)
	_, other := testKeys(t, 3)
	o, w := n.NewObject(77)
	p := Position{Encoding: 2, Frame: 3, Offset: 5 << 17, Len: 100, Compression: objstore.CompressS2}
	content := bytes.Repeat([]byte("frame"), 20)
	sealed := o.Seal(nil, content, p)
	if len(sealed) != len(content)+Overhead {
		t.Fatal(len(sealed))
	}
	if got, err := o.Open(nil, sealed, p); err != nil || !bytes.Equal(got, content) {
		t.Fatal(err)
	}
	again, err := n.Object(77, w)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(bytes.Clone(sealed)[:0], bytes.Clone(sealed), p); err != nil || !bytes.Equal(got, content) {
		t.Fatal(err)
	}
	var corrupt *objstore.CorruptError
	for i := range sealed {
		for bit := range 8 {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1 << bit
			if _, err := o.Open(nil, bad, p); !errors.As(err, &corrupt) {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
		}
		if _, err := o.Open(nil, sealed[:i], p); !errors.As(err, &corrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	for why, q := range map[string]Position{
		"encoding": {3, 3, 5 << 17, 100, objstore.CompressS2}, "frame": {2, 4, 5 << 17, 100, objstore.CompressS2},
		"offset": {2, 3, 6 << 17, 100, objstore.CompressS2}, "length": {2, 3, 5 << 17, 101, objstore.CompressS2},
		"compression": {2, 3, 5 << 17, 100, objstore.CompressZstd},
	} {
		if _, err := o.Open(nil, sealed, q); !errors.As(err, &corrupt) {
			t.Errorf("another %s: %v", why, err)
		}
	}
	same, _ := n.NewObject(77)
	foreign, _ := other.NewObject(77)
	moved := &Object{o.aead, o.namespace, 78}
	elsewhere := &Object{o.aead, 4, o.upload}
	for i, x := range []*Object{same, foreign, moved, elsewhere} {
		if _, err := x.Open(nil, sealed, p); !errors.As(err, &corrupt) {
			t.Errorf("object %d: %v", i, err)
		}
	}
}

func TestBoxes(t *testing.T) {
	k := newKey()
	var corrupt *objstore.CorruptError
	a, b := k.SealBox(nil, []byte("content"), []byte("what")), k.SealBox(nil, []byte("content"), []byte("what"))
	if bytes.Equal(a, b) {
		t.Fatal("two boxes of the same are the same")
	}
	if got, err := k.OpenBox(nil, a, []byte("what")); err != nil || string(got) != "content" {
		t.Fatal(err)
	}
	if _, err := k.OpenBox(nil, a, []byte("else")); !errors.As(err, &corrupt) {
		t.Fatal(err)
	}
	for i := range a {
		bad := bytes.Clone(a)
		bad[i] ^= 1
		if _, err := k.OpenBox(nil, bad, []byte("what")); !errors.As(err, &corrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := k.OpenBox(nil, a[:i], []byte("what")); !errors.As(err, &corrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

// TestGolden holds the formats to files that were written once: keyrings for a key file and for a passphrase, the
// data key of upload 77 of namespace 3, and a frame.
func TestGolden(t *testing.T) {
	for _, name := range []string{"keyfile", "passphrase"} {
		path := filepath.Join("testdata", name+".golden")
		secret := fileSecret(7)
		if name == "passphrase" {
			secret = Secret{Passphrase, []byte("correct horse battery staple")}
		}
		p := Position{Encoding: 1, Frame: 2, Offset: 2 << 17, Len: 6, Compression: objstore.CompressZstd}
		if os.Getenv("GABION_GOLDEN") != "" {
			writeGolden(t, path, secret, p)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(raw))
		var parts [3][]byte
		for i := range parts {
			if parts[i], err = hex.DecodeString(lines[i]); err != nil {
				t.Fatal(err)
			}
		}
		ring, err := DecodeKeyring(parts[0])
		if err != nil || !bytes.Equal(ring.Encode(), parts[0]) {
			t.Fatal(name, err)
		}
		k, err := ring.Unlock(secret)
		if err != nil {
			t.Fatal(name, err)
		}
		n, err := k.Namespace(3)
		if err != nil {
			t.Fatal(name, err)
		}
		w := &Wrapped{Key: n.Newest()}
		copy(w.Box[:], parts[1])
		o, err := n.Object(77, w)
		if err != nil {
			t.Fatal(name, err)
		}
		if got, err := o.Open(nil, parts[2], p); err != nil || string(got) != "gabion" {
			t.Fatal(name, got, err)
		}
	}
}

func writeGolden(t *testing.T, path string, secret Secret, p Position) {
	k, err := newKeys(secret, cheap)
	if err != nil {
		t.Fatal(err)
	}
	k = k.Add(3)
	n, err := k.Namespace(3)
	if err != nil {
		t.Fatal(err)
	}
	o, w := n.NewObject(77)
	var b strings.Builder
	for _, part := range [][]byte{k.Encode(), w.Box[:], o.Seal(nil, []byte("gabion"), p)} {
		b.WriteString(hex.EncodeToString(part) + "\n")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEveryDamageOfAKeyring(t *testing.T) {
	k, _ := testKeys(t, 3)
	b := k.Encode()
	var corrupt *objstore.CorruptError
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := DecodeKeyring(bad); !errors.As(err, &corrupt) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := DecodeKeyring(b[:i]); !errors.As(err, &corrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

// FuzzDecodeKeyring appends the right checksum, so that it gets past it.
func FuzzDecodeKeyring(f *testing.F) {
	k, _ := testKeys(f, 3)
	b := k.Encode()
	f.Add(b[:len(b)-4])
	f.Add(append([]byte("GK\x01\x02"), make([]byte, 60)...))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodeKeyring(binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli)))
		if err != nil {
			return
		}
		again, err := DecodeKeyring(r.Encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v: %+v became %+v", err, r, again)
		}
	})
}

func BenchmarkSealFrame(b *testing.B) {
	_, n := testKeys(b, 3)
	o, _ := n.NewObject(1)
	p, dst := make([]byte, 128<<10), make([]byte, 0, 128<<10+Overhead)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		o.Seal(dst, p, Position{})
	}
}

func BenchmarkUnwrap(b *testing.B) {
	_, n := testKeys(b, 3)
	_, w := n.NewObject(1)
	for b.Loop() {
		if _, err := n.Object(1, w); err != nil {
			b.Fatal(err)
		}
	}
}
