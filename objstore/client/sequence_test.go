package client

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// TestApplySequence exchanges one object and makes another, atomically, and leaves nothing of a sequence
// that fails.
func TestApplySequence(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 6, preset(objstore.CompressS2, 8<<10, p42), patient)
	r.put("x", noise(100_000))
	x, err := r.ns.Stat(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, p []byte) Step {
		return Step{Op: nsm.Create, Name: name, Content: bytes.NewReader(p), Size: int64(len(p))}
	}
	infos, err := r.ns.ApplySequence(ctx, []Step{
		{Op: nsm.AssertID, Name: "x", ID: x.ID}, {Op: nsm.Remove, Name: "x"}, create("x", noise(50_000)), create("y", noise(1)), create("empty", nil)})
	if err != nil || infos[2].Size != 50_000 || infos[3].Name != "y" {
		t.Fatal(infos, err)
	}
	for name, want := range map[string][]byte{"x": noise(50_000), "y": noise(1)} {
		got := make([]byte, len(want))
		if err := r.ns.ReadAt(ctx, name, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatal(name, err)
		}
	}
	fragments := func() (n int) {
		for _, d := range r.disks {
			n += len(d.Keys())
		}
		return n
	}
	before := fragments()
	var se *nsm.StepError
	_, err = r.ns.ApplySequence(ctx, []Step{create("z", noise(70_000)), {Op: nsm.AssertID, Name: "x", ID: x.ID}})
	if !errors.As(err, &se) || se.Index != 1 || se.Found != infos[2].ID {
		t.Fatal(err)
	}
	if _, err := r.ns.Stat(ctx, "z"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatal(err)
	}
	// What was written for it is in the queue of what is to go, to the last fragment.
	queued := 0
	q, err := r.ns.nsm.Obsoletes(ctx, 0, 100)
	for _, o := range q {
		if o.ID > infos[4].ID {
			queued += len(o.At)
		}
	}
	if err != nil || queued == 0 || queued != fragments()-before {
		t.Fatal(queued, fragments()-before, err)
	}
	for _, steps := range [][]Step{{{Op: nsm.Create, Name: "n"}}, {{Op: 99, Name: "n"}}, {{Op: nsm.Remove}}, make([]Step, nsm.MaxSequence+1)} {
		if _, err := r.ns.ApplySequence(ctx, steps); !errors.Is(err, nsm.ErrSequence) {
			t.Fatal(err)
		}
	}
	if _, err := r.ns.ApplySequence(ctx, []Step{{Op: nsm.Create, Name: "short", Content: bytes.NewReader(nil), Size: 5}}); err == nil {
		t.Fatal("a stream that is too short was taken")
	}
}
