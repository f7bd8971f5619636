package fsck_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/fsck"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

var ctx = context.Background()

func newVolume(t *testing.T) (*meta.Tree, *memkv.Store) {
	t.Helper()
	s := memkv.New(memkv.Rerun())
	if _, err := meta.Format(ctx, s, meta.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	tree, err := meta.Open(ctx, s, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return tree, s
}

func run(t *testing.T, o fsck.Options) fsck.Report {
	t.Helper()
	r, err := fsck.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(ino fs.Ino) []byte { return binary.BigEndian.AppendUint64(nil, uint64(ino)) }

func TestClean(t *testing.T) {
	tree, s := newVolume(t)
	if _, err := tree.Mkdir(ctx, fs.Cred{}, fs.Root, "d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{false, true} {
		before := s.Unsynced()
		r := run(t, fsck.Options{KV: s, Repair: repair})
		if !r.Clean || r.Found != 0 || r.Checked["inodes"] != 2 || r.Checked["entries"] != 1 || s.Unsynced() != before {
			t.Errorf("repair %v: %+v", repair, r)
		}
	}
}

func TestRepair(t *testing.T) {
	tree, s := newVolume(t)
	f, err := tree.Mknod(ctx, fs.Cred{}, fs.Root, "f", 0o644, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(ctx, kv.Durable, func(t kv.Txn) error {
		t.Delete(meta.InodeKeyspace, key(f.Ino))
		t.Put(meta.OrphanKeyspace, key(77), []byte{0})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var seen []fsck.Problem
	o := fsck.Options{KV: s, Problem: func(p fsck.Problem) { seen = append(seen, p) }}
	r := run(t, o)
	if r.Clean || r.Found != 3 || r.Repaired != 0 || len(seen) != 3 || len(r.Problems) != 3 || s.Unsynced() != 0 {
		t.Fatalf("%+v", r)
	}
	for _, p := range r.Problems {
		if p.Layer != "namespace" || p.Kind == "" || p.Object == "" || p.Text == "" || !p.Repairable || p.Repaired {
			t.Errorf("%+v", p)
		}
	}
	o.Repair = true
	if r = run(t, o); r.Clean || r.Found != 3 || r.Repaired != 3 {
		t.Fatalf("%+v", r)
	}
	if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), `"kind":"dangling-entry","object":"entry \"f\" of directory 1","text":"inode 2 does not exist"`) {
		t.Errorf("%s, %v", b, err)
	}
	if r = run(t, o); !r.Clean || r.Found != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestLayers(t *testing.T) {
	_, s := newVolume(t)
	broken := errors.New("broken")
	progress := map[string]int64{}
	o := fsck.Options{KV: s, Repair: true,
		Progress: func(layer string, done, total int64) { progress[layer] = done*100 + total },
		Layers: []fsck.Layer{
			{Name: "content", Check: func(ctx context.Context, p fsck.Pass) error {
				p.Progress(3, 4)
				p.Count("blobs", 5)
				p.Count("blobs", 2)
				if p.Repair {
					p.Report(fsck.Problem{Kind: "a", Repaired: true, Done: "mended"})
				}
				for range 2 * fsck.MaxProblems {
					p.Report(fsck.Problem{Kind: "b"})
				}
				return nil
			}},
			{Name: "objects", Check: func(ctx context.Context, p fsck.Pass) error { return broken }},
			{Name: "never", Check: func(ctx context.Context, p fsck.Pass) error { panic("after an error") }},
		}}
	r, err := fsck.Run(ctx, o)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "objects") {
		t.Fatal(err)
	}
	if r.Clean || r.Found != 2*fsck.MaxProblems+1 || r.Repaired != 1 || len(r.Problems) != fsck.MaxProblems ||
		r.Problems[0].Layer != "content" || r.Checked["blobs"] != 7 || progress["content"] != 304 {
		t.Fatalf("%d found, %d repaired, %d listed, %v, %v", r.Found, r.Repaired, len(r.Problems), r.Checked, progress)
	}
}

func TestNoVolume(t *testing.T) {
	if _, err := fsck.Run(ctx, fsck.Options{KV: memkv.New()}); !errors.Is(err, meta.ErrNotFormatted) {
		t.Fatal(err)
	}
}

func TestCancelled(t *testing.T) {
	_, s := newVolume(t)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if r, err := fsck.Run(gone, fsck.Options{KV: s}); !errors.Is(err, context.Canceled) || r.Clean {
		t.Fatal(r, err)
	}
}
