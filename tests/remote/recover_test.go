package remote

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestRecover loses the key-value store of an encrypted filesystem whose disks another process serves. While that
// one is down too, nothing is done; then the content comes back, and what is written afterwards is
// encrypted as before.
func TestRecover(t *testing.T) {
	identity := cluster(t)
	base := t.TempDir()
	s := serve(t, identity, filepath.Join(base, "a"), filepath.Join(base, "b"), filepath.Join(base, "c"))
	key := filepath.Join(base, "key")
	must(t, "key", "new", key)
	g := harness.Start(t, harness.Options{NoMount: true, Args: []string{"--identity", identity, "--asd", "asd://" + s.address, "--key-file", key}})
	f := &files{url: g.DAV, content: make(map[string][]byte)}
	marked := bytes.Repeat([]byte("a line that can be found again\n"), 10_000)
	if err := f.put("marked", marked); err != nil {
		t.Fatal(err)
	}
	g.Stop()

	s.kill()
	if err := os.RemoveAll(filepath.Join(g.Data, "kv")); err != nil {
		t.Fatal(err)
	}
	if out, ok := gabion(t, "namespace", "recover", "--data", g.Data); ok || !strings.Contains(out, "none of the disks can be used") {
		t.Fatalf("recovered without disks: %s", out)
	}
	s.start()
	// Its name is that of the label which maintenance writes on the disks, if that was done already.
	ns, _, ok := strings.Cut(must(t, "namespace", "recover", "--data", g.Data), ": ")
	if !ok || ns != "fs.lost" && ns != "recovered-1" {
		t.Fatal(ns)
	}
	found := func() (content []byte) {
		for line := range strings.Lines(must(t, "object", "ls", "-n", ns, "--data", g.Data)) {
			cols := strings.Fields(line)
			out, _ := gabion(t, "object", "get", "-n", ns, "--data", g.Data, cols[len(cols)-1])
			content = append(content, out...)
		}
		return content
	}
	g.Up()
	if !bytes.Contains(found(), marked[:1000]) {
		t.Error("the content is not there")
	}
	f.url, f.content = g.DAV, make(map[string][]byte)
	if err := f.put("again", marked); err != nil {
		t.Fatal(err)
	}
	f.checkAll(t)
	g.Stop()
	for _, dir := range s.dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			if bytes.Contains(raw, marked[:100]) {
				t.Errorf("%s can be read by anyone", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
