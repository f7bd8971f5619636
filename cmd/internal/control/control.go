// Package control is how the commands talk to a running gabion: HTTP with JSON over a unix socket in the
// data directory, which only its owner may open.
//
// The same handler also runs inside a command that opened the data directory itself because nothing
// runs there, so every command is written once, against Client.
//
//	GET    /v1/status                             Status
//	GET    /v1/asds                               []Disk
//	POST   /v1/asds            AddRequest         Disk
//	POST   /v1/asds/change     ChangeRequest      Disk
//	POST   /v1/fsck            FsckRequest        a stream of FsckEvent
//	POST   /v1/kv/get          KeysRequest        []Value
//	POST   /v1/kv/range        RangeRequest       RangePage
//	POST   /v1/kv/count        RangeRequest       Count
//	POST   /v1/kv/sequence     []kv.Step          []kv.StepResult
//	POST   /v1/kv/watch        WatchRequest       a stream of WatchEvent
//	GET    /v1/kv/backup                          the backup, its index in a trailer
//	POST   /v1/kv/verify                          Verified
//	GET    /v1/objects?ns=&from=&to=&limit=       []objectInfo
//	GET    /v1/object?ns=&name=                   the content
//	HEAD   is not served; /v1/object/stat?ns=&name= is objectInfo
//	PUT    /v1/object?ns=&name=                   objectInfo
//	DELETE /v1/object?ns=&name=
//
// An error is a status code of 400 or more with {"kind", "error"}; see errors.go.
package control

import (
	"context"
	"io"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
)

// Backend is what the handler serves. Safe for concurrent use.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	ASDs(ctx context.Context) ([]Disk, error)
	// AddASD claims the folder dir, made when it is missing, as a new and empty disk.
	AddASD(ctx context.Context, dir string) (Disk, error)
	// ChangeASD changes what a disk is used for, and returns it as it was when it is purged.
	ChangeASD(ctx context.Context, r ChangeRequest) (Disk, error)
	// Fsck checks everything, calling event for each problem and now and then for progress.
	Fsck(ctx context.Context, r FsckRequest, event func(FsckEvent)) error
	KV() kv.Store
	// Watch calls fn with the changes of keys that begin with a prefix, in order, until fn or ctx ends it.
	// It, Backup and Verify answer errors.ErrUnsupported, wrapped, where the store is on a cluster.
	Watch(ctx context.Context, q WatchRequest, fn func(WatchEvent) error) error
	// Backup writes the key-value store as it is at one index of its log.
	Backup(ctx context.Context, w io.Writer) (index uint64, err error)
	// Verify reads all of the key-value store and compares it with its checksums.
	Verify(ctx context.Context) (Verified, error)
	// Namespace returns the objects of namespace name, or objstore.ErrNotFound. To write it is made when
	// there is none, and refused when it is not the user's.
	Namespace(ctx context.Context, name string, write bool) (objstore.Namespace, error)
}

// AddRequest asks for a new disk in Dir, an absolute path.
type AddRequest struct {
	Dir string `json:"dir"`
}

// Change is what can be done to a disk.
type Change string

const (
	Disable Change = "disable" // it gets nothing new, and maintenance moves away what it holds
	Enable  Change = "enable"  // undoes Disable and Drain
	Drain   Change = "drain"   // Disable, and Purge when it is empty
	Purge   Change = "purge"   // it is forgotten; refused while objects refer to it, unless forced
)

// ChangeRequest asks for a change of disk ID.
type ChangeRequest struct {
	ID    string `json:"id"`
	Do    Change `json:"do"`
	Force bool   `json:"force,omitempty"`
}

// FsckRequest says how thoroughly to check.
type FsckRequest struct {
	Repair bool `json:"repair"` // mend what can be mended
	Data   bool `json:"data"`   // also read every byte of content
}

// FsckEvent is one line of the stream that a check answers with: exactly one field is set.
type FsckEvent struct {
	Progress *FsckProgress `json:"progress,omitempty"`
	Problem  *FsckProblem  `json:"problem,omitempty"`
	Done     *FsckSummary  `json:"done,omitempty"`
	Error    *wireError    `json:"error,omitempty"`
}

// FsckProgress says how far a check has come.
type FsckProgress struct {
	Phase string `json:"phase"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0: unknown
}

// FsckProblem is one thing that is wrong.
type FsckProblem struct {
	Layer    string `json:"layer"`
	Kind     string `json:"kind"`
	Text     string `json:"text"`
	Repaired bool   `json:"repaired"`
}

// FsckSummary ends a check.
type FsckSummary struct {
	Problems int64            `json:"problems"`
	Repaired int64            `json:"repaired"`
	Checked  map[string]int64 `json:"checked"` // what was looked at, by kind
}

// KeysRequest names keys of one keyspace, which are read at one moment.
type KeysRequest struct {
	Keyspace kv.Keyspace `json:"keyspace"`
	Keys     [][]byte    `json:"keys"`
}

// Value is what a key has, if it exists.
type Value struct {
	Found bool   `json:"found"`
	Value []byte `json:"value,omitempty"`
}

// Count is the number of keys of a range.
type Count struct {
	Keys uint64 `json:"keys"`
}

// WatchRequest asks for changes from a log index on; 0 means from now on.
type WatchRequest struct {
	Keyspace kv.Keyspace `json:"keyspace"`
	Prefix   []byte      `json:"prefix"`
	From     uint64      `json:"from"`
}

// WatchEvent is one change, or, with Error set, the end of the stream. One that is nothing but an index
// says that everything up to it was told.
type WatchEvent struct {
	Index   uint64     `json:"index"`
	Key     []byte     `json:"key,omitempty"`
	Value   []byte     `json:"value,omitempty"`
	Deleted bool       `json:"deleted,omitempty"`
	Error   *wireError `json:"error,omitempty"`
}

// Verified is the outcome of Verify that found no damage.
type Verified struct {
	Index uint64 `json:"index"` // of the log, that was looked at
	Bytes int64  `json:"bytes"` // of keys and values in the state file that agree with their checksums
	Keys  uint64 `json:"keys"`
	Sum   []byte `json:"sum"` // SHA-256 of the content at that index
}

// RangeRequest asks for one page of a range. Limit 0 means as many as a page holds.
type RangeRequest struct {
	Keyspace kv.Keyspace `json:"keyspace"`
	From     []byte      `json:"from"`
	To       []byte      `json:"to"`
	Reverse  bool        `json:"reverse"`
	Limit    int         `json:"limit"`
	KeysOnly bool        `json:"keys_only"`
}

// objectInfo is objstore.Info on the wire, where a name need not be text.
type objectInfo struct {
	Name   []byte `json:"name"`
	ID     uint64 `json:"id"`
	Size   int64  `json:"size"`
	Stored int64  `json:"stored"`
}

func wireInfo(i objstore.Info) objectInfo {
	return objectInfo{Name: []byte(i.Name), ID: i.ID, Size: i.Size, Stored: i.Stored}
}

func (i objectInfo) info() objstore.Info {
	return objstore.Info{Name: string(i.Name), ID: i.ID, Size: i.Size, Stored: i.Stored}
}

// Pair is a key with its value.
type Pair struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value,omitempty"`
}

// RangePage is a part of a range, read at one moment. More says that the range goes on.
type RangePage struct {
	Pairs []Pair `json:"pairs"`
	More  bool   `json:"more"`
}
