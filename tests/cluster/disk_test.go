package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/tests/harness"
)

const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878

	// maxFreeze is how long a filesystem stays frozen at the most, whatever becomes of the test.
	maxFreeze = time.Minute
)

// freeze is the role of a process that holds a filesystem frozen until its standard input ends: then nothing
// that is written to the filesystem comes to an end.
func freeze(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		return os.NewSyscallError("FIFREEZE", err)
	}
	fmt.Println("frozen")
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	select {
	case <-end:
	case <-time.After(maxFreeze):
	}
	return os.NewSyscallError("FITHAW", unix.IoctlSetInt(int(f.Fd()), fiThaw, 0))
}

// stall makes the disk of a node stall, until the function that it returns is called.
func (n *node) stall() (thaw func() error, err error) {
	if n.loop == nil {
		return nil, errors.New("no filesystem of its own")
	}
	cmd, err := harness.RoleCommand("freeze", n.loop.Dir)
	if err != nil {
		return nil, err
	}
	// It outlives a test that is killed, and thaws: its input ends then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line := make([]byte, len("frozen"))
	if _, err := io.ReadFull(out, line); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	return func() error { return errors.Join(in.Close(), cmd.Wait()) }, nil
}
