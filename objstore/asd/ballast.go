package asd

import (
	"os"
	"path/filepath"
)

// The ballast is space that is given up when the index cannot be flushed because the filesystem is full to
// the last byte. Freeing a segment needs a flush, so without it a full disk could not be emptied.

const (
	ballastMagic = "GBNBALST\x01\x00\x00\x00"
	ballastName  = "ballast"
)

// ballastSize leaves room for two flushes of the index.
func (a *ASD) ballastSize() int64 { return pageCeil(min(max(a.capacity/64, 512<<10), 4<<20)) }

// ensureBallast creates the ballast when there is plenty of room for it.
func (a *ASD) ensureBallast() error {
	size := a.ballastSize()
	if a.ballast.Load() || !a.roomFor(2*size, classPut) {
		return nil
	}
	path := filepath.Join(a.dir, ballastName)
	if fi, err := os.Stat(path); err == nil && fi.Size() >= size {
		a.ballast.Store(true)
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.WriteString(ballastMagic); err == nil {
		err = allocate(f, 0, size)
	}
	if err != nil {
		os.Remove(path)
		if isNoSpace(err) {
			return nil
		}
		return err
	}
	a.ballast.Store(true)
	return nil
}

// dropBallast is called from inside of the index when it found no space.
func (a *ASD) dropBallast() {
	if err := os.Remove(filepath.Join(a.dir, ballastName)); err == nil {
		a.log.Error("the filesystem is full to the last byte: the ballast goes, so that the index can be flushed")
	}
	a.ballast.Store(false)
	a.noSpace.Add(1)
}
