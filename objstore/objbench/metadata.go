package objbench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Usage is what a keyspace takes.
type Usage struct {
	Keyspace kv.Keyspace
	Rows     int64
	Keys     int64 // bytes of keys
	Values   int64 // bytes of values
}

// MetadataUsage counts every byte of keys and values in the keyspaces of namespace managers.
func MetadataUsage(ctx context.Context, store kv.Store) (out []Usage, total int64, err error) {
	for _, ks := range nsm.Keyspaces() {
		var u Usage
		err := store.View(ctx, kv.Pending, func(r kv.Reader) error {
			u = Usage{Keyspace: ks}
			return r.Range(ks, kv.Range{}, func(k, v []byte) bool {
				u.Rows++
				u.Keys += int64(len(k))
				u.Values += int64(len(v))
				return true
			})
		})
		if err != nil {
			return nil, 0, err
		}
		out = append(out, u)
		total += u.Keys + u.Values
	}
	return out, total, nil
}

// Metadata puts objects of size bytes, of names of 32 bytes, and returns how many bytes of metadata there are
// more for each: once for content that does not compress, once for content that does. What all objects of a
// namespace share, ids and counters, counts for nothing but what it grows by.
func Metadata(ctx context.Context, store kv.Store, ns objstore.Namespace, size int) ([]Row, error) {
	var rows []Row
	for _, content := range []string{"random", "text"} {
		// The first object of a namespace brings what is shared.
		const objects = 2
		p := sample(content, size)
		if _, err := ns.Put(ctx, fmt.Sprintf("%-32s", content+" first"), p); err != nil {
			return rows, err
		}
		_, before, err := MetadataUsage(ctx, store)
		if err != nil {
			return rows, err
		}
		for i := range objects {
			if _, err := ns.Put(ctx, fmt.Sprintf("%-32s", fmt.Sprint(content, i)), p); err != nil {
				return rows, err
			}
		}
		_, after, err := MetadataUsage(ctx, store)
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{Name: fmt.Sprintf("metadata %s %s", sizeName(size), content), Value: float64(after-before) / objects, Unit: "B/object"})
	}
	return rows, nil
}

func sample(content string, size int) []byte {
	if content == "text" {
		return bytes.Repeat([]byte("seven o'clock and all is well; "), size/31+1)[:size]
	}
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}
