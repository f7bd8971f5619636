package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gabionfs/gabion/tests/harness"
)

var litmusSummary = regexp.MustCompile("<- summary for `([a-z]+)': of ([0-9]+) tests run: ([0-9]+) passed, ([0-9]+) failed")

// TestLitmus runs the public WebDAV suite on the real server: everything must pass and nothing be skipped.
func TestLitmus(t *testing.T) {
	litmus := harness.NeedTool(t, "litmus")
	g := harness.Start(t, harness.Options{})
	cmd := exec.Command(litmus, "--keep-going", g.DAV)
	cmd.Dir = t.TempDir() // litmus leaves logs where it runs
	out, err := g.Try(harness.Go(t, "litmus", cmd), limit)
	if err != nil {
		t.Errorf("litmus: %v", err)
	}
	run, passed := 0, 0
	for _, m := range litmusSummary.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(m[2])
		p, _ := strconv.Atoi(m[3])
		run, passed = run+n, passed+p
	}
	t.Logf("litmus: %d of %d passed", passed, run)
	if run < 100 || passed != run || strings.Contains(out, "SKIPPED") || strings.Contains(out, "WARNING") {
		t.Errorf("litmus says:\n%s", out)
	}
	g.Clean()
	g.Stop()
}

// TestCutPut cuts uploads half way, by closing the connection and by killing the server: the old content
// stays, seen from both sides, and nothing of the rest takes space for ever.
func TestCutPut(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	old := strings.Repeat("the old content ", 20_000)
	if status, text := do(t, "PUT", g.DAV+"f", old); status != http.StatusCreated {
		t.Fatalf("PUT: %d %s", status, text)
	}
	intact := func(when string) {
		t.Helper()
		if got, err := get(g.DAV + "f"); err != nil || string(got) != old {
			t.Errorf("%s: GET gives %d bytes, %v", when, len(got), err)
		}
		if got := g.Shell(limit, `cat "$1/f"`, g.Mount); got != old {
			t.Errorf("%s: the mount has %d bytes, want %d", when, len(got), len(old))
		}
		if got := g.Shell(limit, `ls -A "$1"`, g.Mount); got != "f\n" {
			t.Errorf("%s: there is %q", when, got)
		}
	}
	for _, sent := range []int{0, 1000, 6 << 20} {
		c := halfPut(t, g.DAV, "/f", 20<<20, sent)
		c.Close()
		// It is over when the server has seen the end; then the name can be written again.
		harness.WaitFor(t, 2*time.Minute, "the cut upload to end", func() bool {
			status, _ := do(t, "PUT", g.DAV+"f", old)
			return status == http.StatusNoContent
		})
		intact(fmt.Sprintf("cut after %d bytes", sent))
	}
	g.Shell(limit, `sync "$1/f"`, g.Mount)
	c := halfPut(t, g.DAV, "/f", 20<<20, 6<<20)
	defer c.Close()
	g.Kill()
	g.Up()
	intact("after a crash in the middle of an upload")
	g.Clean()
	g.Stop()
}

// halfPut sends the head of a PUT and a part of its body.
func halfPut(t *testing.T, base, path string, length, sent int) net.Conn {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", path, u.Host, length); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(bytes.Repeat([]byte("new "), sent/4)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestReadersAndWriters replaces files by PUT and by rename in the mount while both are read over WebDAV, and
// those that are renamed also in the mount: a reader gets one version or another, whole. (PUT keeps the inode,
// so who has the file open in the mount sees its content change.)
func TestReadersAndWriters(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	version := func(name string, v int) string {
		line := fmt.Sprintf("%s version %d\n", name, v)
		return strings.Repeat(line, 2000+v%7*500)
	}
	whole := func(name, text string) error {
		line, _, _ := strings.Cut(text, "\n")
		_, num, _ := strings.Cut(line, " version ")
		v, err := strconv.Atoi(num)
		if err != nil || text != version(name, v) {
			return fmt.Errorf("%s: %d bytes that begin with %.60q are no version", name, len(text), line)
		}
		return nil
	}
	names, renamed := []string{"a", "b"}, []string{"c", "d"}
	for _, name := range append(names, renamed...) {
		if status, _ := do(t, "PUT", g.DAV+name, version(name, 0)); status != http.StatusCreated {
			t.Fatalf("PUT: %d", status)
		}
	}
	rounds := harness.Scale(40, 1000)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fail := func(err error) {
		if err != nil {
			mu.Lock()
			t.Error(err)
			mu.Unlock()
		}
	}
	for _, name := range names {
		for w := range 2 {
			wg.Go(func() { // over WebDAV
				for i := range rounds {
					req, err := http.NewRequest("PUT", g.DAV+name, strings.NewReader(version(name, 2*i+w)))
					if err != nil {
						fail(err)
						return
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						fail(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode/100 != 2 {
						fail(fmt.Errorf("PUT %s: %s", name, resp.Status))
					}
				}
			})
		}
	}
	for _, name := range append(names, renamed...) {
		wg.Go(func() {
			for range 2 * rounds {
				text, err := get(g.DAV + name)
				if err == nil {
					err = whole(name, string(text))
				}
				fail(err)
			}
		})
	}
	// Versions to rename over the files, made outside.
	src := t.TempDir()
	for _, name := range renamed {
		for v := range 5 {
			if err := os.WriteFile(filepath.Join(src, fmt.Sprint(name, v)), []byte(version(name, v)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	mover := harness.GoShell(t, `
		cd "$1"
		for i in $(seq "$3"); do for n in c d; do cp "$2/$n$((i%5))" tmp.$n; mv tmp.$n $n; done; done`, g.Mount, src, strconv.Itoa(rounds))
	reader := harness.GoShell(t, `
		cd "$1"
		for i in $(seq "$2"); do for n in c d; do
			cat $n > "$3/copy"
			test $(sort -u "$3/copy" | wc -l) = 1 || { sort "$3/copy" | uniq -c; exit 1; }
		done; done`, g.Mount, strconv.Itoa(rounds), t.TempDir())
	wg.Wait()
	g.Finish(mover, limit)
	g.Finish(reader, limit)
	for _, name := range append(names, renamed...) {
		text, err := get(g.DAV + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Shell(limit, `cat "$1/$2"`, g.Mount, name); got != string(text) {
			t.Errorf("%s has %d bytes in the mount and %d over WebDAV", name, len(got), len(text))
		}
	}
	g.Clean()
	g.Stop()
}
