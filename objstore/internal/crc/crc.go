// Package crc computes CRC32C checksums of blocks and combines them, so that data is passed over once:
// the sums of 64 KiB blocks that a disk stores also yield the sum of a fragment and of an object.
package crc

import "hash/crc32"

// Block is how many bytes one block checksum covers.
const Block = 64 << 10

var table = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the CRC32C of p.
func Sum(p []byte) uint32 { return crc32.Checksum(p, table) }

// Update returns the CRC32C of what had sum followed by p.
func Update(sum uint32, p []byte) uint32 { return crc32.Update(sum, table, p) }

// Blocks appends the CRC32C of each 64 KiB block of p to sums; the last block may be short.
func Blocks(sums []uint32, p []byte) []uint32 {
	for len(p) > 0 {
		n := min(len(p), Block)
		sums = append(sums, Sum(p[:n]))
		p = p[n:]
	}
	return sums
}

// Join returns the CRC32C of size bytes whose blocks have the given sums.
func Join(sums []uint32, size int) uint32 {
	var sum uint32
	for i, s := range sums {
		sum = Combine(sum, s, int64(min(size-i*Block, Block)))
	}
	return sum
}

// Combine returns the CRC32C of a followed by b, given the sums of both and b's length in bytes.
//
// A CRC is the remainder of the message as a polynomial over GF(2); appending n bytes multiplies it by
// x^(8n) modulo the generator, so combining is one multiplication and an addition.
func Combine(a, b uint32, lenB int64) uint32 {
	return mul(xPow8n(lenB), a) ^ b
}

// poly is the generator of CRC32C, bit-reversed: bit 31 is x^0.
const poly = 0x82f63b78

// mul multiplies two polynomials modulo the generator. Bit 31 is x^0.
func mul(a, b uint32) uint32 {
	var p uint32
	for m := uint32(1) << 31; ; m >>= 1 {
		if a&m != 0 {
			p ^= b
			if a&(m-1) == 0 {
				return p
			}
		} else if a == 0 {
			return 0
		}
		if b&1 != 0 {
			b = b>>1 ^ poly
		} else {
			b >>= 1
		}
	}
}

// squares[i] is x^(2^i) modulo the generator.
var squares = func() (t [64]uint32) {
	t[0] = 1 << 30 // x
	for i := 1; i < len(t); i++ {
		t[i] = mul(t[i-1], t[i-1])
	}
	return t
}()

// xPow8n returns x^(8n) modulo the generator.
func xPow8n(n int64) uint32 {
	p := uint32(1) << 31 // 1
	for i := 3; n > 0; n, i = n>>1, i+1 {
		if n&1 != 0 {
			p = mul(squares[i%len(squares)], p)
		}
	}
	return p
}
