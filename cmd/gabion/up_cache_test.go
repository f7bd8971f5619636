package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

// cacheOf is what the status says of the cache.
func cacheOf(t *testing.T, data string) control.Cache {
	t.Helper()
	r := gabion(t, "status", "--json", "--data", data)
	var s control.Status
	if err := json.Unmarshal([]byte(r.out), &s); err != nil || s.Cache == nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	return *s.Cache
}

// TestUpWithCache: what is written is in the folder, also after a restart, and content is right whatever happens to it.
func TestUpWithCache(t *testing.T) {
	t.Parallel()
	data, cache := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "fast")
	args := []string{"--data", data, anyPort, "--cache", cache, "--cache-size", "32MiB", "--cache-on", "read,write"}
	p := up(t, args...)
	sh(t, `head -c 3000000 /dev/urandom > "$2"; curl -sf -T "$2" "$1f" && curl -sf "$1f" | cmp - "$2"`, p.dav, cache+".want")
	p.stop() // everything is written out
	list, err := filepath.Glob(filepath.Join(cache, "seg-*"))
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	p = up(t, args...)
	var c control.Cache
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c = cacheOf(t, data); c.Pages >= 40 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the cache is empty after a restart: %+v", c)
		}
	}
	if c.Dir != cache || c.Size != 32<<20 || len(c.On) != 2 || c.Used < 2_500_000 || c.Used > c.Size || c.Error != "" {
		t.Fatalf("%+v", c)
	}
	sh(t, `curl -sf "$1f" | cmp - "$2"`, p.dav, cache+".want")
	gabion(t, "status", "--data", data).want(t, 0, "cache", cache)
	other := filepath.Join(t.TempDir(), "data")
	gabion(t, "up", "--data", other, anyPort, "--cache", cache).want(t, 1, "in use by another process")
	p.stop()

	for _, name := range list {
		if err := os.WriteFile(name, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = up(t, args...)
	sh(t, `curl -sf "$1f" | cmp - "$2"`, p.dav, cache+".want")
	p.stop()

	// A folder that cannot be used is no reason not to start.
	p = up(t, "--data", data, anyPort, "--cache", cache+".want")
	if c := cacheOf(t, data); c.Error == "" {
		t.Fatalf("%+v", c)
	}
	sh(t, `curl -sf "$1f" | cmp - "$2"`, p.dav, cache+".want")
	p.stop()
}
