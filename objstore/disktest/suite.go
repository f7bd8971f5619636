package disktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/internal/bufpool"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Run checks that a Disk does what objstore.Disk says. open returns an empty disk with room for at least 64 MiB,
// which Run does not close unless the test is about that.
func Run(t *testing.T, open func(testing.TB) objstore.Disk) {
	for name, test := range map[string]func(*testing.T, objstore.Disk){
		"PutAndRead": testPutAndRead, "Sizes": testSizes, "Replace": testReplace, "Missing": testMissing,
		"PastTheEnd": testPastTheEnd, "Recovery": testRecovery, "Has": testHas, "Delete": testDelete,
		"Range": testRange, "Stat": testStat, "Canceled": testCanceled, "Many": testMany, "Concurrent": testConcurrent, "Closed": testClosed,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func suiteKey(n int) objstore.FragmentKey {
	return objstore.FragmentKey{Namespace: 1 + uint32(n%3), Object: uint64(n), Chunk: uint32(n % 5), Fragment: uint8(n), Version: uint32(n % 2)}
}

// Bytes returns n bytes that are the same for the same seed, aligned as a put wants them.
func Bytes(seed, n int) []byte {
	p := bufpool.Alloc((n + bufpool.Align) &^ (bufpool.Align - 1))[:n]
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(p)
	return p
}

func put(t testing.TB, d objstore.Disk, k objstore.FragmentKey, recovery, p []byte) {
	t.Helper()
	if err := d.PutFragment(context.Background(), k, recovery, p, crc.Blocks(nil, p)); err != nil {
		t.Fatalf("put %v of %d bytes: %v", k, len(p), err)
	}
}

func read(t testing.TB, d objstore.Disk, k objstore.FragmentKey, off int, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := d.ReadFragment(context.Background(), k, int64(off), got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes at %d of %v: %v, equal %v", len(want), off, k, err, bytes.Equal(got, want))
	}
}

func testPutAndRead(t *testing.T, d objstore.Disk) {
	p := Bytes(1, 300_000)
	put(t, d, suiteKey(1), []byte("info"), p)
	for _, at := range [][2]int{{0, 300_000}, {0, 1}, {299_999, 1}, {65_535, 2}, {65_536, 65_536}, {1, 299_998}, {123_456, 100_000}, {300_000, 0}} {
		read(t, d, suiteKey(1), at[0], p[at[0]:at[0]+at[1]])
	}
}

func testSizes(t *testing.T, d objstore.Disk) {
	for i, n := range []int{1, 4095, 4096, 4097, 12 << 10, 12<<10 + 1, 65_535, 65_536, 65_537, 1 << 20, 4 << 20, 4<<20 + 7} {
		p := Bytes(i, n)
		put(t, d, suiteKey(i), nil, p)
		read(t, d, suiteKey(i), 0, p)
	}
}

func testReplace(t *testing.T, d objstore.Disk) {
	k := suiteKey(1)
	for i, n := range []int{100_000, 10, 200_000} {
		p := Bytes(i, n)
		put(t, d, k, []byte{byte(i)}, p)
		read(t, d, k, 0, p)
		if r, err := d.ReadRecovery(context.Background(), k); err != nil || !bytes.Equal(r, []byte{byte(i)}) {
			t.Fatal(r, err)
		}
	}
}

// testMany is for disks that answer many reads at once.
func testMany(t *testing.T, d objstore.Disk) {
	multi, ok := d.(objstore.MultiDisk)
	if !ok {
		t.Skip("it reads one after the other")
	}
	ctx := context.Background()
	const fragments, size = 20, 300_000
	var all [fragments][]byte
	for i := range all {
		all[i] = Bytes(i, size)
		put(t, d, suiteKey(i), nil, all[i])
	}
	if err := multi.ReadFragments(ctx, nil); err != nil {
		t.Fatal(err)
	}
	var reads []objstore.FragmentRead
	for i := range 2500 { // more than one message carries
		reads = append(reads, objstore.FragmentRead{Key: suiteKey(i % (fragments + 1)), Off: int64(i * 100), P: make([]byte, 1+i%5000)})
	}
	if err := multi.ReadFragments(ctx, reads); err != nil {
		t.Fatal(err)
	}
	for i, r := range reads {
		n := i % (fragments + 1)
		switch {
		case n == fragments:
			if !errors.Is(r.Err, objstore.ErrNoFragment) {
				t.Fatalf("read %d of a fragment that is not there: %v", i, r.Err)
			}
		case r.Off+int64(len(r.P)) > size:
			t.Fatal("the test reads past the end")
		case r.Err != nil || !bytes.Equal(r.P, all[n][r.Off:][:len(r.P)]):
			t.Fatalf("read %d: %v", i, r.Err)
		}
	}
	past := []objstore.FragmentRead{{Key: suiteKey(1), Off: size - 5, P: make([]byte, 10)}, {Key: suiteKey(1), P: make([]byte, 10)}}
	var corrupt *objstore.CorruptError
	if err := multi.ReadFragments(ctx, past); err != nil || !errors.As(past[0].Err, &corrupt) || past[1].Err != nil {
		t.Fatal(err, past)
	}
	big := []objstore.FragmentRead{{Key: suiteKey(1), P: make([]byte, size)}, {Key: suiteKey(2), P: make([]byte, size)}}
	if err := multi.ReadFragments(ctx, big); err != nil || big[1].Err != nil || !bytes.Equal(big[1].P, Bytes(2, size)) {
		t.Fatal(err, big[1].Err)
	}
}

func testMissing(t *testing.T, d objstore.Disk) {
	ctx := context.Background()
	put(t, d, suiteKey(1), nil, Bytes(1, 100))
	for _, n := range []int{1, 10_000} {
		if err := d.ReadFragment(ctx, suiteKey(2), 0, make([]byte, n)); !errors.Is(err, objstore.ErrNoFragment) {
			t.Fatal(err)
		}
	}
	if _, err := d.ReadRecovery(ctx, suiteKey(2)); !errors.Is(err, objstore.ErrNoFragment) {
		t.Fatal(err)
	}
	read(t, d, suiteKey(1), 0, Bytes(1, 100)) // and the disk goes on
}

func testPastTheEnd(t *testing.T, d objstore.Disk) {
	put(t, d, suiteKey(1), nil, Bytes(1, 1000))
	for _, at := range [][2]int{{0, 1001}, {1000, 1}, {5000, 1}, {999, 100_000}} {
		err := d.ReadFragment(context.Background(), suiteKey(1), int64(at[0]), make([]byte, at[1]))
		var corrupt *objstore.CorruptError
		if !errors.As(err, &corrupt) {
			t.Fatalf("%d bytes at %d: %v", at[1], at[0], err)
		}
	}
	read(t, d, suiteKey(1), 0, Bytes(1, 1000))
}

func testRecovery(t *testing.T, d objstore.Disk) {
	for i, n := range []int{0, 1, 700, 60_000} {
		info := Bytes(i, n)
		put(t, d, suiteKey(i), info, Bytes(i, 5000))
		if got, err := d.ReadRecovery(context.Background(), suiteKey(i)); err != nil || !bytes.Equal(got, info) {
			t.Fatalf("%d bytes: %v, %d came back", n, err, len(got))
		}
	}
}

func testHas(t *testing.T, d objstore.Disk) {
	ctx := context.Background()
	if has, err := d.HasFragments(ctx, nil); err != nil || len(has) != 0 {
		t.Fatal(has, err)
	}
	var keys []objstore.FragmentKey
	for i := range 5000 { // more than one message carries
		keys = append(keys, suiteKey(i))
	}
	for i := range 20 {
		put(t, d, suiteKey(i*250), nil, Bytes(i, 10))
	}
	has, err := d.HasFragments(ctx, keys)
	if err != nil || len(has) != len(keys) {
		t.Fatal(len(has), err)
	}
	for i, h := range has {
		if h != (i%250 == 0) {
			t.Fatalf("key %d: %v", i, h)
		}
	}
}

func testDelete(t *testing.T, d objstore.Disk) {
	ctx := context.Background()
	var keys []objstore.FragmentKey
	for i := range 5000 {
		keys = append(keys, suiteKey(i))
	}
	for i := range 20 {
		put(t, d, suiteKey(i), nil, Bytes(i, 10))
	}
	put(t, d, suiteKey(6000), nil, Bytes(3, 10))
	for range 2 { // those that are not there are skipped
		if err := d.DeleteFragments(ctx, keys); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.ReadFragment(ctx, suiteKey(0), 0, make([]byte, 10)); !errors.Is(err, objstore.ErrNoFragment) {
		t.Fatal(err)
	}
	read(t, d, suiteKey(6000), 0, Bytes(3, 10))
	put(t, d, suiteKey(0), nil, Bytes(9, 100)) // again
	read(t, d, suiteKey(0), 0, Bytes(9, 100))
}

func testRange(t *testing.T, d objstore.Disk) {
	ctx := context.Background()
	const n = 1500 // more than one message carries
	var want []objstore.FragmentInfo
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				p := Bytes(i, 1+i%50)
				if err := d.PutFragment(ctx, suiteKey(i), nil, p, crc.Blocks(nil, p)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range n {
		want = append(want, objstore.FragmentInfo{Key: suiteKey(i), Size: int64(1 + i%50)})
	}
	slices.SortFunc(want, func(a, b objstore.FragmentInfo) int { return a.Key.Compare(b.Key) })
	for _, b := range [][2]int{{0, n}, {0, 0}, {0, 1}, {17, 1400}, {n - 1, n}} {
		from, to := objstore.FragmentKey{}, objstore.FragmentKey{Namespace: 9}
		if b[0] > 0 {
			from = want[b[0]].Key
		}
		if b[1] < n {
			to = want[b[1]].Key
		}
		var got []objstore.FragmentInfo
		err := d.Range(ctx, from, to, func(f objstore.FragmentInfo) bool { got = append(got, f); return true })
		if err != nil || !slices.Equal(got, want[b[0]:b[1]]) {
			t.Fatalf("%v: %v, %d fragments, want %d", b, err, len(got), b[1]-b[0])
		}
	}
	seen := 0
	err := d.Range(ctx, objstore.FragmentKey{}, objstore.FragmentKey{Namespace: 9}, func(objstore.FragmentInfo) bool { seen++; return seen < 1200 })
	if err != nil || seen != 1200 {
		t.Fatal(seen, err)
	}
}

func testStat(t *testing.T, d objstore.Disk) {
	ctx := context.Background()
	before, err := d.Stat(ctx)
	if err != nil || before.Total <= 0 || before.Free <= 0 || before.Full {
		t.Fatalf("%+v, %v", before, err)
	}
	put(t, d, suiteKey(1), nil, Bytes(1, 1<<20))
	after, err := d.Stat(ctx)
	if err != nil || after.Fragments != before.Fragments+1 || after.Used < before.Used+1<<20 {
		t.Fatalf("%+v, %v; before %+v", after, err, before)
	}
	if err := d.Probe(ctx); err != nil {
		t.Fatal(err)
	}
}

func testCanceled(t *testing.T, d objstore.Disk) {
	ctx, cancel := context.WithCancel(context.Background())
	put(t, d, suiteKey(1), nil, Bytes(1, 100))
	cancel()
	if err := d.ReadFragment(ctx, suiteKey(1), 0, make([]byte, 100)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	read(t, d, suiteKey(1), 0, Bytes(1, 100))
}

// testConcurrent puts, reads and deletes from many goroutines, each on its own keys.
func testConcurrent(t *testing.T, d objstore.Disk) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			if err := worker(d, w); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func worker(d objstore.Disk, w int) error {
	ctx := context.Background()
	for i := range 12 {
		k := objstore.FragmentKey{Namespace: 1, Object: uint64(w), Chunk: uint32(i)}
		p := Bytes(w*100+i, 1+(w*37+i*9173)%200_000)
		if err := d.PutFragment(ctx, k, []byte{byte(w), byte(i)}, p, crc.Blocks(nil, p)); err != nil {
			return err
		}
		got := make([]byte, len(p)/2)
		if err := d.ReadFragment(ctx, k, int64(len(p)-len(got)), got); err != nil || !bytes.Equal(got, p[len(p)-len(got):]) {
			return fmt.Errorf("%v: %w, or not what was put", k, err)
		}
		if i%3 == 0 {
			if err := d.DeleteFragments(ctx, []objstore.FragmentKey{k}); err != nil {
				return err
			}
		}
		has, err := d.HasFragments(ctx, []objstore.FragmentKey{k})
		if err != nil || has[0] != (i%3 != 0) {
			return fmt.Errorf("%v: %w, or there: %v", k, err, has)
		}
	}
	return nil
}

func testClosed(t *testing.T, d objstore.Disk) {
	put(t, d, suiteKey(1), nil, Bytes(1, 100))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	p := Bytes(1, 100)
	for what, err := range map[string]error{
		"put":  d.PutFragment(ctx, suiteKey(2), nil, p, crc.Blocks(nil, p)),
		"read": d.ReadFragment(ctx, suiteKey(1), 0, p),
	} {
		if !errors.Is(err, objstore.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}
