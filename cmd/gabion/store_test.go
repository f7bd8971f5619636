package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stores runs test with a process running on the data directory, and without one.
func stores(t *testing.T, test func(t *testing.T, run func(in string, args ...string) result)) {
	for _, running := range []bool{true, false} {
		name := "opened by the command"
		if running {
			name = "running"
		}
		t.Run(name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			p := up(t, "--data", data, anyPort, "--asds", "3")
			if !running {
				p.stop()
			}
			test(t, func(in string, args ...string) result {
				t.Helper()
				return gabionIn(t, in, append([]string{"--data", data}, args...)...)
			})
			if running {
				p.stop()
			}
		})
	}
}

func TestKVCommands(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, run func(string, ...string) result) {
		kvCommands(t, run)
		run("", "kv", "range", "-s", "inode", "--keys", "--hex").want(t, 0)
		run("", "kv", "set", "-s", "other", "k", "v").want(t, 2, "give --unsafe")
		run("", "kv", "call", "increment", "n").want(t, 1, "give --cluster and --store")
		run("", "kv", "restore", "-").want(t, 1, "restore into a store of a cluster")
	})
}

func TestObjectCommands(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, run func(string, ...string) result) {
		file := filepath.Join(t.TempDir(), "file")
		big := strings.Repeat("0123456789abcdef", 9<<16)
		if err := os.WriteFile(file, []byte(big), 0o600); err != nil {
			t.Fatal(err)
		}
		run("", "object", "get", "big").want(t, 1, "not found")
		run("", "object", "put", "big", file).want(t, 0)
		run("", "object", "put", "big", file).want(t, 1, "already exists")
		run(big, "object", "put", "piped").want(t, 0)
		run("", "object", "put", "nothing", "-").want(t, 0)
		run("", "object", "put", "folder", t.TempDir()).want(t, 1, "not a regular file")
		for name, want := range map[string]string{"big": big, "piped": big, "nothing": ""} {
			if r := run("", "object", "get", name); r.code != 0 || r.out != want {
				t.Errorf("get %s: exit code %d, %d bytes, %s", name, r.code, len(r.out), r.err)
			}
		}
		var info struct{ Name, Size any }
		r := run("", "object", "stat", "big", "--json")
		if err := json.Unmarshal([]byte(r.out), &info); err != nil || info.Name != "big" || info.Size != float64(len(big)) {
			t.Errorf("stat: %v %+v", err, info)
		}
		if r := run("", "object", "ls"); strings.Count(r.out, "\n") != 3 {
			t.Errorf("ls: %s", r.out)
		}
		run("", "object", "rm", "big").want(t, 0)
		run("", "object", "rm", "big").want(t, 1, "not found")
		run("", "object", "stat", "big").want(t, 1, "not found")
		run("x", "object", "put", "-n", "other", "x").want(t, 0)
	})
}
