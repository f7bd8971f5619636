package asdbench

import (
	"context"
	"errors"
	"fmt"
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

func BenchmarkFragments(b *testing.B) {
	for b.Loop() {
		rows, err := Run(b.Context(), b.TempDir(), Config{Sizes: []int{1 << 20}, Writers: []int{16}, Bytes: 2 << 30})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range rows {
			fmt.Printf("%-60s %10.2f %s\n", r.Name, r.Value, r.Unit)
		}
	}
}

func BenchmarkASDs(b *testing.B) {
	for b.Loop() {
		rows, err := Run(b.Context(), b.TempDir(), Config{})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range rows {
			fmt.Printf("%-60s %10.2f %s\n", r.Name, r.Value, r.Unit)
		}
	}
}
