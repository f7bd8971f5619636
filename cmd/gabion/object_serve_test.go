package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestObjectServe serves objects over HTTP, through a process that runs and without one.
func TestObjectServe(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := up(t, "--data", data, anyPort, "--asds", "3")
	content := bytes.Repeat([]byte("stones "), 300_000)
	for round := range 2 {
		base, stop := serveObjects(t, data)
		u := fmt.Sprintf("%suser/a/%d", base, round)
		if status, body := httpDo(t, "PUT", u, content, ""); status != 201 {
			t.Fatalf("put: %d %s", status, body)
		}
		if status, body := httpDo(t, "GET", u, nil, "bytes=700000-700006"); status != 206 || body != "stones " {
			t.Errorf("a range: %d %q", status, body)
		}
		if _, body := httpDo(t, "GET", u, nil, ""); body != string(content) {
			t.Errorf("%d bytes of %d", len(body), len(content))
		}
		if _, body := httpDo(t, "GET", base+"user/?prefix=a/", nil, ""); !strings.Contains(body, fmt.Sprintf(`"path":"/user/a%%2F%d"`, round)) {
			t.Errorf("list: %s", body)
		}
		if status, body := httpDo(t, "PUT", base+"fs/x", content, ""); status != 403 {
			t.Errorf("a put into the filesystem's namespace: %d %s", status, body)
		}
		stop()
		if round == 0 {
			p.stop()
		}
	}
	r := gabion(t, "object", "serve", "--data", data, "--listen", "0.0.0.0:0")
	r.want(t, 2, "give a loopback address")
}

// serveObjects starts `gabion object serve` and returns where it serves, and a function that ends it.
func serveObjects(t *testing.T, data string) (base string, stop func()) {
	t.Helper()
	cmd := exec.Command(binary, "object", "serve", "--data", data, "--listen", "127.0.0.1:0")
	cmd.Env = environment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	base, ok := strings.CutPrefix(strings.TrimSpace(line), "ready: objects=")
	if !ok {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("not a ready line: %q\n%s", line, stderr.String())
	}
	watchdog.Stop()
	ended := false
	end := func(s syscall.Signal) error {
		if ended {
			return nil
		}
		ended = true
		cmd.Process.Signal(s)
		return cmd.Wait()
	}
	t.Cleanup(func() { end(syscall.SIGKILL) })
	return base, func() {
		t.Helper()
		if err := end(syscall.SIGTERM); err != nil {
			t.Errorf("gabion object serve: %v\n%s", err, stderr.String())
		}
	}
}

func httpDo(t *testing.T, method, url string, body []byte, bytesRange string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if bytesRange != "" {
		req.Header.Set("Range", bytesRange)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}
