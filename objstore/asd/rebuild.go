package asd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// rebuildAtOpen makes a new index from the segments.
func (a *ASD) rebuildAtOpen(ctx context.Context, files []*foundFile) error {
	began := time.Now()
	a.table.segments = make(map[uint64]*segment)
	a.table.pool = nil
	dir := filepath.Join(a.home, indexName)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	x, err := openIndex(dir, a.cache, a.ballastSize()/2, a.log, a.events())
	if err != nil {
		return err
	}
	a.index = x
	var segs []*foundFile
	for _, ff := range files {
		if ff.err == nil && ff.info.state == segmentInUse || ff.err != nil && a.inferHeader(ff) {
			segs = append(segs, ff)
			a.adopt(ff)
			continue
		}
		a.table.pool = append(a.table.pool, &poolFile{slot: ff.slot, size: ff.size, since: time.Now()})
	}
	slices.SortFunc(segs, func(p, q *foundFile) int { return cmp.Compare(p.info.id, q.info.id) })
	r := &replayer{a: a, ctx: ctx, x: x}
	for i, ff := range segs {
		end, err := r.segment(ff, segmentStart, knownEnd(segs, i))
		if err != nil {
			return err
		}
		if i == len(segs)-1 {
			if err := a.sealRecovered(ff, end); err != nil {
				return err
			}
		}
	}
	a.writer.lsn, a.writer.seq, a.writer.clean = r.lsn, r.seq, false
	a.table.written, a.syncer.synced = r.lsn, r.lsn
	a.rebuilt = true
	a.log.Error("the index was rebuilt from the segments", "segments", len(segs), "frames", r.frames,
		"damaged frames", r.gaps, "took", time.Since(began))
	return nil
}

// withIndex calls fn with the index. When fn finds it damaged it is rebuilt, and fn called once more.
func (a *ASD) withIndex(fn func(x *index) error) error {
	a.indexMu.RLock()
	x := a.index
	if x == nil {
		a.indexMu.RUnlock()
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	err := fn(x)
	a.indexMu.RUnlock()
	if err == nil || !isIndexDamage(err) {
		return err
	}
	if err := a.rebuild(x, err); err != nil {
		return err
	}
	a.indexMu.RLock()
	defer a.indexMu.RUnlock()
	if a.index == nil {
		return fmt.Errorf("asd %s: %w", a.dir, ErrClosed)
	}
	return fn(a.index)
}

// rebuild replaces a damaged index while the ASD is open. What is pending stays pending.
func (a *ASD) rebuild(damaged *index, cause error) error {
	a.indexMu.Lock()
	defer a.indexMu.Unlock()
	if a.index != damaged || a.index == nil {
		return nil // someone was faster
	}
	if err := a.Err(); err != nil {
		return err
	}
	a.log.Error("the index is damaged and is being rebuilt from the segments", "error", cause)
	began := time.Now()
	if err := markRebuild(a.home); err != nil {
		return a.fail(err)
	}
	a.index.close()
	dir := filepath.Join(a.home, indexName)
	err := os.RemoveAll(dir)
	if err == nil {
		a.index, err = openIndex(dir, a.cache, a.ballastSize()/2, a.log, a.events())
	}
	if err != nil {
		a.index = nil
		return a.fail(fmt.Errorf("rebuild the index: %w", err))
	}
	r := &replayer{a: a, ctx: context.Background(), x: a.index}
	if err := r.everything(); err != nil {
		return a.fail(fmt.Errorf("rebuild the index: %w", err))
	}
	if err := a.index.db.Flush(); err != nil {
		return a.fail(fmt.Errorf("rebuild the index: %w", err))
	}
	a.damage.Store(false)
	a.rebuilt = true
	a.log.Error("the index was rebuilt from the segments", "frames", r.frames, "damaged frames", r.gaps, "took", time.Since(began))
	return os.Remove(filepath.Join(a.home, indexName+".rebuild"))
}
