package mounttest

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dirent is an entry as getdents(2) tells it.
type dirent struct {
	name string
	off  int64
}

func readDirents(fd int, buf []byte) ([]dirent, error) {
	n, err := unix.Getdents(fd, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	var entries []dirent
	for b := buf[:n]; len(b) > 0; {
		length := int(b[16]) | int(b[17])<<8
		off := int64(0)
		for i := 7; i >= 0; i-- {
			off = off<<8 | int64(b[8+i])
		}
		name, _, _ := strings.Cut(string(b[19:length]), "\x00")
		entries = append(entries, dirent{name, off})
		b = b[length:]
	}
	return entries, nil
}

func readNames(fd int) ([]string, error) {
	var names []string
	for buf := make([]byte, 64<<10); ; {
		entries, err := readDirents(fd, buf)
		if err != nil || len(entries) == 0 {
			return names, err
		}
		for _, e := range entries {
			if e.name != "." && e.name != ".." {
				names = append(names, e.name)
			}
		}
	}
}

// seekDir goes back to positions of a directory that changes.
func seekDir(c *kase) {
	const n = 500
	for i := range n {
		c.write(c.path(fmt.Sprint("stay", i)), "")
		c.write(c.path(fmt.Sprint("go", i)), "")
	}
	fd := c.open(c.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	small := make([]byte, 700)
	var all []dirent
	for {
		entries, err := readDirents(fd, small)
		if c.ok(err); len(entries) == 0 {
			break
		}
		all = append(all, entries...)
	}
	if len(all) != 2*n+2 || !slices.ContainsFunc(all[:2], func(d dirent) bool { return d.name == ".." }) {
		c.Fatalf("%d entries, first %v", len(all), all[:2])
	}
	for i := range n {
		c.ok(os.Remove(c.path(fmt.Sprint("go", i))))
		c.write(c.path(fmt.Sprint("came", i)), "")
	}
	for _, from := range []int{0, 1, 2, 3, 77, 500, 998} {
		_, err := unix.Seek(fd, all[from].off, unix.SEEK_SET)
		c.ok(err)
		names, err := readNames(fd)
		c.ok(err)
		seen := map[string]int{}
		for _, name := range names {
			seen[name]++
		}
		for _, d := range all[from+1:] {
			if strings.HasPrefix(d.name, "stay") && seen[d.name] != 1 {
				c.Fatalf("from %d, %q is listed %d times", from, d.name, seen[d.name])
			}
			delete(seen, d.name)
		}
		for name := range seen {
			if strings.HasPrefix(name, "stay") || strings.HasPrefix(name, "go") {
				c.Fatalf("from %d, %q is listed", from, name)
			}
		}
	}
}
