package asdbench

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	rows, err := Run(t.Context(), dir, Config{ASDs: 2, Bytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range rows {
		if r.Value <= 0 && r.Unit != "CPU s/GB" {
			t.Errorf("%s: %g %s", r.Name, r.Value, r.Unit)
		}
		seen[strings.Fields(r.Name)[0]] = true
	}
	if !seen["raw"] || !seen["append"] || !seen["get"] {
		t.Errorf("rows are missing: %v", rows)
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, dir, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkASDs(b *testing.B) {
	for b.Loop() {
		rows, err := Run(b.Context(), b.TempDir(), Config{})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range rows {
			b.Logf("%-60s %10.1f %s", r.Name, r.Value, r.Unit)
		}
	}
}
