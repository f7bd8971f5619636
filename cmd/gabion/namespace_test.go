package main_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamespaceManagers makes namespace managers, moves namespaces, the filesystem's among them, and deletes one, on
// a running filesystem; what was done is found again after a restart, and by commands that open the directory.
func TestNamespaceManagers(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, anyPort, "--asds", "3")
	at := func(args ...string) result { return gabion(t, append(args, "--data", data)...) }
	put := func(ns, name, content string) {
		t.Helper()
		gabionIn(t, content, "object", "put", name, "--namespace", ns, "--data", data).want(t, 0)
	}
	get := func(ns, name, want string) {
		t.Helper()
		if r := at("object", "get", name, "--namespace", ns); r.code != 0 || r.out != want {
			t.Errorf("get %s of %s: exit code %d, %q, %s", name, ns, r.code, r.out, r.err)
		}
	}
	put("one", "x", "first")
	at("namespace", "managers").want(t, 0, "main")
	at("namespace", "managers", "add", "second").want(t, 0, "second is there")
	at("namespace", "managers", "add", "../x").want(t, 1, "no slash")
	at("namespace", "managers", "add", "third", "--store", "s").want(t, 1, "not on a cluster")
	put("two", "x", "second")
	if m := managers(t, data); m["two"] != "second" || m["one"] != "main" || m["fs"] != "main" {
		t.Error(m)
	}
	at("namespace", "move", "one").want(t, 2, "give --to")
	at("namespace", "move", "one", "--to", "nowhere").want(t, 1, "not found")
	at("namespace", "move", "nothing", "--to", "second").want(t, 1, "not found")
	at("namespace", "move", "one", "--to", "second").want(t, 0, "namespace one is at second: 1 objects")
	at("namespace", "move", "fs", "--to", "second").want(t, 0, "namespace fs is at second")
	get("one", "x", "first")
	put("one", "y", "more")
	at("namespace", "managers", "remove", "second").want(t, 1, "3 namespaces")
	p.stop()

	get("one", "y", "more")
	at("namespace", "move", "two", "--to", "main").want(t, 0, "namespace two is at main")
	at("fsck", "--json").want(t, 0)
	at("namespace", "list", "--on-disks").want(t, 0, "\n2 ", "\n3 ") // they are labelled with their names in time
	p = up(t, "--data", data, anyPort)
	if m := managers(t, data); m["two"] != "main" || m["one"] != "second" || m["fs"] != "second" {
		t.Error(m)
	}
	get("one", "x", "first")
	get("two", "x", "second")
	at("namespace", "delete", "fs", "--force").want(t, 1, "belongs to the filesystem")
	at("namespace", "delete", "one").want(t, 1, "give --force")
	at("namespace", "delete", "one", "--force").want(t, 0, "namespace one is deleted: 2 objects")
	at("object", "get", "x", "--namespace", "one").want(t, 1, "not found")
	at("namespace", "move", "fs", "--to", "main").want(t, 0)
	at("namespace", "managers", "remove", "second").want(t, 0, "second is removed")
	at("namespace", "managers", "remove", "main").want(t, 1, "cannot be removed")
	at("status").want(t, 0)
	p.stop()
	at("namespace", "list").want(t, 0, "fs", "two")
	if r := at("namespace", "list", "--on-disks"); r.code != 0 || strings.Contains(r.out, "\n2 ") {
		t.Errorf("after the deletion the disks hold %s%s", r.out, r.err)
	}
	at("fsck").want(t, 0)
}

// managers returns where each namespace is.
func managers(t *testing.T, data string) map[string]string {
	t.Helper()
	r := gabion(t, "namespace", "list", "--json", "--data", data)
	r.want(t, 0)
	var list []struct{ Name, Manager string }
	if err := json.Unmarshal([]byte(r.out), &list); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	out := map[string]string{}
	for _, n := range list {
		out[n.Name] = n.Manager
	}
	return out
}
