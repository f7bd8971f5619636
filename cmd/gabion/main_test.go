package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binary is gabion, built once for all tests of this package.
var binary string

func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "gabion-cmd-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gabion")
		if out, err := exec.Command("go", append(append([]string{"build"}, raceFlags...), "-o", binary, ".")...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go build: %w\n%s", err, out)
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// result of a command that has ended.
type result struct {
	code     int
	out, err string
}

// gabion runs one command to its end. It is given up after a while, so that nothing hangs.
func gabion(t *testing.T, args ...string) result {
	t.Helper()
	return gabionIn(t, "", args...)
}

// gabionIn is gabion with standard input.
func gabionIn(t *testing.T, in string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(in)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("gabion %s: hangs; it printed\n%s%s", strings.Join(args, " "), &out, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("gabion %s: %v", strings.Join(args, " "), err)
	}
	if left, _ := os.ReadDir(cmd.Dir); len(left) > 0 {
		t.Errorf("gabion %s left %s in the working directory", strings.Join(args, " "), left[0].Name())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// environment is ours without what would change gabion's defaults.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GABION_") {
			env = append(env, v)
		}
	}
	return env
}

// want checks the exit code, and that the messages contain every one of texts.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	for _, s := range texts {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("does not say %q:\n%s%s", s, r.out, r.err)
		}
	}
}
