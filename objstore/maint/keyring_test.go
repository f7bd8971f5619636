package maint

import (
	"errors"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
)

func FuzzKeyring(f *testing.F) {
	keys, err := crypt.NewKeys(crypt.Secret{Kind: crypt.KeyFile, Bytes: make([]byte, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeKeyring(7, keys.Add(1).Encode()))
	f.Add([]byte(keyringMagic + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, ring, err := decodeKeyring(b)
		var corrupt *objstore.CorruptError
		switch {
		case err != nil && !errors.As(err, &corrupt):
			t.Fatalf("not a typed error: %v", err)
		case err == nil && string(encodeKeyring(g, ring)) != string(b):
			t.Fatal("it encodes to something else")
		}
	})
}
