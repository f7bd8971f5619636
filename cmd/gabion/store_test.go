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
		run("", "kv", "get", "colour").want(t, 1, "not found")
		run("", "kv", "delete", "colour").want(t, 1, "absent")
		run("", "kv", "set", "colour", "light blue").want(t, 0)
		if r := run("", "kv", "get", "colour"); r.out != "light blue\n" {
			t.Errorf("get: %q", r.out)
		}
		if r := run("", "kv", "get", "--hex", "636f6c6f7572"); r.out != "6c6967687420626c7565\n" {
			t.Errorf("get --hex: %q", r.out)
		}
		steps := "# a comment\n\nassert colour \"light blue\"\nassert-absent shape\nset colour green\nset shape `round \"o\"`\nset \"\\x00\" \"\"\n"
		run(steps, "kv", "sequence").want(t, 0)
		run(steps, "kv", "sequence").want(t, 1, "assert 0", "the value is another")
		run("assert colour\n", "kv", "sequence").want(t, 2, "line 1: assert takes 2 arguments")
		run("set \"x\n", "kv", "sequence").want(t, 2, "unfinished quote")
		run("explode\n", "kv", "sequence").want(t, 2, "unknown step")
		if r := run("", "kv", "range"); r.out != "\"\\x00\" \"\"\ncolour green\nshape \"round \\\"o\\\"\"\n" {
			t.Errorf("range: %q", r.out)
		}
		if r := run("", "kv", "range", "--prefix", "c", "--keys"); r.out != "colour\n" {
			t.Errorf("range --prefix: %q", r.out)
		}
		if r := run("", "kv", "range", "--reverse", "--limit", "1", "--json"); r.out != `{"key":"c2hhcGU=","value":"cm91bmQgIm8i"}`+"\n" {
			t.Errorf("range --json: %q", r.out)
		}
		run("", "kv", "delete", "colour").want(t, 0)
		run("", "kv", "get", "colour").want(t, 1)
		run("", "kv", "range", "-s", "inode", "--keys", "--hex").want(t, 0)
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
