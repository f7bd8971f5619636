package data

import (
	"errors"

	"github.com/gabionfs/gabion/kv"
)

// Measure returns how far the data of a content reaches, in bytes, and how much there is of it, in units
// of 512. It is what a repair knows of a file whose inode is damaged: a hole at the end is not seen.
func Measure(r kv.Reader, content uint64) (size, blocks int64, err error) {
	rerr := r.Range(ksExtent, kv.Prefix(u64key(content)), func(k, v []byte) bool {
		if len(k) != 12 {
			return true
		}
		e, derr := decodeExtent(v)
		if derr != nil {
			return true // Check tells of it
		}
		end, inline := e.end(), int64(0)
		err = rangeInline(r, content, blockOf(k), 0, BlockSize, func(off uint32, v []byte) error {
			end = max(end, off+uint32(len(v)))
			inline += int64(len(v))
			return nil
		})
		var damage *DamageError
		if errors.As(err, &damage) {
			err = nil
		}
		size = max(size, int64(blockOf(k))*BlockSize+int64(end))
		blocks += blocks512(e.covered() + inline)
		return err == nil
	})
	return size, blocks, errors.Join(err, rerr)
}
