package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestSalvageDisk verifies, damages, recovers and replaces a disk.
func TestSalvageDisk(t *testing.T) {
	t.Parallel()
	data := filled(t)
	disk := filepath.Join(data, "asd-02")
	gabion(t, "asd", "verify", disk).want(t, 0, "are intact")
	gabion(t, "asd", "stat", disk).want(t, 0, "of garbage")
	gabion(t, "asd", "compact", disk).want(t, 0, "used")
	gabion(t, "asd", "verify", filepath.Join(data, "nowhere")).want(t, 3, "does not exist")
	gabion(t, "asd", "recover", disk).want(t, 2, "--to is missing")

	p := up(t, "--data", data, anyPort)
	gabion(t, "asd", "verify", disk).want(t, 3, "already open", "gabion")
	p.stop()

	segments, _ := filepath.Glob(filepath.Join(disk, "segments", "*.seg"))
	for _, name := range segments {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 64<<10 {
			b[len(b)/2] ^= 1
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	saved := filepath.Join(data, "saved")
	r := gabion(t, "asd", "recover", disk, "--to", saved, "--json")
	r.want(t, 1)
	var rep struct {
		Intact   bool
		Records  int64
		Lost     int64
		Problems []struct {
			Fragment, File, Cause string
			Offset                int64
			Lost                  bool
		}
	}
	if err := json.Unmarshal([]byte(r.out), &rep); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	if rep.Intact || rep.Lost == 0 || rep.Records == 0 || len(rep.Problems) == 0 || rep.Problems[0].Fragment == "" || !rep.Problems[0].Lost {
		t.Fatalf("%+v", rep)
	}
	gabion(t, "asd", "verify", saved).want(t, 0)
	if err := os.RemoveAll(disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(saved, disk); err != nil {
		t.Fatal(err)
	}
	p = up(t, "--data", data, anyPort)
	intact(t, p)
	p.stop()
}
