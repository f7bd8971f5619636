package main

import (
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore/asd"
)

func TestCompactionFlags(t *testing.T) {
	none := func(string) bool { return false }
	for _, c := range []struct {
		flags compactionFlags
		want  asd.Compaction
		ok    bool
	}{
		{compactionFlags{mode: "auto", window: "00:00-04:00"}, asd.Compaction{}, true},
		{compactionFlags{mode: "manual"}, asd.Compaction{Mode: asd.CompactManual}, true},
		{compactionFlags{mode: "scheduled", window: "22:30-06:00", splay: time.Hour},
			asd.Compaction{Mode: asd.CompactScheduled, Window: asd.Window{From: 22*time.Hour + 30*time.Minute, Length: 7*time.Hour + 30*time.Minute, Splay: time.Hour}}, true},
		{compactionFlags{mode: "scheduled", window: "05:00-05:00"},
			asd.Compaction{Mode: asd.CompactScheduled, Window: asd.Window{From: 5 * time.Hour, Length: 24 * time.Hour}}, true},
		{compactionFlags{mode: "scheduled", window: "5-6"}, asd.Compaction{}, false},
		{compactionFlags{mode: "scheduled", window: "05:00"}, asd.Compaction{}, false},
		{compactionFlags{mode: "scheduled", window: "05:00-06:00", splay: time.Hour}, asd.Compaction{}, false},
		{compactionFlags{mode: "never"}, asd.Compaction{}, false},
	} {
		got, err := c.flags.options(none)
		if (err == nil) != c.ok || c.ok && (got.Mode != c.want.Mode || got.Window != c.want.Window) {
			t.Errorf("%+v: %+v, %v", c.flags, got, err)
		}
	}
	f := compactionFlags{mode: "auto", window: "05:00-06:00"}
	if _, err := f.options(func(s string) bool { return s == "compaction-window" }); err == nil {
		t.Error("a window is taken that is never used")
	}
}
