// Package nstest is the contract of objstore.Namespace as tests, to be run against every implementation.
package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/objstore"
)

// Run checks that a Namespace does what objstore.Namespace says. open returns an empty one with room for at least 32 MiB.
func Run(t *testing.T, open func(testing.TB) objstore.Namespace) {
	for name, test := range map[string]func(*testing.T, objstore.Namespace){
		"PutAndRead": testPutAndRead, "Names": testNames, "Delete": testDelete, "List": testList, "Slices": testSlices,
		"SlicesFail": testSlicesFail, "SlicesBesideDeletes": testSlicesBesideDeletes,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Bytes returns n bytes that are the same for the same seed: half of them compress well.
func Bytes(seed, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8)}).Read(p)
	if seed%2 == 0 {
		copy(p, strings.Repeat(fmt.Sprint("stone upon stone ", seed, "\n"), n/17+1))
	}
	return p
}

func put(t testing.TB, ns objstore.Namespace, name string, p []byte) objstore.Info {
	t.Helper()
	info, err := ns.Put(context.Background(), name, p)
	if err != nil || info.Name != name || info.Size != int64(len(p)) {
		t.Fatalf("put %q: %+v, %v", name, info, err)
	}
	return info
}

func testPutAndRead(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	for i, n := range []int{0, 1, 4095, 65_536, 300_001, 2_000_000} {
		p := Bytes(i, n)
		put(t, ns, fmt.Sprint(i), p)
		from, err := ns.PutFrom(ctx, fmt.Sprint("from", i), io.MultiReader(bytes.NewReader(p)), int64(n))
		if err != nil || from.Size != int64(n) {
			t.Fatal(from, err)
		}
		for _, name := range []string{fmt.Sprint(i), fmt.Sprint("from", i)} {
			for range 10 {
				off := rand.IntN(n + 1)
				got := make([]byte, rand.IntN(n-off+1))
				if err := ns.ReadAt(ctx, name, int64(off), got); err != nil || !bytes.Equal(got, p[off:off+len(got)]) {
					t.Fatalf("%d bytes at %d of %q: %v", len(got), off, name, err)
				}
			}
			if err := ns.ReadAt(ctx, name, int64(n), make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("past the end: %v", err)
			}
		}
	}
	if _, err := ns.PutFrom(ctx, "short", bytes.NewReader(make([]byte, 10)), 11); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("a source that is too short: %v", err)
	}
	if _, err := ns.Stat(ctx, "short"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}

func testNames(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	first := put(t, ns, "a", Bytes(1, 10))
	if _, err := ns.Put(ctx, "a", Bytes(2, 10)); !errors.Is(err, objstore.ErrExists) {
		t.Fatal(err)
	}
	if i, err := ns.Stat(ctx, "a"); err != nil || i.ID != first.ID || i.Size != 10 {
		t.Fatal(i, err)
	}
	for _, bad := range []string{"", strings.Repeat("x", objstore.MaxName+1)} {
		if _, err := ns.Put(ctx, bad, nil); err == nil {
			t.Fatalf("a name of %d bytes", len(bad))
		}
	}
	if _, err := ns.Stat(ctx, "b"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	if err := ns.ReadAt(ctx, "b", 0, make([]byte, 1)); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
}

func testDelete(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	one := put(t, ns, "a", Bytes(1, 100_000))
	put(t, ns, "b", Bytes(2, 10))
	if err := ns.Delete(ctx, "a", "absent"); err != nil {
		t.Fatal(err)
	}
	if err := ns.ReadAt(ctx, "a", 0, make([]byte, 1)); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	p := Bytes(3, 100_000) // the same name, another object
	if two := put(t, ns, "a", p); two.ID == one.ID {
		t.Fatal("an id is used again")
	}
	got := make([]byte, len(p))
	if err := ns.ReadAt(ctx, "a", 0, got); err != nil || !bytes.Equal(got, p) {
		t.Fatal(err)
	}
}

func testList(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("n%02d", i))
		put(t, ns, names[i], Bytes(i, i))
	}
	for _, b := range [][2]string{{"", ""}, {"n05", ""}, {"", "n05"}, {"n03", "n17"}, {"n03x", "n04x"}, {"x", ""}, {"n05", "n05"}} {
		var want, got []string
		for _, n := range names {
			if n >= b[0] && (b[1] == "" || n < b[1]) {
				want = append(want, n)
			}
		}
		if err := ns.List(ctx, b[0], b[1], func(i objstore.Info) bool { got = append(got, i.Name); return true }); err != nil || !slices.Equal(got, want) {
			t.Fatalf("%q: %v, %v", b, got, err)
		}
	}
	n := 0
	if err := ns.List(ctx, "", "", func(objstore.Info) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Fatal(n, err)
	}
}

// testSlices reads many ranges of many objects, some of them twice, some next to each other, some empty.
func testSlices(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	all := make(map[string][]byte)
	for i := range 12 {
		name := fmt.Sprint("o", i)
		all[name] = Bytes(i, 1+i*i*5000)
		put(t, ns, name, all[name])
	}
	if err := ns.ReadSlices(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for round, most := range []int{1, 100, 5000, 200_000, 605_000} {
		var list []objstore.Slice
		for range 150 {
			name := fmt.Sprint("o", rand.IntN(12))
			n := len(all[name])
			off := rand.IntN(n + 1)
			list = append(list, objstore.Slice{Name: name, Off: int64(off), P: make([]byte, rand.IntN(min(most, n-off)+1))})
			if last := list[len(list)-1]; rand.IntN(3) == 0 { // and what is behind it
				end := off + len(last.P)
				list = append(list, objstore.Slice{Name: name, Off: int64(end), P: make([]byte, min(most, n-end))})
			}
		}
		if most > 5000 {
			list = list[:20]
		}
		if err := ns.ReadSlices(ctx, list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if !bytes.Equal(s.P, all[s.Name][s.Off:][:len(s.P)]) {
				t.Fatalf("round %d: %d bytes at %d of %s are wrong", round, len(s.P), s.Off, s.Name)
			}
		}
	}
}

func testSlicesFail(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	put(t, ns, "a", Bytes(1, 10_000))
	put(t, ns, "b", Bytes(2, 10_000))
	good := func() []objstore.Slice {
		return []objstore.Slice{{Name: "a", P: make([]byte, 10)}, {Name: "b", Off: 9_990, P: make([]byte, 10)}}
	}
	for _, c := range []struct {
		s    objstore.Slice
		want error
	}{
		{objstore.Slice{Name: "c", P: make([]byte, 1)}, objstore.ErrNotFound},
		{objstore.Slice{Name: "a", Off: 9_999, P: make([]byte, 2)}, io.ErrUnexpectedEOF},
	} {
		if err := ns.ReadSlices(ctx, append(good(), c.s)); !errors.Is(err, c.want) {
			t.Fatalf("%+v: %v", c.s, err)
		}
	}
	if err := ns.ReadSlices(ctx, append(good(), objstore.Slice{Name: "a", Off: -1, P: make([]byte, 1)})); err == nil {
		t.Fatal("a negative offset")
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := ns.ReadSlices(over, good()); err == nil {
		// It may be that nothing had to be waited for: then it must be right.
		t.Log("it was read although the context is over")
	}
	if err := ns.ReadSlices(ctx, good()); err != nil {
		t.Fatal(err)
	}
}

// testSlicesBesideDeletes: what is read of objects that come and go is right, or they are not found.
func testSlicesBesideDeletes(t *testing.T, ns objstore.Namespace) {
	ctx := context.Background()
	contents := [][]byte{Bytes(1, 50_000), Bytes(2, 50_000)}
	put(t, ns, "stays", contents[0])
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := ns.Put(ctx, "goes", contents[i%2])
			if err == nil {
				err = ns.Delete(ctx, "goes")
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 100 {
		list := []objstore.Slice{{Name: "stays", Off: 7, P: make([]byte, 100)}, {Name: "goes", Off: 40_000, P: make([]byte, 5000)},
			{Name: "goes", Off: 40_100, P: make([]byte, 5000)}}
		switch err := ns.ReadSlices(ctx, list); {
		case errors.Is(err, objstore.ErrNotFound):
			continue
		case err != nil:
			t.Error(err)
		case !bytes.Equal(list[0].P, contents[0][7:107]):
			t.Error("wrong content")
		}
		for _, s := range list[1:] {
			if !bytes.Equal(s.P, contents[0][s.Off:][:5000]) && !bytes.Equal(s.P, contents[1][s.Off:][:5000]) {
				t.Error("a mixture")
			}
		}
	}
	close(stop)
	wg.Wait()
}
