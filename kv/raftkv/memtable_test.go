package raftkv

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestMemtableVersions: whatever is inserted, dropped early, or rolled back, every view that is open,
// the committed state and the latest state read what they did when they were new.
func TestMemtableVersions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type picture map[string]string // a deleted key is absent: nothing below this table
		m := newMemtable()
		var (
			seq, committed, batch uint64 = 0, 0, 1
			now                          = picture{}
			durable                      = picture{}
			views                        = map[uint64]picture{}
		)
		keys := []string{"a", "ab", "abcdefgh", "abcdefghi", "b", "c"}
		check := func(t *rapid.T, at uint64, want picture) {
			for _, k := range keys {
				v := m.get("ks", []byte(k), at)
				got, ok := "", v != nil && v.sealed != nil
				if ok {
					got = string(v.sealed)
				}
				if w, there := want[k]; there != ok || w != got {
					t.Fatalf("%q at %d is %q (%v), want %q (%v)", k, at, got, ok, w, there)
				}
			}
			for _, reverse := range []bool{false, true} {
				var got, all []string
				var bound []byte
				for done, first := false, true; !done; first = false {
					var r run
					r, done = m.scan(nil, "ks", at, bound, !first, true, reverse, 2)
					for _, e := range r {
						if bound = []byte(e.key); e.sealed != nil {
							got = append(got, e.key+"="+string(e.sealed))
						}
					}
				}
				for _, k := range slices.Sorted(maps.Keys(want)) {
					all = append(all, k+"="+want[k])
				}
				if reverse {
					slices.Reverse(all)
				}
				if !slices.Equal(got, all) {
					t.Fatalf("scan at %d (reverse %v): %v, want %v", at, reverse, got, all)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				check(t, seq, now)
				check(t, committed, durable)
				for at, p := range views {
					check(t, at, p)
				}
			},
			"write": func(t *rapid.T) {
				h := horizon{batch: batch, oldest: committed}
				for at := range views {
					h.anyReader = true
					h.newest, h.oldest = max(h.newest, at), min(h.oldest, at)
				}
				seq++
				now = maps.Clone(now)
				for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 3, rapid.ID).Draw(t, "keys") {
					v := &version{seq: seq}
					delete(now, k)
					if rapid.IntRange(0, 2).Draw(t, "put") > 0 {
						now[k] = rapid.StringMatching(`[x-z]{1,3}`).Draw(t, "value")
						v.sealed = []byte(now[k])
					}
					m.mu.Lock()
					m.insert("ks", []byte(k), v, h)
					m.mu.Unlock()
				}
			},
			"commit": func(*rapid.T) { committed, durable, batch = seq, now, seq+1 },
			"open":   func(*rapid.T) { views[seq] = now },
			"openCommitted": func(*rapid.T) {
				views[committed] = durable
			},
			"close": func(t *rapid.T) {
				if len(views) > 0 {
					delete(views, rapid.SampledFrom(slices.Sorted(maps.Keys(views))).Draw(t, "view"))
				}
			},
			"rollback": func(*rapid.T) {
				m.rollback(committed)
				// Views of what is gone are told by their epoch.
				maps.DeleteFunc(views, func(at uint64, _ picture) bool { return at > committed })
				now, batch = durable, seq+1
				committed = seq
			},
		})
	})
}
