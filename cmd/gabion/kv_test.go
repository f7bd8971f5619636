package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kvCommands is what the kv commands do with any store, wherever it is. run runs one command on it.
func kvCommands(t *testing.T, run func(in string, args ...string) result) {
	t.Helper()
	prints := func(want string, args ...string) {
		t.Helper()
		r := run("", args...)
		if r.want(t, 0); r.out != want {
			t.Errorf("gabion %s: %q, want %q", strings.Join(args, " "), r.out, want)
		}
	}
	run("", "kv", "get", "colour").want(t, 1, "not found")
	run("", "kv", "delete", "colour").want(t, 1, "absent")
	run("", "kv", "set", "colour", "light blue").want(t, 0)
	prints("light blue\n", "kv", "get", "colour")
	prints("6c6967687420626c7565\n", "kv", "get", "--hex", "636f6c6f7572")

	steps := "# a comment\n\nassert colour \"light blue\"\nassert-absent shape\nset colour green\nset shape `round \"o\"`\nset \"\\x00\" \"\"\n"
	run(steps, "kv", "sequence").want(t, 0)
	run(steps, "kv", "sequence").want(t, 1, "step 0", "the value is another")
	run("assert colour\n", "kv", "sequence").want(t, 2, "line 1: assert takes 2 arguments")
	run("set \"x\n", "kv", "sequence").want(t, 2, "unfinished quote")
	run("explode\n", "kv", "sequence").want(t, 2, "unknown step")
	run("assert-range a b zz\n", "kv", "sequence").want(t, 2, "is not a SHA-256")
	run("# nothing\n", "kv", "sequence").want(t, 2, "no steps")
	if r := run("get colour\nreplace colour red\nget none\ntest-and-set colour red blue\nconfirm colour blue\nset p/1 a\nset p/2 b\ndelete-prefix p/\n", "kv", "sequence"); r.out != "0 green\n1 green\n2 -\n3 red\n7 2\n" {
		t.Errorf("sequence prints %q, %s", r.out, r.err)
	}
	run("set colour green\n", "kv", "sequence").want(t, 0)

	prints("\"\\x00\" \"\"\ncolour green\nshape \"round \\\"o\\\"\"\n", "kv", "range")
	prints("colour\n", "kv", "range", "--prefix", "c", "--keys")
	prints(`{"key":"c2hhcGU=","value":"cm91bmQgIm8i"}`+"\n", "kv", "range", "--reverse", "--limit", "1", "--json")
	r := run("", "kv", "range", "--keys", "--limit", "2")
	if r.want(t, 0, "go on with --after colour"); r.out != "\"\\x00\"\ncolour\n" {
		t.Errorf("range --limit: %q", r.out)
	}
	prints("shape\n", "kv", "range", "--keys", "--limit", "2", "--after", "colour")
	prints("\"\\x00\"\n", "kv", "range", "--keys", "--reverse", "--after", "colour")
	prints("3\n", "kv", "count")
	prints("1\n", "kv", "count", "--prefix", "sh")

	r = run("", "kv", "get", "colour", "none", "shape")
	if r.want(t, 1, "none", "not found"); r.out != "colour green\nshape \"round \\\"o\\\"\"\n" {
		t.Errorf("get of several: %q", r.out)
	}
	r = run("", "kv", "exists", "colour", "none")
	if r.want(t, 1); r.out != "colour true\nnone false\n" {
		t.Errorf("exists: %q", r.out)
	}
	run("", "kv", "exists", "colour").want(t, 0)

	prints("green\n", "kv", "replace", "colour", "red")
	prints("red\n", "kv", "test-and-set", "colour", "red", "blue")
	run("", "kv", "test-and-set", "colour", "red", "pink").want(t, 1, "another value", "nothing was changed", "blue")
	run("", "kv", "test-and-set", "--absent", "lock", "me").want(t, 0)
	run("", "kv", "test-and-set", "--absent", "lock", "you").want(t, 1, "me")
	prints("me\n", "kv", "test-and-set", "--remove", "lock", "me")
	run("", "kv", "exists", "lock").want(t, 1)
	run("", "kv", "confirm", "colour", "blue").want(t, 0)
	prints("blue\n", "kv", "get", "colour")
	run("set t/a 1\nset t/b 2\n", "kv", "sequence").want(t, 0)
	prints("2\n", "kv", "delete-prefix", "t/")
	run("", "kv", "delete-prefix", "").want(t, 2, "give --all")
	run("", "kv", "delete", "colour").want(t, 0)
	run("", "kv", "get", "colour").want(t, 1)

	run("", "kv", "set", "", "v").want(t, 1, "1 to")
	run("", "kv", "state").want(t, 0, "leader")
	run("", "kv", "stats").want(t, 0, "TRANSACTIONS")
	run("", "kv", "ping").want(t, 0)
	run("", "kv", "verify").want(t, 0, "SHA-256")
	var sums []struct {
		Keys   int
		SHA256 string
	}
	if r := run("", "kv", "verify", "--json"); json.Unmarshal([]byte(r.out), &sums) != nil || len(sums) == 0 || len(sums[0].SHA256) != 64 {
		t.Errorf("verify --json: %s%s", r.out, r.err)
	}

	file := filepath.Join(t.TempDir(), "backup")
	run("", "kv", "backup", file).want(t, 0, "wrote")
	run("", "kv", "backup", file).want(t, 1, "exists")
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("backup: %v", err)
	}
	run("", "kv", "watch", "--from", "1", "--limit", "1").want(t, 0, " set colour \"light blue\"")
}
