package objbench

import (
	"context"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/objstore/erasure"
)

// Erasure measures the codes on one core, with fragments of 1 MiB.
func Erasure(ctx context.Context) ([]Row, error) {
	const fragment = 1 << 20
	var rows []Row
	for _, km := range [][2]int{{2, 1}, {4, 2}, {8, 2}, {8, 3}} {
		if err := ctx.Err(); err != nil {
			return rows, err
		}
		code, err := erasure.New(km[0], km[1])
		if err != nil {
			return rows, err
		}
		size := km[0] * fragment
		buf := make([]byte, code.BufferLen(size))
		copy(buf, noise(size))
		shards := code.Split(buf, size)
		encode, err := rate(size, func() error { return code.Encode(shards) })
		if err != nil {
			return rows, err
		}
		wanted := make([]bool, len(shards))
		reconstruct, err := rate(size, func() error {
			for i := range km[1] {
				wanted[i], shards[i] = true, shards[i][:0]
			}
			return code.Reconstruct(shards, wanted)
		})
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{fmt.Sprintf("encode (%d,%d)", km[0], km[1]), encode, "GB/s"},
			Row{fmt.Sprintf("reconstruct (%d,%d), %d lost", km[0], km[1], km[1]), reconstruct, "GB/s"})
	}
	return rows, nil
}

// rate repeats fn for a moment and returns gigabytes per second.
func rate(bytes int, fn func() error) (float64, error) {
	if err := fn(); err != nil {
		return 0, err
	}
	begin, n := time.Now(), 0
	for time.Since(begin) < 200*time.Millisecond {
		if err := fn(); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) * float64(bytes) / time.Since(begin).Seconds() / 1e9, nil
}
