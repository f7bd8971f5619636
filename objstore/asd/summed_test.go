package asd

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"testing"
)

func TestPutSummed(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if _, err := Format(dir, ID{1}); err != nil {
		t.Fatal(err)
	}
	a, err := Open(ctx, dir, Options{Capacity: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	p := make([]byte, BlockSize+1000)
	for i := range p {
		p[i] = byte(i * 31)
	}
	sums := []uint32{crc32.Checksum(p[:BlockSize], castagnoli), crc32.Checksum(p[BlockSize:], castagnoli)}
	wrong := []uint32{sums[0], sums[1] + 1}
	for key, s := range map[string][]uint32{"right": sums, "wrong": wrong, "none": nil, "few": sums[:1]} {
		var b Batch
		b.PutSummed([]byte(key), nil, s, p)
		if _, err := a.Apply(ctx, &b, Durable); err != nil {
			t.Fatal(err)
		}
		got, err := a.Get(ctx, []byte(key), nil)
		var corrupt *CorruptError
		if key == "wrong" {
			if !errors.As(err, &corrupt) || corrupt.Block != 1 {
				t.Fatalf("wrong sums: %v", err)
			}
		} else if err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%s: %v", key, err)
		}
	}
}
