package meta

import (
	"context"
	"sync"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// maxIno is the largest inode number: 10^9 files a second for two years. Larger ones are damage.
const maxIno fs.Ino = 1<<56 - 1

func validIno(ino fs.Ino) bool { return ino >= fs.Root && ino <= maxIno }

// allocator hands out inode numbers from a range that the "next" row has put behind it. The row is
// sequenced before any number of the range is used, so no crash can bring one back; numbers that were
// reserved and not used, or used by an operation that failed, are skipped for good.
type allocator struct {
	mu          sync.Mutex
	next, limit uint64
}

func (t *Tree) allocate(ctx context.Context) (fs.Ino, error) {
	a := &t.inos
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == a.limit {
		var next uint64
		err := t.store.Update(ctx, kv.Ordered, func(tx kv.Txn) (err error) {
			if next, err = getCounter(tx, nextKey); err != nil {
				return err
			}
			if next <= uint64(fs.Root) || next > uint64(maxIno)-inodeRange {
				return damaged(VolumeKeyspace, nextKey, "%d", next)
			}
			putCounter(tx, nextKey, next+inodeRange)
			return nil
		})
		if err != nil {
			return 0, translate(err)
		}
		a.next, a.limit = next, next+inodeRange
	}
	a.next++
	return fs.Ino(a.next - 1), nil
}
