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
	identity := harness.Identity(t)
	base := t.TempDir()
	s := harness.ServeDisks(t, identity, filepath.Join(base, "a"), filepath.Join(base, "b"), filepath.Join(base, "c"))
	key := filepath.Join(base, "key")
	harness.Must(t, "key", "new", key)
	g := harness.Start(t, harness.Options{NoMount: true, Args: []string{"--identity", identity, "--asd", "asd://" + s.Address, "--key-file", key}})
	f := &files{url: g.DAV, content: make(map[string][]byte)}
	marked := bytes.Repeat([]byte("a line that can be found again\n"), 10_000)
	if err := f.put("marked", marked); err != nil {
		t.Fatal(err)
	}
	g.Stop()

	s.Kill()
	if err := os.RemoveAll(filepath.Join(g.Data, "kv")); err != nil {
		t.Fatal(err)
	}
	if out, ok := harness.Run(t, "namespace", "recover", "--data", g.Data); ok || !strings.Contains(out, "none of the disks can be used") {
		t.Fatalf("recovered without disks: %s", out)
	}
	g.SetArgs("--key-file", key)
	if err := g.TryUp(); err == nil || !strings.Contains(err.Error(), "namespace recover") {
		t.Fatalf("up though nothing was recovered yet: %v", err)
	}
	s.Start()
	ns, _, ok := strings.Cut(harness.Must(t, "namespace", "recover", "--data", g.Data), ": ")
	if !ok || ns != "fs.lost" {
		t.Fatal(ns)
	}
	found := func() (content []byte) {
		for line := range strings.Lines(harness.Must(t, "object", "ls", "-n", ns, "--data", g.Data)) {
			cols := strings.Fields(line)
			out, _ := harness.Run(t, "object", "get", "-n", ns, "--data", g.Data, cols[len(cols)-1])
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
	for _, dir := range s.Dirs {
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

// TestDataDirectoryLost recovers an encrypted filesystem from its disks and its passphrase alone: the data directory,
// with the key-value store and the copy of the keyring, is lost.
func TestDataDirectoryLost(t *testing.T) {
	identity := harness.Identity(t)
	base := t.TempDir()
	s := harness.ServeDisks(t, identity, filepath.Join(base, "a"), filepath.Join(base, "b"))
	phrase := filepath.Join(base, "passphrase")
	if err := os.WriteFile(phrase, []byte("broken stone in a cage of wire\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(base, "c") // a folder of this machine
	g := harness.Start(t, harness.Options{NoMount: true, Args: []string{
		"--identity", identity, "--asd", "asd://" + s.Address, "--asd", own, "--passphrase-file", phrase}})
	marked := bytes.Repeat([]byte("a line that can be found again\n"), 10_000)
	object := filepath.Join(base, "object")
	if err := os.WriteFile(object, marked, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Must(t, "object", "put", "-n", "mine", "--data", g.Data, "marked", object)
	g.Kill()
	if err := os.RemoveAll(g.Data); err != nil {
		t.Fatal(err)
	}
	args := []string{"namespace", "recover", "--data", g.Data, "--identity", identity, "--asd", own}
	for _, p := range s.Places {
		args = append(args, "--asd", p)
	}
	if out := harness.Must(t, args...); !strings.Contains(out, "mine: 1 objects back") {
		t.Fatal(out)
	}
	g.SetArgs()
	if err := g.TryUp(); err == nil || !strings.Contains(err.Error(), "--passphrase-file") {
		t.Fatalf("it is up without the passphrase: %v", err)
	}
	g.SetArgs("--passphrase-file", phrase)
	g.Up()
	if got := harness.Must(t, "object", "get", "-n", "mine", "--data", g.Data, "marked"); got != string(marked) {
		t.Errorf("%d bytes that are wrong", len(got))
	}
	g.WaitHealth("ok", limit)
	g.Stop()
}
