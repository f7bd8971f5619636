package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestGoBuild builds and tests a module whose sources, build cache and temporary files are all in the mount.
func TestGoBuild(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	src := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/m\n\ngo 1.24\n")
	imports, calls := "", ""
	for i := range 20 {
		write(fmt.Sprintf("p%d/p.go", i), fmt.Sprintf("package p%d\n\nfunc F(n int) int { return n + %d }\n", i, i))
		write(fmt.Sprintf("p%d/p_test.go", i), fmt.Sprintf("package p%d\n\nimport \"testing\"\n\nfunc TestF(t *testing.T) {\n\tif F(1) != %d {\n\t\tt.Fatal(F(1))\n\t}\n}\n", i, i+1))
		imports += fmt.Sprintf("\t\"example.org/m/p%d\"\n", i)
		calls += fmt.Sprintf("\tn = p%d.F(n)\n", i)
	}
	write("main.go", "package main\n\nimport (\n"+imports+")\n\nfunc main() {\n\tn := 0\n"+calls+"\tprintln(n)\n}\n")
	out := g.Shell(limit, `
		cp -r "$1" "$2/m"; mkdir "$2/cache" "$2/tmp"; cd "$2/m"
		export GOCACHE="$2/cache" GOTMPDIR="$2/tmp" GOFLAGS=-mod=mod GOTOOLCHAIN=local
		go build -o prog . && ./prog && go vet ./... && go test ./p1 ./p2 ./p3 && go build -o prog2 . && cmp prog prog2
	`, src, g.Mount)
	if !strings.HasPrefix(out, "190\n") {
		t.Errorf("the program prints %q", out)
	}
	g.Restart()
	if out := g.Shell(limit, `"$1/m/prog"`, g.Mount); out != "190\n" {
		t.Errorf("after a restart the program prints %q", out)
	}
	g.Clean()
	g.Stop()
}

// TestGit clones a repository into the mount, works with it, and has git check it.
func TestGit(t *testing.T) {
	harness.NeedTool(t, "git")
	g := harness.Start(t, harness.Options{})
	origin := filepath.Join(t.TempDir(), "origin")
	g.Shell(limit, `
		export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
		cp -r "$1" "$2"; cd "$2"; git init -q .; git add -A; git commit -qm first
		git clone -q "$2" "$3/clone"; cd "$3/clone"
		git fsck --full --strict; test -z "$(git status --porcelain)"
		for i in 1 2 3; do
			git mv http/server.go http/moved$i.go; echo "// $i" >> http/moved$i.go; git rm -q http/client.go; git commit -qam "change $i"
			git revert -n HEAD; git commit -qam "back $i"
		done
		git checkout -q -b branch; echo x > x; git add x; git commit -qm x; git checkout -q -; git merge -q --no-ff -m merge branch
		git gc -q --aggressive --prune=now; git fsck --full --strict; test -z "$(git status --porcelain)"
		git clone -q . ../again; cd ../again; git fsck --full --strict
		git diff --quiet "$(git rev-list --max-parents=0 HEAD)" HEAD -- http
	`, goroot(t, "net"), origin, g.Mount)
	g.Restart()
	out := g.Shell(limit, `export HOME=/nonexistent; cd "$1/clone"; git -c safe.directory='*' fsck --full --strict; git -c safe.directory='*' status --porcelain`, g.Mount)
	if strings.Contains(out, "error") || strings.Contains(out, " M ") {
		t.Errorf("after a restart git says:\n%s", out)
	}
	g.Clean()
	g.Stop()
}

// TestSQLite has writers and readers work on one database with a write-ahead log.
func TestSQLite(t *testing.T) {
	harness.NeedTool(t, "sqlite3")
	g := harness.Start(t, harness.Options{})
	db := g.Path("test.db")
	g.Shell(limit, `sqlite3 "$1" 'PRAGMA journal_mode=WAL; CREATE TABLE t(w INTEGER, n INTEGER, b BLOB, PRIMARY KEY(w, n));' | grep -q wal`, db)
	rounds := harness.Scale(60, 2000)
	var children []*harness.Child
	for w := range 3 {
		children = append(children, harness.GoRole(t, "sql", "write", db, fmt.Sprint(w), fmt.Sprint(rounds)))
	}
	for range 2 {
		children = append(children, harness.GoRole(t, "sql", "read", db, "", fmt.Sprint(rounds)))
	}
	for _, c := range children {
		g.Finish(c, limit)
	}
	check := `
		test "$(sqlite3 "$1" 'PRAGMA integrity_check;')" = ok
		sqlite3 "$1" 'SELECT COUNT(*), SUM(LENGTH(b)) FROM t;'
	`
	before := g.Shell(limit, check, db)
	if want := fmt.Sprintf("%d|", 3*rounds); !strings.HasPrefix(before, want) {
		t.Errorf("the table has %s, want %s rows", before, want)
	}
	g.Kill() // every transaction that was committed is there
	g.Up()
	if after := g.Shell(limit, check, db); after != before {
		t.Errorf("after a crash the table has %s, before it had %s", after, before)
	}
	g.Shell(limit, `sqlite3 "$1" 'PRAGMA wal_checkpoint(TRUNCATE); VACUUM; PRAGMA integrity_check;' | grep -q ok; sqlite3 "$1" 'PRAGMA journal_mode=DELETE; INSERT INTO t VALUES(9, 9, 9);' > /dev/null`, db)
	g.Clean()
	g.Stop()
}
