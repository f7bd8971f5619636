package asd

import (
	"context"
	"fmt"
	"testing"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			a := mustOpen(b, newDir(b), Options{})
			p := NewBuffer(size)
			copy(p, payload(size, 1))
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				var batch Batch
				batch.Put(fmt.Appendf(nil, "%d", i), nil, p)
				if _, err := a.Apply(context.Background(), &batch, Durable); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGetWarm(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			a := mustOpen(b, newDir(b), Options{})
			for i := range 100 {
				put(b, a, fmt.Sprint(i), payload(size, uint64(i)))
			}
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := a.Get(context.Background(), fmt.Appendf(nil, "%d", i%100), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
