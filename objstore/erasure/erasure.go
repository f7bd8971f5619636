// Package erasure turns bytes into fragments and back.
//
// A code (k, m) cuts a chunk into k data fragments of equal length and computes m parity fragments; any
// k of the k+m rebuild the others. It is systematic: the data fragments, one after the other, are the
// chunk, padded with zeros. For k = 1 the fragments are replicas; m = 0 is no redundancy.
//
// The matrix is the default one of klauspost/reedsolomon (systematic Vandermonde over GF(2^8) with
// polynomial 29). It is part of the format: fragments that were written once must decode for ever.
//
// A code cannot tell which fragment is bad: verify fragments by checksum before Reconstruct.
package erasure

import (
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// Alignment of fragment lengths, in bytes. Long fragments are whole pages, so that they are written
// with direct I/O as they are and a page of a file lies in one fragment; short ones waste little.
const (
	pageAlign  = 4096
	shortAlign = 64
)

// Chunks returns into how many chunks an object of size bytes is cut, by the published formula
//
//	chunks = ceil(size / min(k * fragmentSize, size))
//
// and the length of all but the last chunk, at most k*fragmentSize, rounded up to a multiple of align
// where that fits. An object of 0 bytes has no chunk.
func Chunks(size int64, k, fragmentSize, align int) (count, length int64) {
	if size <= 0 {
		return 0, 0
	}
	most := int64(k) * int64(fragmentSize)
	unit := min(most, size)
	count = (size + unit - 1) / unit
	length = (size + count - 1) / count
	if up := (length + int64(align) - 1) / int64(align) * int64(align); up <= most {
		length = up
	}
	return count, length
}

// FragmentLen returns the length in bytes of the fragments of a chunk of stored bytes coded over k.
func FragmentLen(stored, k int) int {
	n := (stored + k - 1) / k
	align := pageAlign
	if n <= pageAlign/2 {
		align = shortAlign
	}
	return (n + align - 1) / align * align
}

// Code is one (k, m). Safe for concurrent use.
type Code struct {
	K, M int
	enc  reedsolomon.Encoder // nil for k = 1 and for m = 0
}

// Cache holds the codes that were used; building one inverts a matrix. The zero value is ready to use.
type Cache struct {
	mu    sync.Mutex
	codes map[[2]int]*Code
}

// Get returns the code (k, m).
func (c *Cache) Get(k, m int) (*Code, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if code := c.codes[[2]int{k, m}]; code != nil {
		return code, nil
	}
	code, err := New(k, m)
	if err != nil {
		return nil, err
	}
	if c.codes == nil {
		c.codes = make(map[[2]int]*Code)
	}
	c.codes[[2]int{k, m}] = code
	return code, nil
}

// New returns the code (k, m). Prefer a Cache.
func New(k, m int) (*Code, error) {
	if k < 1 || m < 0 || k+m > 256 {
		return nil, fmt.Errorf("erasure: no code (%d,%d)", k, m)
	}
	code := &Code{K: k, M: m}
	if k == 1 || m == 0 {
		return code, nil
	}
	// One goroutine per stripe: callers run many stripes, and splitting one only adds hand-overs.
	enc, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("erasure: code (%d,%d): %w", k, m, err)
	}
	code.enc = enc
	return code, nil
}

// BufferLen returns how many bytes Split needs for a chunk of stored bytes.
func (c *Code) BufferLen(stored int) int {
	n := FragmentLen(stored, c.K)
	if c.K == 1 {
		return n
	}
	return n * (c.K + c.M)
}

// Split cuts buf into k+m fragments without copying: the first stored bytes of buf are the chunk, the
// padding after them is zeroed, and the parity fragments lie behind it. buf has BufferLen(stored)
// bytes. With k = 1 all fragments are the same memory.
func (c *Code) Split(buf []byte, stored int) [][]byte {
	n := FragmentLen(stored, c.K)
	clear(buf[stored : c.K*n])
	shards := make([][]byte, c.K+c.M)
	for i := range shards {
		at := i * n
		if c.K == 1 {
			at = 0
		}
		shards[i] = buf[at : at+n : at+n]
	}
	return shards
}

// Encode computes the parity fragments from the data fragments.
func (c *Code) Encode(shards [][]byte) error {
	if c.enc == nil {
		if c.K == 1 {
			for _, s := range shards[1:] {
				if &s[0] != &shards[0][0] {
					copy(s, shards[0])
				}
			}
		}
		return nil
	}
	if err := c.enc.Encode(shards); err != nil {
		return fmt.Errorf("erasure: encode (%d,%d): %w", c.K, c.M, err)
	}
	return nil
}

// Reconstruct rebuilds the fragments that are wanted. shards has k+m entries of the same range of each
// fragment; an absent one has length 0, and one that is wanted has the capacity for the result.
// At least k entries must be there.
func (c *Code) Reconstruct(shards [][]byte, wanted []bool) error {
	if c.enc == nil {
		return c.copyReplicas(shards, wanted)
	}
	if err := c.enc.ReconstructSome(shards, wanted); err != nil {
		return fmt.Errorf("erasure: reconstruct (%d,%d): %w", c.K, c.M, err)
	}
	return nil
}

// copyReplicas is Reconstruct where no arithmetic is needed.
func (c *Code) copyReplicas(shards [][]byte, wanted []bool) error {
	var from []byte
	if c.K == 1 {
		for _, s := range shards {
			if len(s) > 0 {
				from = s
				break
			}
		}
	}
	for i, w := range wanted {
		if !w || len(shards[i]) > 0 {
			continue
		}
		if from == nil {
			return fmt.Errorf("erasure: reconstruct (%d,%d): %w", c.K, c.M, reedsolomon.ErrTooFewShards)
		}
		shards[i] = append(shards[i], from...)
	}
	return nil
}
