package main_test

import (
	"encoding/json"
	"path/filepath"
	"testing"
)

type presetRow struct {
	Name, Compression, Encryption, Checksum string
	Version                                 int
	Policies                                []string
	Disks                                   []int
	Namespaces, Warnings                    []string
}

// presets are those that the status shows.
func presets(t *testing.T, data string) map[string]presetRow {
	t.Helper()
	r := gabion(t, "status", "--json", "--data", data)
	r.want(t, 0)
	var s struct{ Presets []presetRow }
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	out := make(map[string]presetRow)
	for _, p := range s.Presets {
		out[p.Name] = p
	}
	return out
}

// TestPresets makes and changes presets on a running filesystem and on one that is stopped.
func TestPresets(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, anyPort)
	at := func(args ...string) result { return gabion(t, append(args, "--data", data)...) }
	at("preset", "create", "big", "--policy", "8,3,10,11", "--compression", "zstd", "--checksum", "blake3").
		want(t, 0, "zstd", "blake3", "version      1", "warning: preset big: no policy can be met")
	at("preset", "create", "big").want(t, 1)
	at("preset", "use", "big", "mine").want(t, 0, "used by      mine")
	at("object", "put", "x", "--namespace", "mine", "/etc/hostname").want(t, 1) // the policy cannot be met
	at("preset", "update", "big", "--policy", "3,2,4,5", "--disks", "1,2,3,4,5").want(t, 0, "version      2")
	at("object", "put", "x", "--namespace", "mine", "/etc/hostname").want(t, 0) // what is running has heard of it
	at("preset", "update", "default", "--disks", "1,99").want(t, 1, "disk 99")
	at("preset", "update", "default", "--policy", "4,2,9,6").want(t, 2)
	p.stop()
	at("preset", "update", "default", "--compression", "none", "--disks", "all").want(t, 0, "version      2")
	at("preset", "show", "none").want(t, 1)
	at("preset", "show", "default").want(t, 0, "compression  none", "fs")
	at("preset", "list").want(t, 0, "big", "default", "(3,2,4,5)")
	got := presets(t, data)
	if b := got["big"]; b.Version != 2 || len(b.Namespaces) != 1 || b.Namespaces[0] != "mine" || len(b.Disks) != 5 || b.Encryption != "none" || len(b.Warnings) != 0 {
		t.Errorf("%+v", b)
	}
	if d := got["default"]; d.Version != 2 || d.Compression != "none" || len(d.Namespaces) != 1 || d.Namespaces[0] != "fs" {
		t.Errorf("%+v", d)
	}
}
