package asdbench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// childEnv makes the test binary be a phase of Many.
const childEnv = "ASDBENCH_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := RunChild(context.Background(), os.Stdout, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func testChild(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), childEnv+"=1")
	return c
}

func TestMany(t *testing.T) {
	dir := t.TempDir()
	seen := make(map[string]bool)
	m := Many{Records: 20_000, Child: testChild, Emit: func(r Row) {
		seen[r.Name] = true
		if r.Value <= 0 && r.Unit != "reads each" && r.Unit != "B each from the disk" {
			t.Errorf("%s: %g %s", r.Name, r.Value, r.Unit)
		}
	}}
	if err := m.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"open after a clean stop, cold", "open after kill -9, cold", "memory (RSS) after the listing"} {
		if !seen[name] {
			t.Errorf("no row %q in %v", name, seen)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
}

func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	seen := make(map[string]bool)
	c := Compaction{Bytes: 16 << 20, Size: 16 << 10, For: 100 * time.Millisecond, Emit: func(r Row) { seen[r.Name] = true }}
	if err := c.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gets during compaction", "durable puts during compaction", "iteration in the order of keys, after compaction"} {
		if !seen[name] {
			t.Errorf("no row %q in %v", name, seen)
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
}

func BenchmarkCompaction(b *testing.B) {
	for b.Loop() {
		c := Compaction{Emit: func(r Row) { fmt.Printf("%-60s %12.3f %s\n", r.Name, r.Value, r.Unit) }}
		if err := c.Run(b.Context(), b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMany takes the number of records from ASDBENCH_RECORDS.
func BenchmarkMany(b *testing.B) {
	n, _ := strconv.ParseInt(os.Getenv("ASDBENCH_RECORDS"), 10, 64)
	for b.Loop() {
		m := Many{Records: n, Child: testChild, Emit: func(r Row) {
			fmt.Printf("%-60s %12.3f %s\n", r.Name, r.Value, r.Unit)
		}}
		if err := m.Run(b.Context(), b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}
