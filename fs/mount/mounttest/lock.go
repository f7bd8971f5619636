package mounttest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptr[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }

// locks: flock, POSIX and OFD locks exclude other processes, wait for them, and go with them.
func locks(c *kase) {
	c.write(c.path("f"), "content")
	a, b := startLocker(c), startLocker(c)
	for _, kind := range []string{"flock", "posix", "ofd"} {
		a.do("lock", kind)
		if got := b.do("try", kind); !strings.Contains(got, "resource temporarily unavailable") {
			c.Errorf("%s: the second process says %q", kind, got)
		}
		b.send("lock", kind) // waits
		select {
		case got := <-b.answers:
			c.Errorf("%s: the second process did not wait: %q", kind, got)
		case <-time.After(20 * time.Millisecond):
		}
		a.do("unlock", kind)
		if got := b.answer(); got != "ok" {
			c.Errorf("%s: after waiting: %q", kind, got)
		}
		if got := a.do("try", kind); got == "ok" {
			c.Errorf("%s: both have it", kind)
		}
		b.do("unlock", kind)
		if got := a.do("try", kind); got != "ok" {
			c.Errorf("%s: %q", kind, got)
		}
		a.do("unlock", kind)
	}
	// a lock of a process that dies is free
	a.do("lock", "posix")
	a.do("lock", "flock")
	b.send("lock", "posix")
	c.ok(a.cmd.Process.Kill())
	_ = a.cmd.Wait()
	if got := b.answer(); got != "ok" {
		c.Errorf("after a death: %q", got)
	}
	if got := b.do("lock", "flock"); got != "ok" {
		c.Errorf("after a death: %q", got)
	}
	// ranges
	d := startLocker(c)
	if got := d.do("try", "range"); got != "ok" { // past what b has
		c.Errorf("another range: %q", got)
	}
	b.in.Close()
	d.in.Close()
	c.ok(b.cmd.Wait())
	c.ok(d.cmd.Wait())
}

type lockerProc struct {
	c       *kase
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string
}

func startLocker(c *kase) *lockerProc {
	p := &lockerProc{c: c, cmd: Role("locker", c.path("f")), answers: make(chan string)}
	var err error
	p.in, err = p.cmd.StdinPipe()
	c.ok(err)
	out, err := p.cmd.StdoutPipe()
	c.ok(err)
	p.cmd.Stderr = os.Stderr
	c.ok(p.cmd.Start())
	go func() {
		defer close(p.answers)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.answers <- lines.Text()
		}
	}()
	return p
}

func (p *lockerProc) send(what, kind string) { fmt.Fprintln(p.in, what, kind) }

func (p *lockerProc) answer() string {
	select {
	case a := <-p.answers:
		return a
	case <-time.After(2 * time.Minute):
		p.c.Fatal("a process waits for a lock that is free")
		return ""
	}
}

func (p *lockerProc) do(what, kind string) string {
	p.send(what, kind)
	return p.answer()
}

func locker(args []string) {
	fd, err := unix.Open(args[0], unix.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		what, kind, _ := strings.Cut(lines.Text(), " ")
		if err := lockOp(fd, what, kind); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}

func lockOp(fd int, what, kind string) error {
	if kind == "flock" {
		return unix.Flock(fd, map[string]int{"lock": unix.LOCK_EX, "try": unix.LOCK_EX | unix.LOCK_NB, "unlock": unix.LOCK_UN}[what])
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 100}
	if kind == "range" {
		lk.Start = 100
	}
	if what == "unlock" {
		lk.Type = unix.F_UNLCK
	}
	cmd := unix.F_SETLK
	switch {
	case what == "lock" && kind == "ofd":
		cmd = unix.F_OFD_SETLKW
	case kind == "ofd":
		cmd = unix.F_OFD_SETLK
	case what == "lock":
		cmd = unix.F_SETLKW
	}
	for {
		err := unix.FcntlFlock(uintptr(fd), cmd, &lk)
		if err != unix.EINTR {
			return err
		}
	}
}
