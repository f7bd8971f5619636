package maint

import (
	"context"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
)

// TestDeletedWhileHealed deletes objects while lost fragments of theirs are written anew, and while fragments are
// moved. None of what was written stays: k fragments would bring the object back in a recovery.
func TestDeletedWhileHealed(t *testing.T) {
	r := newRig(t, 6, p22)
	defer r.close()
	n := r.ns.NSM()
	for _, move := range []bool{false, true} {
		r.put("o", noise(20_000))
		mf, err := n.Fetch(ctx0, "o")
		r.fatal(err)
		deleted := false
		spent := 0
		o := client.HealOptions{Bad: map[objstore.FragmentKey]bool{}, Spend: func(context.Context, int) error {
			if spent++; spent == 4 { // one fragment of chunk 0 is written, or read
				deleted = true
				r.fatal(r.ns.Delete(ctx0, "o"))
				r.fatal(r.m.DeleteObsolete(ctx0, n))
			}
			return nil
		}}
		if move {
			at := mf.Chunks[0].Fragments[0].Disk
			spent = 2
			_, err = r.ns.Move(ctx0, "o", at, func(_ int64, allowed []*manager.Disk) *manager.Disk { return allowed[0] }, o)
		} else {
			for i := range mf.Chunks {
				for j := range 2 {
					o.Bad[mf.Key(n.Number(), i, j)] = true
				}
			}
			_, err = r.ns.Heal(ctx0, "o", o)
		}
		if err != nil || !deleted {
			t.Fatal(err, deleted)
		}
		r.fatal(r.m.DeleteObsolete(ctx0, n))
		for i, d := range r.disks {
			if k := d.Keys(); len(k) > 0 {
				t.Errorf("move %v: disk %d has %v", move, i+1, k)
			}
		}
	}
}
