package dav_test

import (
	"bytes"
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// litmusSuites are the suites of litmus 0.13 and how many tests each has.
var litmusSuites = []struct {
	name  string
	tests int
}{{"basic", 16}, {"copymove", 13}, {"props", 30}, {"locks", 41}, {"http", 4}}

// TestLitmus runs the public WebDAV conformance suite. Every test runs, none is skipped, none fails.
func TestLitmus(t *testing.T) {
	bin, err := exec.LookPath("litmus")
	if err != nil {
		t.Skip("litmus is not installed: apt-get install litmus")
	}
	summary := regexp.MustCompile("summary for `([a-z]+)': of (\\d+) tests run: (\\d+) passed, (\\d+) failed")
	overBoth(t, func(t *testing.T, over func(testing.TB) func(*options)) {
		for _, prefix := range []string{"", "/dav"} {
			s := newTestServer(t, over(t), func(o *options) { o.Prefix = prefix })
			for _, suite := range litmusSuites {
				t.Run("at "+prefix+"/ "+suite.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
					defer cancel()
					cmd := exec.CommandContext(ctx, bin, s.URL+prefix+"/")
					cmd.Dir = t.TempDir()
					cmd.Env = append(cmd.Environ(), "TESTS="+suite.name)
					out, err := cmd.CombinedOutput()
					m := summary.FindSubmatch(out)
					if err != nil || m == nil {
						t.Fatalf("%v\n%s", err, out)
					}
					run, _ := strconv.Atoi(string(m[2]))
					if string(m[3]) != string(m[2]) || string(m[4]) != "0" || run != suite.tests {
						t.Errorf("want %d of %d passed\n%s", suite.tests, suite.tests, out)
					}
					for _, word := range []string{"WARNING", "SKIPPED", "skipped"} {
						if bytes.Contains(out, []byte(word)) {
							t.Errorf("a test has %s\n%s", word, out)
						}
					}
				})
			}
		}
	})
}
