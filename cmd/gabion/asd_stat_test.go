package main_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLiveDisk asks a running process about its disks, and has one compacted, without its compacting by itself.
func TestLiveDisk(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	gabion(t, "up", "--data", data, "--compaction", "never").want(t, 2, "auto, scheduled or manual")
	gabion(t, "up", "--data", data, "--compaction-window", "01:00-02:00").want(t, 2, "--compaction scheduled")
	p := up(t, "--data", data, "--asds", "2", "--compaction", "manual", anyPort)
	type stat struct {
		ID, ASD        string
		Puts, Garbage  int64
		Segments       int64 `json:"segments_compacted"`
		Used, Compact  int64
		PutTime        struct{ Count int64 } `json:"put_time"`
		Garbage_Before int64                 `json:"garbage_before"`
	}
	read := func(args ...string) (s stat) {
		t.Helper()
		r := gabion(t, append(args, "--json", "--data", data)...)
		r.want(t, 0)
		if err := json.Unmarshal([]byte(r.out), &s); err != nil {
			t.Fatalf("%v\n%s", err, r.out)
		}
		return s
	}
	sh(t, `head -c 20000000 /dev/urandom > "$2/f"; curl -sfT "$2/f" "$1f"; curl -sf -X DELETE "$1f"`, p.dav, filepath.Dir(data))
	for end := time.Now().Add(3 * time.Minute); read("asd", "stat", "1").Garbage < 5<<20; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what was deleted is no garbage yet")
		}
	}
	s := read("asd", "stat", "1")
	if s.ID != "1" || len(s.ASD) != 32 || s.Puts == 0 || s.PutTime.Count == 0 || s.Segments != 0 {
		t.Errorf("%+v", s)
	}
	gabion(t, "asd", "stat", "1", "--data", data).want(t, 0, "p99.9")
	gabion(t, "status", "--data", data).want(t, 0, "of garbage on the disks")
	if c := read("asd", "compact", "1"); c.Segments == 0 || c.Garbage >= c.Garbage_Before {
		t.Errorf("%+v", c)
	}
	gabion(t, "asd", "compact", "9", "--data", data).want(t, 1, "not found")
	if r := gabion(t, "asd", "stat", filepath.Join(data, "asd-02")); r.code != 1 || !strings.Contains(r.err, "already open") {
		t.Errorf("%d %s", r.code, r.err)
	}
	p.stop()
	gabion(t, "asd", "stat", "2", "--data", data).want(t, 0, "records")
}
