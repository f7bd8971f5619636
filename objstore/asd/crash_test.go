package asd

import (
	"math/rand/v2"
	"os"
	"testing"
)

// crash ends an ASD as a loss of power would: nothing is flushed, and of each page that was written
// but not synced either the new content, zeroes or garbage is left.
func (a *ASD) crash(t testing.TB, seed uint64) {
	t.Helper()
	if a.closed.Swap(true) {
		t.Fatal("crash of a closed ASD")
	}
	close(a.stop)
	a.done.Wait()
	a.compactMu.Lock()
	defer a.compactMu.Unlock()
	a.queue.close()
	act := a.table.active
	a.indexMu.Lock()
	defer a.indexMu.Unlock()
	a.abandon()
	if act == nil {
		return
	}
	r := rand.New(rand.NewPCG(seed, 1))
	f, err := os.OpenFile(act.seg.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	from := act.synced.Load()
	mode := r.IntN(4) // 0: everything survives, 1: nothing, else: page by page
	for off := from &^ (pageSize - 1); off < act.pos; off += pageSize {
		page := make([]byte, pageSize)
		switch k := r.IntN(3); {
		case mode == 0, mode > 1 && k == 0:
			continue
		case mode > 1 && k == 1:
			for i := range page {
				page[i] = byte(r.Uint32())
			}
		}
		if _, err := f.WriteAt(page, off); err != nil {
			t.Fatal(err)
		}
	}
}

// memoryDir returns a folder on a filesystem in memory where there is one: for tests that sync often and
// do not depend on a disk.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "asd-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
