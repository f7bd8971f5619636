package objbench

import (
	"bytes"
	"context"
	"fmt"
	"math"
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

// Contents are the kinds of content that Metadata puts: what does not compress; text that repeats itself; words, of
// which every frame has another length; and frames of which some compress much, some a little and some not at all, whose lengths
// have least in common.
var Contents = []string{"random", "text", "words", "mixed"}

// Metadata puts objects of size bytes, of names of 32 bytes, and returns how many bytes of metadata there are
// more for each, for each of the contents, in all stores together; nil contents are all of Contents. What all objects of a namespace share, ids and
// counters, counts for nothing but what it grows by.
func Metadata(ctx context.Context, ns objstore.Namespace, size int, contents []string, stores ...kv.Store) ([]Row, error) {
	if contents == nil {
		contents = Contents
	}
	var rows []Row
	for _, content := range contents {
		n, err := metadataOf(ctx, ns, content, size, stores)
		if err != nil {
			return rows, err
		}
		rows = append(rows, Row{Name: fmt.Sprintf("metadata %s %s", SizeName(size), content), Value: n, Unit: "B/object"})
	}
	return rows, nil
}

func metadataOf(ctx context.Context, ns objstore.Namespace, content string, size int, stores []kv.Store) (float64, error) {
	const objects = 1
	p := sample(content, size)
	// The first object of a namespace brings what is shared.
	if _, err := ns.Put(ctx, fmt.Sprintf("%-32s", content+" first"), p); err != nil {
		return 0, err
	}
	before, err := metadataIn(ctx, stores)
	if err != nil {
		return 0, err
	}
	for i := range objects {
		if _, err := ns.Put(ctx, fmt.Sprintf("%-32s", fmt.Sprint(content, i)), p); err != nil {
			return 0, err
		}
	}
	after, err := metadataIn(ctx, stores)
	return float64(after-before) / objects, err
}

func metadataIn(ctx context.Context, stores []kv.Store) (sum int64, err error) {
	for _, s := range stores {
		_, n, err := MetadataUsage(ctx, s)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func sample(content string, size int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	p := make([]byte, size)
	switch content {
	case "text":
		return bytes.Repeat([]byte("seven o'clock and all is well; "), size/31+1)[:size]
	case "words":
		vocabulary := make([][]byte, 4096)
		for i := range vocabulary {
			w := make([]byte, 2+rng.IntN(10))
			for j := range w {
				w[j] = 'a' + byte(rng.IntN(26))
			}
			vocabulary[i] = append(w, ' ')
		}
		for at := 0; at < size; {
			// Most often one of a few, as in any language.
			i := int(float64(len(vocabulary)) * math.Pow(rng.Float64(), 4))
			at += copy(p[at:], vocabulary[i])
		}
	default:
		_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
		for f := 0; content == "mixed" && f < size; f += objstore.FrameSize {
			frame := p[f:min(size, f+objstore.FrameSize)]
			if f > 0 { // of the first, as many zeroes as make it worth while
				clear(frame[:rng.IntN(len(frame))])
			} else {
				clear(frame)
			}
		}
	}
	return p
}
