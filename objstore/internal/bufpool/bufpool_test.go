package bufpool

import (
	"testing"
	"unsafe"
)

func TestBuffersAreAlignedAndReused(t *testing.T) {
	p := New(1 << 20)
	for _, n := range []int{1, 4096, 5000, 70000, 300000} {
		b := p.Get(n)
		if len(b.B) != n || uintptr(unsafe.Pointer(&b.B[0]))%Align != 0 || cap(b.B)%Align != 0 {
			t.Fatalf("%d: len %d cap %d at %p", n, len(b.B), cap(b.B), &b.B[0])
		}
		at := &b.B[0]
		b.Hold()
		b.Release()
		if b.B == nil {
			t.Fatal("returned while held")
		}
		b.Release()
		if c := p.Get(n); &c.B[0] != at {
			t.Fatalf("%d: not reused", n)
		} else {
			c.Release()
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	p := New(1 << 20)
	var all []*Buf
	for range 10 {
		all = append(all, p.Get(300<<10))
	}
	for _, b := range all {
		b.Release()
	}
	if p.kept > 1<<20 {
		t.Fatalf("keeps %d bytes", p.kept)
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	b := New(0).Get(1)
	b.Release()
	b.Release()
}

func TestLargeBuffers(t *testing.T) {
	for _, n := range []int{minHuge, minHuge + 1, 3*hugePage + Align} {
		b := Alloc(n)
		if len(b) != n || cap(b) != n || uintptr(unsafe.Pointer(&b[0]))%hugePage != 0 {
			t.Fatalf("%d: len %d cap %d at %p", n, len(b), cap(b), &b[0])
		}
		for i := range b {
			if b[i] != 0 {
				t.Fatalf("%d: byte %d is not zero", n, i)
			}
			b[i] = byte(i)
		}
	}
}
