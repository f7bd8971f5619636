package disks

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// told reports whether standard input has ended, which asks the role to come to its end.
func told() func() bool {
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	return stop.Load
}

// watch reads a tree over and over and wants it to have the sum that a file holds.
func watch(args []string) error {
	dir, sum := args[0], args[1]
	want, err := os.ReadFile(sum)
	if err != nil {
		return err
	}
	stop := told()
	for n := 1; ; n++ {
		if err := forget(dir); err != nil {
			return err
		}
		var got bytes.Buffer
		if err := harness.Sum(&got, dir); err != nil {
			return fmt.Errorf("reading it for the %dth time: %w", n, err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			return fmt.Errorf("the tree has changed:\n%s", difference(got.String(), string(want)))
		}
		if stop() {
			fmt.Printf("read %d times\n", n)
			return nil
		}
	}
}

func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "want " + w[i] + "\ngot  " + g[i]
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// forget drops a tree's content from the kernel's cache.
func forget(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}

// churn writes files into a directory, syncs some, reads them back, removes and renames some, until it is
// told to stop. Then it reads all that are there once more.
func churn(args []string) error {
	dir := args[0]
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r := harness.Rand(seed, "churn")
	there := make(map[string][sha256.Size]byte)
	var names []string
	stop := told()
	n := 0
	for ; !stop(); n++ {
		name := filepath.Join(dir, fmt.Sprint("f", n))
		size := r.IntN(60_000)
		if r.IntN(10) == 0 {
			size = r.IntN(9 << 20)
		}
		p := harness.Noise(r, size)
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if _, err := f.Write(p); err != nil {
			return err
		}
		if r.IntN(2) == 0 {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
		there[name] = sha256.Sum256(p)
		names = append(names, name)
		i := r.IntN(len(names))
		if err := reread(names[i], there[names[i]]); err != nil {
			return err
		}
		if len(names) > 150 || r.IntN(5) == 0 {
			if err := os.Remove(names[i]); err != nil {
				return err
			}
			delete(there, names[i])
			names[i] = names[len(names)-1]
			names = names[:len(names)-1]
		}
	}
	for name, sum := range there {
		if err := reread(name, sum); err != nil {
			return err
		}
	}
	fmt.Printf("wrote %d files, %d are left\n", n, len(there))
	return nil
}

func reread(name string, want [sha256.Size]byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	p, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if sha256.Sum256(p) != want {
		return fmt.Errorf("%s has other content than was written", name)
	}
	return nil
}
