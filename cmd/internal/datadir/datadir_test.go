package datadir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/objstore"
)

func config(asds ...string) Config {
	if len(asds) == 0 {
		asds = []string{"asd-01"}
	}
	return Config{Cluster: strings.Repeat("0a", 16), ASDs: asds, Policies: []objstore.Policy{{K: 1, C: 1, X: 1}}}
}

func mustWrite(t *testing.T, path, s string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCreateOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	if _, err := Open(path); !errors.Is(err, ErrAbsent) {
		t.Fatalf("open of nothing: %v", err)
	}
	d, err := Create(path, config("asd-01", "/mnt/x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, config()); !errors.Is(err, ErrInUse) {
		t.Fatalf("second create: %v", err)
	}
	if err := d.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Fatalf("second open: %v", err)
	}
	if err := d.Update(func(c *Config) { c.ASDs = append(c.ASDs, "/mnt/x") }); err == nil {
		t.Fatal("the same folder twice was taken")
	}
	if len(d.Config.ASDs) != 2 {
		t.Fatal("a refused update changed the configuration")
	}
	if d.Resolve("asd-01") != filepath.Join(path, "asd-01") || d.Resolve("/mnt/x") != "/mnt/x" {
		t.Fatal("Resolve")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, config()); err == nil || !strings.Contains(err.Error(), "already") {
		t.Fatalf("create over data: %v", err)
	}
	d, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Config.Cluster != config().Cluster || d.Config.State != Ready {
		t.Fatalf("%+v", d.Config)
	}
}

func TestInterruptedCreationStartsOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d, err := Create(path, config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "asd-01", "half"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.Close() // as a crash does
	if _, err := Open(path); !errors.Is(err, ErrAbsent) {
		t.Fatalf("open of a half-made directory: %v", err)
	}
	d, err = Create(path, config("asd-01", "asd-02"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "asd-01")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("what the first creation left is still there: %v", err)
	}
	if err := d.Abandon(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(path)
	if err != nil || len(names) != 0 {
		t.Fatalf("after Abandon: %v %v", names, err)
	}
	d, err = Create(filepath.Join(path, "inner"), config())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Abandon(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "inner")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("Abandon left the directory it made: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	ready, err := encode(func() Config { c := config(); c.State = Ready; return c }())
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), ready...)
	flipped[len(flipped)/2] ^= 1
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want error
	}{
		{"empty", func(t *testing.T, dir string) {}, ErrAbsent},
		{"only lost+found", func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "lost+found"), 0o700) }, ErrAbsent},
		{"cut before the marker", func(t *testing.T, dir string) { mustWrite(t, filepath.Join(dir, "format.new"), "") }, ErrAbsent},
		{"foreign", func(t *testing.T, dir string) { mustWrite(t, filepath.Join(dir, "thesis.tex"), "x") }, ErrForeign},
		{"kv without format", func(t *testing.T, dir string) { os.Mkdir(filepath.Join(dir, "kv"), 0o700) }, ErrForeign},
		{"newer", func(t *testing.T, dir string) {
			mustWrite(t, filepath.Join(dir, "format"), "gabion-data 999\nanything")
		}, ErrNewer},
		{"flipped bit", func(t *testing.T, dir string) { mustWrite(t, filepath.Join(dir, "format"), string(flipped)) }, ErrDamaged},
		{"cut short", func(t *testing.T, dir string) {
			mustWrite(t, filepath.Join(dir, "format"), string(ready[:len(ready)-3]))
		}, ErrDamaged},
		{"empty format", func(t *testing.T, dir string) { mustWrite(t, filepath.Join(dir, "format"), "") }, ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			if _, err := Open(dir); !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			if _, err := Create(dir, config()); c.want != ErrAbsent && !errors.Is(err, c.want) {
				t.Errorf("Create: %v, want %v", err, c.want)
			} else if c.want == ErrAbsent && err != nil {
				t.Errorf("Create: %v", err)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "x")
	if _, err := Open(file); !errors.Is(err, ErrForeign) {
		t.Errorf("a file: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	c := config("asd-01", "/mnt/disk")
	c.State = Ready
	raw, err := encode(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:20])
	f.Add([]byte("gabion-data 1\n{}\ncrc32c 00000000\n"))
	f.Add([]byte("gabion-data 9"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := decode(raw)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode(again); err != nil {
			t.Fatalf("what decoded does not decode after encoding: %v", err)
		}
	})
}

func TestRemote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	c := config()
	c.Remote = &Remote{Cluster: strings.Repeat("0b", 16), Store: "home", Owner: "host:/data 1234"}
	d, err := Create(path, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteBundle([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(func(c *Config) { c.Remote.Store = "" }); err == nil || d.Config.Remote.Store != "home" {
		t.Fatalf("a store without a name: %v, %+v", err, d.Config.Remote)
	}
	d.Close()
	got, err := Probe(path)
	if err != nil || got.Remote == nil || *got.Remote != *c.Remote {
		t.Fatalf("%v %+v", err, got.Remote)
	}
	raw, err := os.ReadFile(d.Bundle())
	if info, _ := os.Stat(d.Bundle()); err != nil || string(raw) != "secret" || info.Mode().Perm() != 0o600 {
		t.Fatalf("bundle %q, %v, %v", raw, info, err)
	}
	head, err := os.ReadFile(filepath.Join(path, "format"))
	if err != nil || !strings.HasPrefix(string(head), "gabion-data 2\n") {
		t.Fatalf("a program that does not know clusters would open it: %s", head)
	}
	for _, bad := range []Remote{{Cluster: "x", Store: "s", Owner: "o"}, {Cluster: c.Cluster, Store: "s"}, {Cluster: c.Cluster, Store: strings.Repeat("s", 200), Owner: "o"}} {
		c.Remote = &bad
		if _, err := Create(filepath.Join(t.TempDir(), "d"), c); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
