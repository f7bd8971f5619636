package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

// TestTree copies a tree of sources in, and compares it byte by byte with modes, times and links: at once,
// after a restart, out of a tar archive made of it, and over WebDAV.
func TestTree(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	src := filepath.Join(t.TempDir(), "src")
	g.Shell(limit, `mkdir "$1"; cp -a "$2" "$3" "$1"; ln -s net/http "$1/symlink"; ln "$1/net/net.go" "$1/hard"; mkfifo -m 640 "$1/fifo"; chmod 7751 "$1/net"; touch -h -d 1969-12-31T23:59:58.123456789Z "$1/symlink" "$1/hard"`,
		src, goroot(t, "net"), goroot(t, "crypto"))
	want := harness.SumNative(t, src)
	g.Shell(limit, `cp -a "$1" "$2"`, src, g.Path("tree"))
	harness.Same(t, "after cp -a", g.Sum(g.Path("tree"), limit), want)
	g.Shell(limit, `cd "$1"; tar --format=posix -cf tree.tar tree; mkdir out; tar xpf tree.tar -C out; mkdir piped; tar --format=posix -c tree | tar xp -C piped`, g.Mount)
	harness.Same(t, "after tar", g.Sum(g.Path("out", "tree"), limit), want)
	harness.Same(t, "after tar through a pipe", g.Sum(g.Path("piped", "tree"), limit), want)
	g.Restart()
	for _, dir := range []string{"tree", "out/tree"} {
		harness.Same(t, "after a restart", g.Sum(g.Path(dir), limit), want)
	}
	g.Role(limit, "davsum", g.DAV+"tree", src)
	g.Shell(limit, `cd "$1"; rm -r tree out piped tree.tar; test -z "$(ls -A)"`, g.Mount)
	g.Clean()
	g.Stop()
}

// TestShapes has files that are unusual: sparse, past 4 GiB, with the longest names and paths, with holes
// punched, removed while open, without a name.
func TestShapes(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	g.Shell(limit, `
		cd "$1"
		truncate -s 6G sparse; printf end | dd of=sparse bs=1 seek=5368709120 conv=notrunc status=none
		test $(stat -c %s sparse) = 6442450944
		test $(du -k sparse | cut -f1) -lt 10000
		test "$(dd if=sparse bs=1 skip=5368709120 count=3 status=none)" = end
		cp --sparse=always sparse again; test $(du -k again | cut -f1) -lt 10000; test "$(tail -c +5368709121 again | head -c 3)" = end
		head -c 3000000 /dev/urandom > dense; cp dense punched
		fallocate -p -o 1000000 -l 1000000 punched
		cmp -n 1000000 dense punched; cmp -i 2000000 dense punched
		test "$(dd if=punched bs=1000000 skip=1 count=1 status=none | tr -d '\0' | wc -c)" = 0
		n=$(printf %255s | tr ' ' n); echo x > $n; test "$(cat $n)" = x; ! touch ${n}n 2>/dev/null
		exec 3> gone; echo kept >&3; rm gone; exec 4< /proc/self/fd/3; test "$(cat <&4)" = kept; exec 3>&- 4<&-
		rm -r "$1"/*
	`, g.Mount)
	g.Shell(limit, `cd "$1"; d=$(printf %200s | tr ' ' d); for i in $(seq 19); do mkdir $d; cd $d; done; echo deep > f; cat f; rm -r "$1"/d*`, g.Mount)
	g.Clean()
	g.Stop()
}

// TestCrowd puts a hundred thousand entries into one directory.
func TestCrowd(t *testing.T) {
	g := harness.Start(t, harness.Options{})
	n := harness.Scale(12_000, 100_000)
	g.Role(limit, "crowd", g.Mount, strconv.Itoa(n))
	g.Restart()
	if got := strings.TrimSpace(g.Shell(limit, `ls -U "$1/crowd" | wc -l`, g.Mount)); got != strconv.Itoa(n) {
		t.Errorf("%s entries after a restart, want %d", got, n)
	}
	g.Shell(limit, `rm -r "$1/crowd"`, g.Mount)
	g.Clean()
	g.Stop()
}

// crowd makes many entries, lists them in pieces while others come and go, and counts.
func crowd(args []string) error {
	dir := filepath.Join(args[0], "crowd")
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := unix.Mknod(filepath.Join(dir, fmt.Sprintf("entry-%d", i)), unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	seen := make(map[string]int)
	for i := 0; ; i++ {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			seen[name]++
		}
		if len(names) == 0 {
			break
		}
		if err != nil {
			return err
		}
		come := filepath.Join(dir, fmt.Sprintf("passing-%d", i))
		if err := errors.Join(os.WriteFile(come, nil, 0o644), os.Remove(come)); err != nil {
			return err
		}
	}
	for i := range n {
		if c := seen[fmt.Sprintf("entry-%d", i)]; c != 1 {
			return fmt.Errorf("entry %d was listed %d times", i, c)
		}
	}
	return nil
}
