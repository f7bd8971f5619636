package objstore

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

func TestFragmentKeys(t *testing.T) {
	const most = math.MaxUint32
	keys := []FragmentKey{
		{}, {Version: 1}, {Fragment: 1}, {Chunk: 1}, {Chunk: 1, Fragment: 255, Version: most}, {Chunk: 2}, {Object: 1, Chunk: 0},
		{Object: 1, Chunk: most, Fragment: 255, Version: most}, {Object: 2}, {Namespace: 1}, {Namespace: 1, Object: math.MaxUint64},
	}
	for i, k := range keys {
		b := k.Append(nil)
		got, err := ParseFragmentKey(b)
		if err != nil || got != k || len(b) != FragmentKeyLen {
			t.Fatalf("%v became %v, %v", k, got, err)
		}
		if n := k.Next(); n.Compare(k) != 1 || bytes.Compare(n.Append(nil), b) != 1 {
			t.Fatalf("%v after %v", n, k)
		}
		for j, o := range keys {
			if want := bytes.Compare(b, o.Append(nil)); k.Compare(o) != want {
				t.Fatalf("keys %d and %d: %d, their bytes %d", i, j, k.Compare(o), want)
			}
		}
		var corrupt *CorruptError
		if _, err := ParseFragmentKey(b[1:]); !errors.As(err, &corrupt) {
			t.Fatal(err)
		}
	}
	if n := (FragmentKey{Chunk: 1, Fragment: 255, Version: most}).Next(); n != (FragmentKey{Chunk: 2}) {
		t.Fatal(n)
	}
}

func TestParsePolicy(t *testing.T) {
	for in, want := range map[string]Policy{"4,2,5,6": {4, 2, 5, 6}, " (1, 0,1,1) ": {1, 0, 1, 1}} {
		if p, err := ParsePolicy(in); err != nil || p != want {
			t.Errorf("%q: %v, %v", in, p, err)
		}
	}
	for _, in := range []string{"", "4,2,5", "a,2,5,6", "0,2,1,1", "4,-1,4,4", "4,2,3,6", "4,2,7,6", "4,2,5,0", "4,2,5,7", "60,5,60,1", "4,2,5,6,7"} {
		if p, err := ParsePolicy(in); err == nil {
			t.Errorf("%q was taken for %v", in, p)
		}
	}
	for n := 1; n <= 64; n++ {
		l := DefaultPolicies(n)
		if len(l) == 0 || l[0].K+l[0].M > n {
			t.Fatalf("%d disks: %v", n, l)
		}
		for _, p := range l {
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p := DefaultPolicies(6)[0]; p != (Policy{4, 2, 5, 6}) {
		t.Fatal(p)
	}
}
