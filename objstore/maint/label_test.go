package maint

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manager"
)

func someLabel() manager.Label {
	return manager.Label{V: 1, Number: 7, Name: "user", Namespace: json.RawMessage(`{"v":1,"name":"user","number":7,"preset":"default"}`),
		Preset: json.RawMessage(`{"v":1,"Name":"default","Version":3,"Policies":[{"K":4,"M":2,"C":5,"X":6}],"FragmentSize":8192,"Compression":1}`)}
}

func FuzzLabel(f *testing.F) {
	f.Add(encodeLabel(someLabel()))
	f.Add([]byte(labelMagic + "\x00\x00\x00\x00"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLabel(b)
		var corrupt *objstore.CorruptError
		switch {
		case err != nil && !errors.As(err, &corrupt):
			t.Fatalf("not a typed error: %v", err)
		case err == nil && (l.Number == 0 || l.Name == ""):
			t.Fatalf("%+v", l)
		}
	})
}

// TestLabels: labels are on every disk that takes anything, follow changes, and bring namespaces back into a store
// that knows nothing, under their names and numbers and with their presets.
func TestLabels(t *testing.T) {
	r := newRig(t, 6, p42)
	defer func() { r.close() }()
	p := objstore.Preset{Name: "small", Policies: []objstore.Policy{{K: 2, M: 2, C: 3, X: 4}}, FragmentSize: 8 << 10}
	r.fatal(r.mgr.PutPreset(ctx0, p))
	rec, err := r.mgr.Namespace(ctx0, "mine", "small")
	r.fatal(err)
	r.down(5)
	r.fatal(r.m.Label(ctx0))
	r.fatal(r.mgr.PutPreset(ctx0, objstore.Preset{Name: "small", Policies: []objstore.Policy{{K: 1, M: 1, C: 2, X: 2}}, FragmentSize: 8 << 10}))
	r.fatal(r.m.Label(ctx0))
	r.attach(5)
	r.fatal(r.m.Label(ctx0))
	for i, d := range r.disks {
		if k := d.Keys(); len(k) != 1 || k[0] != labelKey(rec.Number) {
			t.Fatalf("disk %d has %v", i+1, k)
		}
	}
	if b := r.fragments(); b != 6 {
		t.Fatal(b)
	}
	// One disk is damaged, and one has an old label.
	r.disks[0].Corrupt(labelKey(rec.Number), 9)
	old := newRig(t, 0, p42)
	defer old.close()
	old.disks = r.disks
	for i := range old.disks {
		r.down(i)
		old.attach(i)
	}
	r.disks = nil
	found, err := Namespaces(ctx0, old.mgr)
	old.fatal(err)
	if len(found) != 1 || found[0].Number != rec.Number || found[0].Name != "mine" {
		t.Fatalf("%+v", found)
	}
	for range 2 { // again changes nothing
		names, err := old.mgr.Adopt(ctx0, found, 99, "default", func(s string) string { return s + ".lost" })
		if err != nil || len(names) != 1 || names[rec.Number] != "mine.lost" {
			t.Fatal(names, err)
		}
	}
	got, err := old.mgr.Preset(ctx0, "small")
	if err != nil || len(got.Policies) != 1 || got.Policies[0].K != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	next, err := old.mgr.Namespace(ctx0, "next", "small")
	if err != nil || next.Number <= 99 {
		t.Fatalf("%+v, %v: a number that is in use on disks was given out", next, err)
	}
}
