package erasure

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

func random(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// TestChunksFormula holds the count to the published formula, and its published example.
func TestChunksFormula(t *testing.T) {
	if n, length := Chunks(64<<20, 8, 4<<20, 128<<10); n != 2 || length != 32<<20 {
		t.Fatalf("64 MiB at k=8 with fragments of 4 MiB: %d chunks of %d bytes, want 2 of 32 MiB", n, length)
	}
	r := rand.New(rand.NewPCG(3, 3))
	for range 10000 {
		size := 1 + r.Int64N(1<<r.IntN(34))
		k, frag := 1+r.IntN(16), 4096*(1+r.IntN(1024))
		n, length := Chunks(size, k, frag, 128<<10)
		unit := min(int64(k*frag), size)
		if want := (size + unit - 1) / unit; n != want {
			t.Fatalf("size %d k %d fragment %d: %d chunks, want %d", size, k, frag, n, want)
		}
		if length > int64(k*frag) || length*n < size || length*(n-1) >= size {
			t.Fatalf("size %d k %d fragment %d: %d chunks of %d", size, k, frag, n, length)
		}
	}
	if n, _ := Chunks(0, 4, 1<<20, 1); n != 0 {
		t.Fatalf("an empty object has %d chunks", n)
	}
}

func TestFragmentLen(t *testing.T) {
	for _, c := range []struct{ stored, k, want int }{
		{1, 4, 64}, {256, 4, 64}, {257, 4, 128}, {4 << 20, 4, 1 << 20}, {4<<20 + 1, 4, 1<<20 + 4096}, {9000, 4, 4096}, {8000, 4, 2048},
	} {
		if got := FragmentLen(c.stored, c.k); got != c.want {
			t.Errorf("FragmentLen(%d, %d) = %d, want %d", c.stored, c.k, got, c.want)
		}
	}
}

// TestEveryLoss rebuilds every fragment after every loss of up to m fragments.
func TestEveryLoss(t *testing.T) {
	var cache Cache
	for _, km := range [][2]int{{1, 0}, {1, 1}, {1, 2}, {2, 0}, {2, 1}, {4, 2}, {8, 3}} {
		t.Run(fmt.Sprint(km), func(t *testing.T) {
			code, err := cache.Get(km[0], km[1])
			if err != nil {
				t.Fatal(err)
			}
			n := code.K + code.M
			for _, size := range []int{1, 63, 1000, 5000, 40000} {
				chunk := random(size, uint64(size))
				buf := random(code.BufferLen(size), 9) // dirty, as a pooled buffer is
				copy(buf, chunk)
				whole := code.Split(buf, size)
				if err := code.Encode(whole); err != nil {
					t.Fatal(err)
				}
				for lost := range 1 << n {
					if bits.OnesCount(uint(lost)) <= code.M {
						checkLoss(t, code, whole, lost)
					}
				}
				if code.M < n && code.K > code.M {
					if err := loseAndRebuild(code, whole, 1<<(code.M+1)-1, make([][]byte, n)); err == nil {
						t.Fatalf("rebuilt from %d of %d fragments", code.K-1, n)
					}
				}
			}
		})
	}
}

func checkLoss(t *testing.T, code *Code, whole [][]byte, lost int) {
	t.Helper()
	got := make([][]byte, len(whole))
	if err := loseAndRebuild(code, whole, lost, got); err != nil {
		t.Fatalf("lost %b: %v", lost, err)
	}
	for i := range got {
		if !bytes.Equal(got[i], whole[i]) {
			t.Fatalf("lost %b: fragment %d differs", lost, i)
		}
	}
}

func loseAndRebuild(code *Code, whole [][]byte, lost int, got [][]byte) error {
	wanted := make([]bool, len(whole))
	for i, s := range whole {
		if lost>>i&1 == 1 {
			got[i], wanted[i] = make([]byte, 0, len(s)), true
		} else {
			got[i] = s
		}
	}
	return code.Reconstruct(got, wanted)
}

func TestSplitDoesNotCopy(t *testing.T) {
	code, _ := New(4, 2)
	buf := make([]byte, code.BufferLen(4<<20))
	shards := code.Split(buf, 4<<20)
	for i, s := range shards {
		if &s[0] != &buf[i<<20] || len(s) != 1<<20 || cap(s) != 1<<20 {
			t.Fatalf("fragment %d is not a part of the buffer", i)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, km := range [][2]int{{2, 1}, {4, 2}, {8, 2}, {8, 3}} {
		b.Run(fmt.Sprintf("%d+%d", km[0], km[1]), func(b *testing.B) {
			code, _ := New(km[0], km[1])
			size := km[0] << 20
			shards := code.Split(make([]byte, code.BufferLen(size)), size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if err := code.Encode(shards); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReconstruct(b *testing.B) {
	code, _ := New(4, 2)
	shards := code.Split(make([]byte, code.BufferLen(4<<20)), 4<<20)
	wanted := []bool{true, true, false, false, false, false}
	b.SetBytes(4 << 20)
	for b.Loop() {
		shards[0], shards[1] = shards[0][:0], shards[1][:0]
		if err := code.Reconstruct(shards, wanted); err != nil {
			b.Fatal(err)
		}
	}
}
