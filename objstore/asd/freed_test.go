package asd

import (
	"os"
	"testing"
)

// TestFreedBeforeACrash empties the newest segment, has it freed and cuts the power, before or after its file
// was given back, without another write. The index may still name the segment; nothing of it is missing.
func TestFreedBeforeACrash(t *testing.T) {
	for _, trim := range []bool{false, true} {
		dir := newDir(t)
		opts := Options{SegmentSize: 1 << 20, Compaction: Compaction{Mode: CompactManual, Rate: -1}}
		a := mustOpen(t, dir, opts)
		put(t, a, "k", payload(200_000, 1))
		del(t, a, "k")
		if err := a.submit(&request{seal: true}); err != nil {
			t.Fatal(err)
		}
		if err := a.compactWhile(t.Context(), choice{fraction: 0.01}, -1, func() bool { return true }); err != nil {
			t.Fatal(err)
		}
		if n := a.counters.freedSegment.Load(); n != 1 {
			t.Fatalf("%d segments were freed", n)
		}
		if trim {
			a.table.Lock()
			for _, pf := range a.table.pool { // as trimPool does, which leaves one
				if err := os.Remove(segmentPath(dir, pf.slot)); err != nil {
					t.Fatal(err)
				}
			}
			a.table.Unlock()
		}
		a.crash(t, 0)
		a = mustOpen(t, dir, opts)
		for id, s := range a.table.segments {
			t.Errorf("trimmed %v: segment %d is there, missing %v", trim, id, s.missing)
		}
		put(t, a, "k", payload(1000, 2))
		a.Close()
	}
}
