package raftlog

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	boltstore "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
)

// BenchmarkStores compares log stores: one StoreLogs per iteration, the log truncated as it grows.
func BenchmarkStores(b *testing.B) {
	for name, open := range map[string]func(dir string) (raft.LogStore, error){
		"raftlog":     func(dir string) (raft.LogStore, error) { return Open(Options{Dir: dir}) },
		"raft-wal":    func(dir string) (raft.LogStore, error) { return wal.Open(dir) },
		"raft-boltdb": func(dir string) (raft.LogStore, error) { return boltstore.NewBoltStore(filepath.Join(dir, "db")) },
	} {
		for _, c := range []struct{ entries, size int }{{1, 512}, {1, 16 << 10}, {1, 256 << 10}, {4, 256 << 10}, {16, 512}} {
			b.Run(fmt.Sprintf("%s/%dx%d", name, c.entries, c.size), func(b *testing.B) {
				s, err := open(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				data := make([]byte, c.size)
				b.SetBytes(int64(c.entries * c.size))
				next := uint64(1)
				var kept int64
				b.ResetTimer()
				for b.Loop() {
					logs := make([]*raft.Log, c.entries)
					for i := range logs {
						logs[i] = &raft.Log{Index: next, Term: 1, Data: data}
						next++
					}
					if err := s.StoreLogs(logs); err != nil {
						b.Fatal(err)
					}
					if kept += int64(c.entries * c.size); kept > 48<<20 {
						first, _ := s.FirstIndex()
						if err := s.DeleteRange(first, next-1-uint64(c.entries)); err != nil {
							b.Fatal(err)
						}
						kept = 0
					}
				}
				b.StopTimer()
				if c, ok := s.(interface{ Close() error }); ok {
					if err := c.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
