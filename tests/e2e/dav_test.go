package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/tests/harness"
)

// davSum reads every regular file of a native tree over WebDAV too, and compares.
func davSum(args []string) error {
	url, dir := args[0], args[1]
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		got, err := get(url + "/" + rel)
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s: %d bytes over WebDAV differ from %d", rel, len(got), len(want))
		}
		return err
	})
	if err == nil && n == 0 {
		err = errors.New("there are no files")
	}
	return err
}

func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func do(t *testing.T, method, url, body string, header ...string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// TestCoherence changes the tree through the mount and sees it over WebDAV at once, and the other way
// round, with the kernel's caches warm.
func TestCoherence(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	sh := func(script string, args ...string) string {
		t.Helper()
		return g.Shell(limit, `cd "$1"; shift; `+script, append([]string{g.Mount}, args...)...)
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	for i := range harness.Scale(8, 100) {
		name := fmt.Sprint("f", i)
		// The mount has looked the name up in vain, and knows the directory.
		sh(`test ! -e $1; ls > /dev/null`, name)
		if status, text := do(t, "PUT", g.DAV+name, "over WebDAV"); status != http.StatusCreated {
			t.Fatalf("PUT: %d %s", status, text)
		}
		want("through the mount after PUT", sh(`cat $1; stat -c %s $1; ls | grep -c "^$1\$"`, name), "over WebDAV11\n1\n")
		if status, _ := do(t, "PUT", g.DAV+name, "again, and longer"); status != http.StatusNoContent {
			t.Fatalf("PUT again: %d", status)
		}
		want("through the mount after another PUT", sh(`cat $1; stat -c %s $1`, name), "again, and longer17\n")
		sh(`printf mount > $1`, name)
		_, text := do(t, "GET", g.DAV+name, "")
		want("over WebDAV after a write", text, "mount")
		sh(`printf more >> $1`, name)
		_, text = do(t, "GET", g.DAV+name, "", "Range", "bytes=3-6")
		want("a range after an append", text, "ntmo")
		if status, _ := do(t, "MOVE", g.DAV+name, "", "Destination", g.DAV+name+".moved"); status != http.StatusCreated {
			t.Fatalf("MOVE: %d", status)
		}
		want("through the mount after MOVE", sh(`test ! -e $1; cat $1.moved`, name), "mountmore")
		sh(`mkdir $1.dir; mv $1.moved $1.dir/in`, name)
		_, text = do(t, "GET", g.DAV+name+".dir/in", "")
		want("over WebDAV after mv", text, "mountmore")
		if status, _ := do(t, "GET", g.DAV+name+".moved", ""); status != http.StatusNotFound {
			t.Errorf("GET of what was moved away: %d", status)
		}
		if status, _ := do(t, "COPY", g.DAV+name+".dir/", "", "Destination", g.DAV+name+".copy/"); status != http.StatusCreated {
			t.Fatalf("COPY: %d", status)
		}
		want("through the mount after COPY", sh(`cat $1.copy/in`, name), "mountmore")
		if status, _ := do(t, "DELETE", g.DAV+name+".dir/", ""); status != http.StatusNoContent {
			t.Fatalf("DELETE: %d", status)
		}
		want("through the mount after DELETE", sh(`test ! -e $1.dir; ls | grep "^$1\\." || true`, name), name+".copy\n")
		sh(`rm -r $1.copy`, name)
		if status, _ := do(t, "GET", g.DAV+name+".copy/in", ""); status != http.StatusNotFound {
			t.Errorf("GET after rm: %d", status)
		}
		if status, _ := do(t, "MKCOL", g.DAV+name+".col", ""); status != http.StatusCreated {
			t.Errorf("MKCOL: %d", status)
		}
		sh(`rmdir $1.col`, name)
	}
	want("in the end", sh(`ls -A`), "")
	g.Clean()
	g.Stop()
}
