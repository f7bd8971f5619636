package stacked

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

func genKey(t *rapid.T, label string) objstore.FragmentKey {
	// Small ranges meet often, large ones have all lengths.
	n := func(most uint64) uint64 {
		if rapid.Bool().Draw(t, label) {
			return rapid.Uint64Range(0, min(most, 3)).Draw(t, label)
		}
		return rapid.Uint64Range(0, most).Draw(t, label)
	}
	return objstore.FragmentKey{Namespace: uint32(n(1<<32 - 1)), Object: n(1<<64 - 1), Chunk: uint32(n(1<<32 - 1)), Fragment: uint8(n(255)), Version: uint32(n(1<<32 - 1))}
}

// TestNames: names sort as keys do, and no name of one fragment begins with the prefix of another.
func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genKey(t, "a"), genKey(t, "b")
		tails := rapid.SliceOfN(rapid.IntRange(footerLen, maxTail), 2, 2).Draw(t, "tails")
		na, nb := nameOf(a, tails[0]), nameOf(b, tails[1])
		for k, n := range map[objstore.FragmentKey]string{a: na} {
			if got, tail, err := parseName(n); err != nil || got != k || tail != tails[0] {
				t.Fatal(got, tail, err)
			}
		}
		if a == b {
			return
		}
		if strings.Compare(na, nb) != a.Compare(b) {
			t.Fatalf("%v %x and %v %x", a, na, b, nb)
		}
		if strings.HasPrefix(na, string(appendKey(nil, b))) || na >= claimLock {
			t.Fatalf("%x has the prefix of %v", na, b)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(nameOf(objstore.FragmentKey{Namespace: 1, Object: 1 << 33, Fragment: 3, Version: 500}, 700))
	f.Add("\x01\xf8\x01\x02")
	f.Fuzz(func(t *testing.T, name string) {
		if k, tail, err := parseName(name); err == nil && nameOf(k, tail) != name {
			t.Fatalf("%x is %x again", name, nameOf(k, tail))
		}
	})
}

func FuzzDecodeTail(f *testing.F) {
	k := objstore.FragmentKey{Namespace: 1, Object: 2, Chunk: 3, Fragment: 4, Version: 5}
	for _, least := range []int{0, 100} {
		b := encodeTail(k, []byte("info"), []uint32{1, 2}, least)
		f.Add(b[:len(b)-4], int64(70_000))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < 0 || size > 1<<40 {
			return
		}
		var sum [4]byte // the right one, to get past it
		b = append(bytes.Clone(b), sum[:]...)
		s := crc.Sum(b[:len(b)-4])
		copy(b[len(b)-4:], []byte{byte(s), byte(s >> 8), byte(s >> 16), byte(s >> 24)})
		recovery, sums, err := decodeTail(b, k, size)
		if err != nil {
			return
		}
		again, sums2, err := decodeTail(encodeTail(k, recovery, sums, len(b)), k, size)
		if err != nil || !bytes.Equal(again, recovery) || !slices.Equal(sums2, sums) {
			t.Fatal(err)
		}
	})
}

// TestGolden holds names and tails to what was written once.
func TestGolden(t *testing.T) {
	k := objstore.FragmentKey{Namespace: 1, Object: 1 << 33, Chunk: 2, Fragment: 4, Version: 500}
	const name, tail = "01f50200000000" + "02" + "04" + "f201f4" + "3d", "696e666f" + "0100000002000000" + "00000000" + "000000000000000000000000" +
		"4753" + "01" + "04000000" + "4600000001000000020000000000000002" + "04" + "000001f4"
	b := encodeTail(k, []byte("info"), []uint32{1, 2}, 61)
	if got := hex.EncodeToString([]byte(nameOf(k, len(b)))); got != name {
		t.Fatal(got)
	}
	if got := hex.EncodeToString(b[:len(b)-4]); got != tail {
		t.Fatal(got)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, err := decodeTail(bad, k, 70_000); err == nil {
			t.Fatalf("byte %d flipped, and nobody saw it", i)
		}
	}
	other := k
	other.Version++
	if _, _, err := decodeTail(b, other, 70_000); err == nil {
		t.Fatal("the tail of another fragment")
	}
}

// TestMemoryIsBounded: what is remembered has a limit, and is dropped when it may be wrong.
func TestMemoryIsBounded(t *testing.T) {
	var c tails
	for i := range 3 * maxEntries {
		k := objstore.FragmentKey{Object: uint64(i)}
		_, _, stamp := c.get(k)
		c.put(entry{object{key: k}, make([]uint32, i%300)}, stamp)
		c.put(entry{object{key: k}, make([]uint32, i%300)}, stamp) // again
	}
	if len(c.entries) > maxEntries || c.sums > maxSums || c.order.Len() != len(c.entries) {
		t.Fatal(len(c.entries), c.sums, c.order.Len())
	}
	for el := c.order.Front(); el != nil; el = c.order.Front() {
		c.drop(el.Value.(entry).key)
	}
	if c.sums != 0 || len(c.entries) != 0 {
		t.Fatal(c.sums, len(c.entries))
	}
	k := objstore.FragmentKey{Object: 1}
	_, _, stamp := c.get(k)
	c.drop(k)
	if c.put(entry{object{key: k}, nil}, stamp); len(c.entries) != 0 {
		t.Fatal("what was read before a change is remembered after it")
	}
}
