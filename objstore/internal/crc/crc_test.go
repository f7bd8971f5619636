package crc

import (
	"math/rand/v2"
	"testing"
)

func TestCombineIsTheSumOfTheWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, 300_000)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	for range 2000 {
		n := r.IntN(len(p))
		i := r.IntN(n + 1)
		if got, want := Combine(Sum(p[:i]), Sum(p[i:n]), int64(n-i)), Sum(p[:n]); got != want {
			t.Fatalf("combine at %d of %d: %08x, want %08x", i, n, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	p := make([]byte, 5*Block+17)
	for i := range p {
		p[i] = byte(i * 7)
	}
	for _, n := range []int{0, 1, Block - 1, Block, Block + 1, 2 * Block, len(p)} {
		if got, want := Join(Blocks(nil, p[:n]), n), Sum(p[:n]); got != want {
			t.Fatalf("%d bytes: %08x, want %08x", n, got, want)
		}
	}
}

func BenchmarkJoin1MiB(b *testing.B) {
	sums := Blocks(nil, make([]byte, 1<<20))
	for b.Loop() {
		Join(sums, 1<<20)
	}
}

func BenchmarkBlocks(b *testing.B) {
	p := make([]byte, 1<<20)
	sums := make([]uint32, 0, 16)
	b.SetBytes(1 << 20)
	for b.Loop() {
		sums = Blocks(sums[:0], p)
	}
}
