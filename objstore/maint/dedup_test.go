package maint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"pgregory.net/rapid"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// Content that is there already is referenced instead of put again, as the filesystem does it: a row of the same
// store counts the references to the object that has it. The object is put before the row is written, and
// deleted after the row is gone, so that a row never names what is not there, whatever a crash leaves.
const ksRef kv.Keyspace = "test/ref"

type reference struct {
	Name  string
	Count int
}

func dedupContent(content string) []byte { return noise(3000 + 9000*int(content[0]-'0')) }

func readRef(r kv.Reader, content string) (ref reference, err error) {
	b, err := r.Get(ksRef, []byte(content))
	if errors.Is(err, kv.ErrNotFound) {
		return ref, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &ref)
	}
	return ref, err
}

func writeRef(tx kv.Txn, content string, ref reference) error {
	if ref.Count == 0 {
		tx.Delete(ksRef, []byte(content))
		return nil
	}
	b, err := json.Marshal(ref)
	tx.Put(ksRef, []byte(content), b)
	return err
}

// dedup refers to content, and puts it when it is not there.
func (w *world) dedup(t *rapid.T) {
	content := rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "content")
	found := w.count1(content, +1)
	if found {
		return
	}
	w.count++
	name := fmt.Sprint("d", w.count)
	if _, err := w.r.ns.Put(context.Background(), name, dedupContent(content)); err != nil {
		if errors.Is(err, objstore.ErrExists) {
			return // from before a crash that took the count back
		}
		t.Fatal(err)
	}
	w.r.fatal(w.r.store.Update(context.Background(), kv.Ordered, func(tx kv.Txn) error {
		return writeRef(tx, content, reference{name, 1})
	}))
}

// count1 changes the number of references to content by one, and reports whether there was one. The object whose
// last one it was is deleted.
func (w *world) count1(content string, by int) bool {
	var was, is reference
	w.r.fatal(w.r.store.Update(context.Background(), kv.Ordered, func(tx kv.Txn) (err error) {
		if was, err = readRef(tx, content); err != nil || was.Count == 0 {
			return err
		}
		is = was
		is.Count += by
		return writeRef(tx, content, is)
	}))
	if was.Count == 1 && by < 0 {
		w.r.fatal(w.r.ns.Delete(context.Background(), was.Name))
	}
	return was.Count > 0
}

func (w *world) undup(t *rapid.T) {
	w.count1(rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "content"), -1)
}

// references returns all rows.
func (w *world) references(t *rapid.T) map[string]reference {
	out := make(map[string]reference)
	err := w.r.store.View(context.Background(), kv.Pending, func(r kv.Reader) error {
		for _, content := range []string{"0", "1", "2"} {
			ref, err := readRef(r, content)
			if err != nil {
				return err
			}
			if ref.Count > 0 {
				out[content] = ref
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// dropUnreferenced deletes the objects that a crash has left between their put and the row, or between the end of
// the row and their deletion.
func (w *world) dropUnreferenced(t *rapid.T) {
	used := make(map[string]bool)
	for _, ref := range w.references(t) {
		used[ref.Name] = true
	}
	var gone []string
	err := w.r.ns.NSM().List(context.Background(), "d", "e", func(name string, _ *manifest.Manifest) bool {
		if !used[name] && strings.HasPrefix(name, "d") {
			gone = append(gone, name)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	w.r.fatal(w.r.ns.Delete(context.Background(), gone...))
}
