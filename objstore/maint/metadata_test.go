package maint

import (
	"testing"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/objbench"
)

// TestMetadata puts 64 MiB at (8,2) in two chunks through the client and counts every key and value of every
// keyspace.
func TestMetadata(t *testing.T) {
	p := objstore.Policy{K: 8, M: 2, C: 9, X: 10}
	r := &rig{t: t, policies: []objstore.Policy{p}, grace: time.Minute, fragment: 4 << 20}
	r.begin(10)
	defer func() { r.close() }()
	rows, err := objbench.Metadata(ctx0, r.ns, 64<<20, []string{"random", "text", "mixed"}, r.store)
	r.fatal(err)
	for _, m := range r.manifests() {
		if len(m.Chunks) != 2 {
			t.Fatalf("%d chunks", len(m.Chunks))
		}
	}
	usage, _, err := objbench.MetadataUsage(ctx0, r.store)
	r.fatal(err)
	for _, u := range usage {
		t.Logf("%-14s %2d rows, keys %5d B, values %5d B", u.Keyspace, u.Rows, u.Keys, u.Values)
	}
	for _, row := range rows {
		t.Logf("%-26s %6.0f %s", row.Name, row.Value, row.Unit)
		const most = 2500.0
		if row.Value < 100 || row.Value > most {
			t.Errorf("%s: %.0f %s, at most %.0f are allowed", row.Name, row.Value, row.Unit, most)
		}
	}
}
