package harness

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// common are the roles that every package's children can play.
var common = map[string]Role{
	"sum": func(args []string) error { return Sum(os.Stdout, args[0]) },
}

// Sum writes a line for everything below dir, in order of path: type and mode, links, owner, size, time of
// change in nanoseconds, path, and the content's SHA-256 or the link's target. Two trees are equal when
// their sums are.
func Sum(w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		size, links, content := fi.Size(), uint64(st.Nlink), ""
		switch fi.Mode().Type() {
		case 0:
			if content, err = sumFile(path, fi.Size()); err != nil {
				return err
			}
		case fs.ModeSymlink:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		case fs.ModeDir:
			size, links = 0, 0 // filesystems differ in these
		}
		_, err = fmt.Fprintf(w, "%v %d %d:%d %d %d %q %s\n", fi.Mode(), links, st.Uid, st.Gid, size, fi.ModTime().UnixNano(), rel, content)
		return err
	})
}

func sumFile(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n != size {
		err = fmt.Errorf("%s: read %d bytes of %d", path, n, size)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// Sum returns the sum of a tree, made by a child. See Sum.
func (g *Gabion) Sum(dir string, limit time.Duration) string {
	g.t.Helper()
	return g.Role(limit, "sum", dir)
}

// SumNative returns the sum of a tree outside of any mount of gabion.
func SumNative(t testing.TB, dir string) string {
	t.Helper()
	var b bytes.Buffer
	if err := Sum(&b, dir); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Same wants two sums to be equal and shows the first lines that differ.
func Same(t testing.TB, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	have := make(map[string]bool, len(g))
	for _, line := range g {
		have[line] = true
	}
	shown := 0
	for _, line := range w {
		if have[line] {
			delete(have, line)
		} else if shown++; shown <= 20 {
			t.Logf("want %s", line)
		}
	}
	for _, line := range g {
		if have[line] {
			if shown++; shown <= 40 {
				t.Logf("got  %s", line)
			}
		}
	}
	t.Errorf("%s: %d lines, want %d; the first of %d that differ are above", what, len(g), len(w), shown)
}

// Tree makes a tree below dir that has everything content can be: empty, small, of block sizes and their
// neighbours, large, compressible and not, twice the same, sparse, linked. It takes about the given bytes.
func Tree(t testing.TB, dir string, r *rand.Rand, bytes int64) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o755))
	sizes := []int64{0, 1, 4095, 4096, 4097, 65536, 1<<20 - 1, 1 << 20, 4<<20 - 1, 4 << 20, 4<<20 + 1}
	cur, n := dir, 0
	for left := bytes; left > 0; n++ {
		if n%25 == 24 {
			cur = filepath.Join(dir, fmt.Sprintf("d%d", n))
			must(os.Mkdir(cur, 0o755))
		}
		var size int64
		switch {
		case n < len(sizes):
			size = sizes[n]
		case r.IntN(8) == 0:
			size = r.Int64N(3 << 20)
		default:
			size = r.Int64N(40_000)
		}
		content := Noise(r, int(size))
		if n%3 == 0 {
			content = Text(r, int(size))
		}
		path := filepath.Join(cur, fmt.Sprintf("f%d", n))
		must(os.WriteFile(path, content, 0o600|os.FileMode(r.IntN(0o100))))
		switch n % 40 {
		case 11:
			must(os.WriteFile(path+".same", content, 0o644))
		case 21:
			must(os.Link(path, path+".link"))
		case 31:
			must(os.Symlink(filepath.Base(path), path+".sym"))
		case 36:
			f, err := os.Create(path + ".sparse")
			must(err)
			_, err = f.WriteAt(content, 9<<20+int64(r.IntN(9999)))
			must(err)
			must(f.Truncate(13 << 20))
			must(f.Close())
		}
		left -= size + 1000
	}
}

// Noise returns n bytes that do not compress and hold no zero byte, so that zeroes that come from
// nowhere are seen.
func Noise(r *rand.Rand, n int) []byte {
	p := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			if p[i+j] = byte(v >> (8 * j)); p[i+j] == 0 {
				p[i+j] = 0xA5
			}
		}
	}
	return p[:n]
}

// Text returns n bytes that compress well.
func Text(r *rand.Rand, n int) []byte {
	words := strings.Fields("wire cage filled with broken stone no one is precious any few may be lost and the wall still holds back the sea")
	p := make([]byte, 0, n+10)
	for len(p) < n {
		p = append(append(p, words[r.IntN(len(words))]...), ' ')
	}
	return p[:n]
}

// DiskUsage returns the bytes that a folder outside of any mount of gabion takes on its disk.
func DiskUsage(t testing.TB, dir string) int64 {
	t.Helper()
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // a file that went while we looked
			}
			return err
		}
		fi, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
