package harness

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Run runs a command of gabion and returns what it printed, and whether it succeeded.
func Run(t testing.TB, args ...string) (out string, ok bool) {
	t.Helper()
	raw, err := exec.Command(Binary(t), args...).CombinedOutput()
	return string(raw), err == nil
}

// Must is Run of a command that has to succeed.
func Must(t testing.TB, args ...string) string {
	t.Helper()
	out, ok := Run(t, args...)
	if !ok {
		t.Fatalf("gabion %s: %s", strings.Join(args, " "), out)
	}
	return out
}

// Identity makes the identity of a node, anna, which serves disks and asks for them, and returns its directory.
func Identity(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "anna")
	Must(t, "cluster", "init", "--data", dir, "--id", "anna", "--listen", "127.0.0.1:0")
	return dir
}

// Loopback returns an address of the loopback network that no other process has, most likely: a port of it is
// not taken by another while nobody listens on it.
func Loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
}

// DiskServer is a `gabion asd serve`. Its methods end the test when something is not as it should be.
type DiskServer struct {
	t        testing.TB
	identity string
	listen   string // which stays over restarts
	child    *Child

	Capacity string   // of each disk; "": 512MiB
	Via      string   // address that others are told; "": the one it listens on
	Address  string   // at which others reach it
	Dirs     []string // of its disks
	Places   []string // addresses of the disks, in that order
}

// ServeDisks starts a server of disks.
func ServeDisks(t testing.TB, identity string, dirs ...string) *DiskServer {
	t.Helper()
	s := NewDiskServer(t, identity, dirs...)
	s.Start()
	return s
}

// NewDiskServer prepares a server that does not run yet.
func NewDiskServer(t testing.TB, identity string, dirs ...string) *DiskServer {
	return &DiskServer{t: t, identity: identity, Dirs: dirs, listen: Loopback() + ":0"}
}

const serverLimit = time.Minute

var (
	servedLine = regexp.MustCompile(`(?m)^disk (asd://(\S+)/[0-9a-f]{32}) in (\S+): (\S+)`)
	serveReady = regexp.MustCompile(`(?m)^ready: asd=(\S+) node=anna cluster=[0-9a-f]{32}$`)
)

// Start starts it, at the address that it had before.
func (s *DiskServer) Start() {
	s.t.Helper()
	args := []string{"asd", "serve", "--identity", s.identity, "--listen", s.listen, "--capacity", cmp.Or(s.Capacity, "512MiB")}
	if s.Via != "" {
		args = append(args, "--advertise", s.Via)
	}
	for _, d := range s.Dirs {
		args = append(args, "--dir", d)
	}
	s.child = Go(s.t, "asd serve", exec.Command(Binary(s.t), args...))
	WaitFor(s.t, serverLimit, "the server to be ready", func() bool {
		select {
		case <-s.child.Ended():
			s.t.Fatalf("the server has ended: %s", s.child.Output())
		default:
		}
		return serveReady.MatchString(s.child.Output())
	})
	s.Places = nil
	for _, m := range servedLine.FindAllStringSubmatch(s.child.Output(), -1) {
		s.Places, s.Address = append(s.Places, m[1]), m[2]
	}
	if s.Via == "" {
		s.listen = s.Address
	}
	if len(s.Places) != len(s.Dirs) {
		s.t.Fatalf("it serves %v:\n%s", s.Places, s.child.Output())
	}
}

// Slow has others reach the server through a link that can be made slow. It is to be called before the first Start.
func (s *DiskServer) Slow() *SlowLink {
	s.t.Helper()
	l, err := net.Listen("tcp", s.listen)
	if err != nil {
		s.t.Fatal(err)
	}
	s.listen = l.Addr().String()
	l.Close()
	link := NewSlowLink(s.t, s.listen)
	s.Via = link.Address
	return link
}

// Kill ends the process as a crash does.
func (s *DiskServer) Kill() {
	s.child.Kill()
	<-s.child.Ended()
}

// Stop ends the process as an operator does, and wants it to exit with 0.
func (s *DiskServer) Stop() {
	s.t.Helper()
	s.child.Signal(syscall.SIGTERM)
	if out, err := s.child.Wait(serverLimit); err != nil {
		s.t.Errorf("asd serve after SIGTERM: %v\n%s", err, out)
	}
}
