package main_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestBenchMetadata measures small objects and looks whether all figures are there.
func TestBenchMetadata(t *testing.T) {
	r := gabion(t, "bench", "metadata", "--dir", t.TempDir(), "--mib", "1", "--policy", "2,1,3,3", "--local", "1,0,1,1", "--json")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	got := make(map[string]float64)
	for line := range strings.Lines(r.out) {
		var f struct {
			Name  string
			Value float64
			Unit  string
		}
		if err := json.Unmarshal([]byte(line), &f); err != nil || f.Unit != "B/object" {
			t.Fatalf("%s: %v", line, err)
		}
		got[f.Name] = f.Value
	}
	for _, of := range []string{"single", "stacked", "stacked, tuned"} {
		for _, content := range []string{"random", "text", "words", "mixed"} {
			if v := got[of+" "+content]; v < 60 || v > 3000 {
				t.Errorf("%s %s: %.0f", of, content, v)
			}
		}
	}
	if len(got) != 12 {
		t.Errorf("%d figures", len(got))
	}
	if r := gabion(t, "bench", "metadata", "--local", "4,2"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}
