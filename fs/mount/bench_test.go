package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/fs/mount"
	"github.com/gabionfs/gabion/fs/mount/mounttest"
)

// BenchmarkKernel measures what the crossing into the kernel and back costs, over the reference model. The
// operations run in a child, which takes the time.
func BenchmarkKernel(b *testing.B) {
	for _, op := range []struct {
		name    string
		threads int
		bytes   int64
	}{
		{"create", 1, 0}, {"create", 8, 0}, {"stat", 1, 0}, {"stat", 8, 0}, {"statnew", 1, 0}, {"list", 1, 0}, {"rename", 1, 0}, {"rename", 8, 0},
		{"unlink", 1, 0}, {"unlink", 8, 0}, {"small", 1, 4096}, {"small", 8, 4096}, {"pwrite4k", 1, 4096}, {"pwrite4k", 8, 4096},
		{"write1m", 1, 1 << 20}, {"read1m", 1, 1 << 20}, {"reread1m", 1, 1 << 20},
	} {
		b.Run(fmt.Sprintf("%s/%d", op.name, op.threads), func(b *testing.B) {
			m := mountModel(b, mount.Options{})
			b.ResetTimer()
			cmd := mounttest.Role("bench", m.dir, op.name, fmt.Sprint(op.threads), fmt.Sprint(b.N))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			ns, err := strconv.ParseInt(string(out), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(ns)/float64(b.N), "ns/op")
			b.ReportMetric(float64(b.N)/(float64(ns)/1e9), "ops/s")
			if op.bytes > 0 {
				b.ReportMetric(float64(b.N)*float64(op.bytes)/(float64(ns)/1e3), "MB/s")
			}
		})
	}
}

// benchOps are what a child measures: prepare makes what n operations need, and op does the i-th.
func benchOps(dir string) map[string]struct {
	prepare func(n int) error
	op      func(i int) error
} {
	const blocks = 64 // MiB of a file that is written or read over and over
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint("d", i%10), fmt.Sprint("f", i)) }
	var fd atomic.Int64
	mib := make([]byte, 1<<20)
	create := func(i int) error { return createFile(path(i), nil) }
	files := func(n int) error { return eachOf(n, 1, create) }
	open := func(flags, fill int) func(int) error {
		return func(int) error {
			f, err := unix.Open(filepath.Join(dir, "file"), flags|unix.O_CREAT, 0o644)
			fd.Store(int64(f))
			for i := 0; i < fill && err == nil; i++ {
				_, err = unix.Pwrite(f, mib, int64(i)<<20)
			}
			return err
		}
	}
	pwrite := func(i int) error {
		_, err := unix.Pwrite(int(fd.Load()), mib[:4096], int64(i%10_000)*4096)
		return err
	}
	pread := func(i int) error {
		_, err := unix.Pread(int(fd.Load()), mib, int64(i%blocks)<<20)
		return err
	}
	stat := func(i int) error {
		var st unix.Stat_t
		return unix.Lstat(path(i), &st)
	}
	type bench = struct {
		prepare func(n int) error
		op      func(i int) error
	}
	return map[string]bench{
		"create": {nil, create},
		"stat":   {func(n int) error { return files(min(n, 10_000)) }, func(i int) error { return stat(i % 10_000) }},
		"statnew": {nil, func(i int) error { // a name that is not there, asked for the first time
			if err := stat(i); err != unix.ENOENT {
				return err
			}
			return nil
		}},
		"list": {func(int) error { return files(1000) }, func(i int) error {
			_, err := os.ReadDir(filepath.Join(dir, fmt.Sprint("d", i%10)))
			return err
		}},
		"rename":   {files, func(i int) error { return unix.Rename(path(i), path(i)+".r") }},
		"unlink":   {files, func(i int) error { return unix.Unlink(path(i)) }},
		"small":    {nil, func(i int) error { return createFile(path(i), mib[:4096]) }},
		"pwrite4k": {open(unix.O_RDWR, 40), pwrite},
		"write1m": {open(unix.O_WRONLY, blocks), func(i int) error {
			_, err := unix.Pwrite(int(fd.Load()), mib, int64(i%blocks)<<20)
			return err
		}},
		"read1m": {open(unix.O_RDWR, blocks), func(i int) error {
			if i%blocks == 0 {
				if err := unix.Fadvise(int(fd.Load()), 0, 0, unix.FADV_DONTNEED); err != nil {
					return err
				}
			}
			return pread(i)
		}},
		"reread1m": {open(unix.O_RDWR, blocks), pread},
	}
}

func createFile(path string, content []byte) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if len(content) > 0 {
		if _, err := unix.Write(fd, content); err != nil {
			return err
		}
	}
	return unix.Close(fd)
}

func eachOf(n, threads int, fn func(i int) error) error {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for t := range threads {
		wg.Go(func() {
			for i := t; i < n && failed.Load() == nil; i += threads {
				if err := fn(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func bench(args []string) {
	dir, name := args[0], args[1]
	var threads, n int
	must := func(err error) {
		if err != nil {
			panic(fmt.Sprint(name, ": ", err))
		}
	}
	_, err := fmt.Sscan(args[2]+" "+args[3], &threads, &n)
	must(err)
	for i := range 10 {
		must(os.Mkdir(filepath.Join(dir, fmt.Sprint("d", i)), 0o755))
	}
	b := benchOps(dir)[name]
	if b.prepare != nil {
		must(b.prepare(n))
	}
	start := time.Now()
	must(eachOf(n, threads, b.op))
	fmt.Print(time.Since(start).Nanoseconds())
}
