package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// verify looks at a directory after a crash of the load that left the record in a file: everything must be
// in a state that it once had, no older than what was acknowledged. It prints what it looked at.
func verify(args []string) error {
	dir := args[0]
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return err
	}
	if err := inspect(dir, seed, rec); err != nil {
		return err
	}
	fmt.Printf("%d files, %d replaced, %d directories: %d operations, %d syncs, ended by: %s\n",
		len(rec.Files), len(rec.Replaced), len(rec.Dirs), rec.Ops, rec.Syncs, rec.Error)
	return nil
}

// inspect holds a directory against a record.
func inspect(dir string, seed uint64, rec record) error {
	var errs []error
	for name, p := range rec.Files {
		errs = append(errs, verifyFile(filepath.Join(dir, name), newHistory(seed, name), *p))
	}
	for name, p := range rec.Replaced {
		errs = append(errs, verifyReplaced(seed, dir, name, *p))
	}
	for name, p := range rec.Dirs {
		errs = append(errs, verifySequence(filepath.Join(dir, name), *p))
	}
	return errors.Join(errs...)
}

func verifyFile(path string, h *history, p progress) error {
	got, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && p.Acked == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s, synced at step %d of %d: %w", path, p.Acked, p.Started, err)
	}
	nearest, why := -1, ""
	for h.n < p.Started {
		h.next()
		if bytes.Equal(h.content, got) {
			if h.n >= p.Acked {
				return nil
			}
			nearest, why = h.n, "which is older than what was synced"
		}
	}
	if nearest < 0 {
		why = "which it never was: " + describe(got)
	}
	return fmt.Errorf("%s: has %d bytes, as after step %d, %s; synced at step %d of %d", path, len(got), nearest, why, p.Acked, p.Started)
}

// describe says what is suspicious of content that a file never had.
func describe(got []byte) string {
	run, longest, at := 0, 0, 0
	for i, b := range got {
		if b != 0 {
			run = 0
			continue
		}
		if run++; run > longest {
			longest, at = run, i-run+1
		}
	}
	return fmt.Sprintf("its longest run of zeroes is %d at %d", longest, at)
}

func verifyReplaced(seed uint64, dir, name string, p progress) error {
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && p.Acked == 0 {
			return nil
		}
		return err
	}
	for v := p.Acked; v <= p.Started; v++ {
		if v > 0 && bytes.Equal(got, version(seed, name, v)) {
			return nil
		}
	}
	for v := 1; v < p.Acked; v++ {
		if bytes.Equal(got, version(seed, name, v)) {
			return fmt.Errorf("%s is version %d, older than %d, which was synced; %d was begun", name, v, p.Acked, p.Started)
		}
	}
	return fmt.Errorf("%s: its %d bytes are no version of it; %d was synced, %d was begun", name, len(got), p.Acked, p.Started)
}

func verifySequence(dir string, p progress) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && p.Acked == 0 {
			return nil
		}
		return err
	}
	if len(list) == 0 {
		if p.Acked > 0 {
			return fmt.Errorf("%s is empty, though step %d was synced", dir, p.Acked)
		}
		return nil
	}
	var first, last int
	for i, e := range list {
		var n int
		if _, err := fmt.Sscanf(e.Name(), "e%07d", &n); err != nil {
			return fmt.Errorf("%s: %s", dir, e.Name())
		}
		if i == 0 {
			first = n
		} else if n != last+1 {
			return fmt.Errorf("%s: entry %d follows %d: later changes are there, earlier ones are not", dir, n, last)
		}
		last = n
		if err := checkEntry(dir, n); err != nil {
			return err
		}
	}
	if last < p.Acked || last > p.Started {
		return fmt.Errorf("%s: the last entry is %d; %d was synced, %d was begun", dir, last, p.Acked, p.Started)
	}
	buf := make([]byte, 32)
	n, err := unix.Getxattr(dir, seqAttr, buf)
	attr := 0
	if err == nil {
		if attr, err = strconv.Atoi(string(buf[:n])); err != nil {
			return err
		}
	} else if !errors.Is(err, unix.ENODATA) {
		return err
	}
	before, after := max(1, last-window), max(1, last-window+1) // the first entry until the removal, and from then on
	if attr != last && attr != last-1 || first != before && first != after || first == after && after != before && attr != last {
		return fmt.Errorf("%s: entries %d to %d with attribute %d: not a prefix of what was done", dir, first, last, attr)
	}
	return nil
}

// checkEntry wants entry i to be what add made.
func checkEntry(dir string, i int) error {
	path := entry(dir, i)
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	want := []fs.FileMode{fs.ModeDir, fs.ModeSymlink, fs.ModeSymlink, 0, 0}[i%5]
	if fi.Mode().Type() != want {
		return fmt.Errorf("%s is %v, want %v", path, fi.Mode(), want)
	}
	if want == fs.ModeSymlink {
		if to, err := os.Readlink(path); err != nil || to != "target of "+strconv.Itoa(i-(i%5-1)) {
			return fmt.Errorf("%s leads to %q, %v", path, to, err)
		}
	}
	return nil
}
