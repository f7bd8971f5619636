package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type diskRow struct{ ID, Dir, State, Error string }

func disks(t *testing.T, data string) []diskRow {
	t.Helper()
	r := gabion(t, "asd", "list", "--json", "--data", data)
	r.want(t, 0)
	var d []diskRow
	if err := json.Unmarshal([]byte(r.out), &d); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	return d
}

// filled makes a data directory with six disks and a file in it, and stops again.
func filled(t *testing.T) (data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, anyPort)
	sh(t, `head -c 9000000 /dev/urandom > "$2/f"; curl -sfT "$2/f" "$1f"`, p.dav, filepath.Dir(data))
	p.stop()
	return data
}

// intact compares the file of filled with what is served.
func intact(t *testing.T, p *process) {
	t.Helper()
	sh(t, `curl -sf "$1f" | cmp - "$2/f"`, p.dav, filepath.Dir(p.data))
}

func TestMissingDisks(t *testing.T) {
	t.Parallel()
	data := filled(t)
	gabion(t, "status", "--data", data).want(t, 0, "ok")
	for _, lost := range []string{"asd-02", "asd-05"} {
		if err := os.RemoveAll(filepath.Join(data, lost)); err != nil {
			t.Fatal(err)
		}
	}
	p := up(t, "--data", data, anyPort)
	for _, lost := range []string{"asd-02", "asd-05"} {
		p.says(lost + " is missing")
		if _, err := os.Stat(filepath.Join(data, lost)); err == nil {
			t.Errorf("%s was made again", lost)
		}
	}
	intact(t, p)
	gabion(t, "status", "--data", data).want(t, 3, "degraded", "asd-02", "missing")
	p.stop()
}

// TestEmptyFolders: a folder that is empty is a lost disk, until it is given with --asd: then it is a new
// one, and the lost one stays lost.
func TestEmptyFolders(t *testing.T) {
	t.Parallel()
	data := filled(t)
	lost := filepath.Join(data, "asd-03")
	before := disks(t, data)
	if err := os.RemoveAll(lost); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(lost, 0o700); err != nil {
		t.Fatal(err)
	}
	p := up(t, "--data", data, anyPort)
	p.says("asd-03 is missing")
	p.stop()
	if left, _ := os.ReadDir(lost); len(left) != 0 {
		t.Fatalf("the empty folder was claimed without being asked for: %v", left)
	}
	p = up(t, "--data", data, anyPort, "--asd", lost)
	intact(t, p)
	after := disks(t, data)
	if len(after) != len(before)+1 {
		t.Fatalf("before %+v\nafter %+v", before, after)
	}
	var old, fresh *diskRow
	for i, d := range after {
		if d.Dir != lost {
			continue
		}
		if d.State == "missing" || d.Error != "" {
			old = &after[i]
		} else {
			fresh = &after[i]
		}
	}
	if old == nil || fresh == nil || old.ID == fresh.ID {
		t.Errorf("want the lost disk and a new one in %s:\n%+v", lost, after)
	}
	p.stop()
}

func TestForeignDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mine, other := filepath.Join(dir, "mine"), filepath.Join(dir, "other")
	up(t, "--data", other, anyPort, "--asds", "2").stop()
	refused(t, dir, "belongs to another", "--data", mine, anyPort, "--asd", filepath.Join(other, "asd-01"))
	up(t, "--data", mine, anyPort, "--asds", "2").stop()
	refused(t, dir, "belongs to another", "--data", mine, anyPort, "--asd", filepath.Join(other, "asd-01"))
	// A foreign disk that stands where one of ours was does not prevent the start.
	if err := os.RemoveAll(filepath.Join(mine, "asd-01")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(other, "asd-01"), filepath.Join(mine, "asd-01")); err != nil {
		t.Fatal(err)
	}
	p := up(t, "--data", mine, anyPort)
	p.says("asd-01")
	p.stop()
}

func TestAddAndDisable(t *testing.T) {
	t.Parallel()
	data := filled(t)
	extra := filepath.Join(filepath.Dir(data), "extra")
	p := up(t, "--data", data, anyPort)
	gabion(t, "asd", "add", extra, "--data", data).want(t, 0, "added disk", extra)
	gabion(t, "asd", "add", extra, "--data", data).want(t, 1, extra)
	var id string
	for _, d := range disks(t, data) {
		if d.Dir == extra {
			id = d.ID
		}
	}
	gabion(t, "asd", "disable", id, "--data", data).want(t, 0, "disabled disk "+id)
	gabion(t, "asd", "disable", "99", "--data", data).want(t, 1, "disk 99", "not found", "gabion asd list")
	gabion(t, "asd", "purge", "1", "--data", data).want(t, 1, "objects refer to it")
	gabion(t, "asd", "disable", "first", "--data", data).want(t, 1, "first")
	intact(t, p)
	p.stop()
	p = up(t, "--data", data, anyPort)
	found := false
	for _, d := range disks(t, data) {
		if d.Dir == extra {
			found = true
			if d.ID != id || d.State != "disabled" {
				t.Errorf("after a restart: %+v", d)
			}
		}
	}
	if !found {
		t.Error("the added disk is gone after a restart")
	}
	p.stop()
}

// TestRecoverAdded: with the key-value store lost, what lies on a disk that was added later comes back without
// anybody telling where that is.
func TestRecoverAdded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, extra := filepath.Join(dir, "data"), filepath.Join(dir, "extra")
	p := up(t, "--data", data, anyPort, "--asds", "1")
	gabion(t, "asd", "add", extra, "--data", data).want(t, 0, "added disk 2")
	gabion(t, "asd", "disable", "1", "--data", data).want(t, 0)
	gabionIn(t, "content", "object", "put", "o", "--data", data).want(t, 0)
	p.stop()
	if err := os.RemoveAll(filepath.Join(data, "kv")); err != nil {
		t.Fatal(err)
	}
	// A recovery that fails leaves no store behind, which would make the next one take the old content for that of a
	// filesystem that there is.
	places := filepath.Join(data, "disks")
	good, err := os.ReadFile(places)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(places, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	gabion(t, "namespace", "recover", "--data", data).want(t, 1, "the list of disks is damaged")
	refused(t, dir, "the key-value store in", "--data", data, anyPort)
	if err := os.WriteFile(places, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r := gabion(t, "namespace", "recover", "--data", data)
	r.want(t, 0, "was made anew", ": 1 objects back") // in a namespace whose name the disks may not have been told yet
	if r.err != "" {
		t.Errorf("on standard error: %s", r.err)
	}
}

func TestDisksElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"--data", filepath.Join(dir, "data"), anyPort}
	for _, d := range []string{"a", "b", "c"} {
		args = append(args, "--asd", filepath.Join(dir, d))
	}
	up(t, args...).stop()
	up(t, args...).stop()
	up(t, args[:3]...).stop()
	if got := disks(t, filepath.Join(dir, "data")); len(got) != 3 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "asd-01")); err == nil {
		t.Error("disks were made inside the data directory as well")
	}
}

// TestMovedDataDirectory: a data directory may be moved as a whole, with the disks inside it.
func TestMovedDataDirectory(t *testing.T) {
	t.Parallel()
	data := filled(t)
	moved := data + "-moved"
	if err := os.Rename(data, moved); err != nil {
		t.Fatal(err)
	}
	p := up(t, "--data", moved, anyPort)
	intact(t, p)
	gabion(t, "status", "--data", moved).want(t, 0, "ok", filepath.Join(moved, "asd-06"))
	p.stop()
}

// TestReplacedDisk loses a disk, adds another, and forgets the lost one when all is whole again.
func TestReplacedDisk(t *testing.T) {
	t.Parallel()
	data := filled(t)
	if err := os.RemoveAll(filepath.Join(data, "asd-04")); err != nil {
		t.Fatal(err)
	}
	p := up(t, "--data", data, anyPort)
	gabion(t, "asd", "add", filepath.Join(filepath.Dir(data), "new"), "--data", data).want(t, 0, "added disk 7")
	var r result
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if r = gabion(t, "asd", "purge", "4", "--data", data); r.code == 0 || time.Now().After(deadline) {
			break
		}
	}
	r.want(t, 0, "purged disk 4")
	gabion(t, "status", "--data", data).want(t, 0, "ok")
	gabion(t, "fsck", "--data", data, "--data-checksums").want(t, 0, "clean")
	intact(t, p)
	p.stop()
}
