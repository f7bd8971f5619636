package asd

import (
	"errors"
	"fmt"
)

// What an operation on records may answer, beside *CorruptError and *AssertError.
var (
	// ErrNotFound: there is no record under the key.
	ErrNotFound = errors.New("no such record")
	// ErrFull: the put was refused because the disk, or the capacity given to this ASD, is used up.
	// Nothing has changed. Deletes still pass.
	ErrFull = errors.New("asd is full: delete something, or add a disk")
	// ErrFailed: an earlier write or sync failed, and the ASD takes no more updates until it is opened
	// again. Reads still try. The cause is in the text.
	ErrFailed = errors.New("asd has failed")
	// ErrClosed: the ASD was closed.
	ErrClosed = errors.New("asd is closed")
	// ErrTooLarge: a key, info, payload or batch exceeds its limit. Nothing has changed.
	ErrTooLarge = errors.New("exceeds the limit")
	// ErrInvalid: the arguments make no sense: an empty key, a range outside of the record.
	ErrInvalid = errors.New("invalid argument")
)

// What opening or claiming a folder may answer. They come wrapped in an *OpenError.
var (
	// ErrMissing: the folder does not exist, or holds no ASD.
	ErrMissing = errors.New("no ASD there")
	// ErrInUse: another process, or another ASD value of this one, has the folder open.
	ErrInUse = errors.New("already open")
	// ErrForeign: the folder belongs to another cluster, or is another ASD than was expected.
	ErrForeign = errors.New("belongs to another")
	// ErrNewer: the folder was written by a later version of gabion.
	ErrNewer = errors.New("newer format")
	// ErrDamaged: the format file fails its checksum.
	ErrDamaged = errors.New("damaged")
	// ErrClaimed: the folder already holds an ASD, so that it cannot be claimed.
	ErrClaimed = errors.New("already claimed")
	// ErrNotEmpty: the folder holds other files, so that it cannot be claimed.
	ErrNotEmpty = errors.New("not empty")
)

// OpenError says why a folder could not be opened or claimed, and what to do about it. Errors.Is finds
// one of ErrMissing, ErrInUse, ErrForeign, ErrNewer, ErrDamaged, ErrClaimed and ErrNotEmpty in it, or
// the error of the filesystem.
type OpenError struct {
	Dir  string
	Err  error
	Hint string // what was found, and what to do
}

func (e *OpenError) Error() string {
	s := fmt.Sprintf("asd %s: %v", e.Dir, e.Err)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

func (e *OpenError) Unwrap() error { return e.Err }

// CorruptError reports a record whose bytes on disk fail their checksum. Other records are not touched
// by it. Deleting or overwriting the record cures it.
type CorruptError struct {
	Key     []byte
	Segment uint64 // id of the segment
	Offset  int64  // of the damaged block, or of the header, in the segment file
	Block   int    // number of the 64 KiB block in the payload; -1 for the record's header
	Detail  string
}

func (e *CorruptError) Error() string {
	what := "header"
	if e.Block >= 0 {
		what = fmt.Sprintf("block %d", e.Block)
	}
	return fmt.Sprintf("asd: record %q is damaged: %s at offset %d of segment %d: %s", e.Key, what, e.Offset, e.Segment, e.Detail)
}

// AssertError reports the first assert of a batch that did not hold. Nothing has changed.
type AssertError struct {
	Key  []byte
	Want string // "absent", "exists", "version 12"
	Have uint64 // version of the record, 0 when it is absent
}

func (e *AssertError) Error() string {
	have := "is absent"
	if e.Have != 0 {
		have = fmt.Sprintf("has version %d", e.Have)
	}
	return fmt.Sprintf("asd: assert failed: record %q %s, want %s", e.Key, have, e.Want)
}
