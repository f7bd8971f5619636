package mounttest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// appendMany appends from several processes at once: no record is lost, torn or overwritten.
func appendMany(c *kase) {
	const writers, records = 4, 300
	c.write(c.path("log"), "")
	var cmds []*exec.Cmd
	for w := range writers {
		cmd := Role("append", c.path("log"), fmt.Sprint(w), fmt.Sprint(records))
		cmd.Stderr = os.Stderr
		c.ok(cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		c.ok(cmd.Wait())
	}
	log, err := os.ReadFile(c.path("log"))
	c.ok(err)
	next := map[byte]int{}
	for _, line := range bytes.Split(bytes.TrimSuffix(log, []byte("\n")), []byte("\n")) {
		want := record(int(line[0]-'0'), next[line[0]])
		if string(line)+"\n" != want {
			c.Fatalf("a record is %.40q, want %.40q", line, want)
		}
		next[line[0]]++
	}
	for w := range writers {
		if n := next[byte('0'+w)]; n != records {
			c.Errorf("%d of %d records of writer %d are there", n, records, w)
		}
	}
}

func record(w, i int) string {
	return fmt.Sprintf("%d:%d:%s\n", w, i, bytes.Repeat([]byte{'a' + byte(w)}, i%700))
}

func appender(args []string) {
	w := int(args[1][0] - '0')
	var n int
	fmt.Sscan(args[2], &n)
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		panic(err)
	}
	for i := range n {
		if _, err := f.WriteString(record(w, i)); err != nil {
			panic(err)
		}
	}
	if err := f.Close(); err != nil {
		panic(err)
	}
}

// sharedMmap: what one process writes to a mapping, another sees in its mapping and by read(2), and the
// other way round.
func sharedMmap(c *kase) {
	const size = 64 << 10
	path := c.path("f")
	fd := c.open(path, unix.O_RDWR|unix.O_CREAT, 0o644)
	c.ok(unix.Ftruncate(fd, size))
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	c.ok(err)
	other := Role("mmap", path)
	in, err := other.StdinPipe()
	c.ok(err)
	out, err := other.StdoutPipe()
	c.ok(err)
	other.Stderr = os.Stderr
	c.ok(other.Start())
	ack := make([]byte, 1)
	for i := range 20 {
		binary.LittleEndian.PutUint64(mem[i*3000:], uint64(i)+1)
		c.ok(binary.Write(in, binary.LittleEndian, uint64(i))) // now it reads there, and answers beside
		_, err := io.ReadFull(out, ack)
		c.ok(err)
		if got := binary.LittleEndian.Uint64(mem[i*3000+8:]); got != uint64(i)+1001 {
			c.Fatalf("round %d: the mapping has %d", i, got)
		}
		buf := make([]byte, 16)
		_, err = unix.Pread(fd, buf, int64(i*3000))
		c.ok(err)
		if binary.LittleEndian.Uint64(buf[8:]) != uint64(i)+1001 {
			c.Fatalf("round %d: read says %x", i, buf)
		}
		_, err = unix.Pwrite(fd, []byte("pwrite"), int64(i*3000+16))
		c.ok(err)
		if string(mem[i*3000+16:i*3000+22]) != "pwrite" {
			c.Fatalf("round %d: pwrite does not show in the mapping", i)
		}
	}
	in.Close()
	c.ok(other.Wait())
	want := bytes.Clone(mem)
	c.ok(unix.Msync(mem, unix.MS_SYNC))
	c.ok(unix.Munmap(mem))
	c.wantFile(path, string(want))

	// a private mapping changes nothing, and past the end of the file there is SIGBUS's page, not data
	mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	c.ok(err)
	copy(mem, "private")
	c.ok(unix.Munmap(mem))
	c.wantFile(path, string(want))
	ro := c.open(path, unix.O_RDONLY, 0)
	_, err = unix.Mmap(ro, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	c.want(err, unix.EACCES)
}

func mapper(args []string) {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	for {
		var i uint64
		if err := binary.Read(os.Stdin, binary.LittleEndian, &i); err != nil {
			return
		}
		if got := binary.LittleEndian.Uint64(mem[i*3000:]); got != i+1 {
			panic(fmt.Sprint("round ", i, ": the other process' mapping has ", got))
		}
		binary.LittleEndian.PutUint64(mem[i*3000+8:], i+1001)
		os.Stdout.Write([]byte{1})
	}
}
