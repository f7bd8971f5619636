package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/raftkv"
)

// disk stands for the disk of a member's log, which can hang and fail.
type disk struct {
	hangs atomic.Pointer[chan struct{}] // closed when it answers again
	fails atomic.Bool
}

func (d *disk) sync(f *os.File) error {
	if hang := d.hangs.Load(); hang != nil {
		<-*hang
	}
	if d.fails.Load() {
		return unix.EIO
	}
	return unix.Fdatasync(int(f.Fd()))
}

// hang makes the disk hang until the returned function is called.
func (d *disk) hang() (release func()) {
	ch := make(chan struct{})
	d.hangs.Store(&ch)
	return sync.OnceFunc(func() {
		d.hangs.Store(nil)
		close(ch)
	})
}

// startOnDisks starts three members with disks that can be made to hang.
func startOnDisks(t *testing.T) (*cluster, []*disk) {
	disks := []*disk{{}, {}, {}}
	return startTuned(t, 3, func(i int, o *raftkv.Options) {
		o.SyncTimeout = 500 * time.Millisecond
		raftkv.WithSync(o, disks[i].sync)
	}), disks
}

// TestStalledSync: a leader whose log hangs acknowledges nothing, another member takes over, and the old
// leader follows once its disk answers.
func TestStalledSync(t *testing.T) {
	ctx := withPatience(t)
	c, disks := startOnDisks(t)
	c.steps(30)
	c.converge()
	i, old := c.leader()
	epoch := old.Epoch()
	release := disks[i].hang()
	defer release()

	write := make(chan error, 1)
	go func() {
		write <- old.Update(ctx, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte("hung"), nil); return nil })
	}()
	_, lead := c.leader(i)
	if err := put(lead, kv.Durable, "meanwhile", "x"); err != nil && !isUnavailable(err) {
		t.Error(err)
	}
	if err := <-write; !isUnavailable(err) { // also when another member had taken over before
		t.Errorf("an update that was waiting for the disk: %v", err)
	}
	if epoch != 0 && old.Epoch() == epoch {
		t.Error("the leadership of the hanging member goes on")
	}
	var not *kv.NotLeaderError
	if err := put(old, kv.Ordered, "k", "v"); !errors.As(err, &not) || not.Leader == string(c.servers[i].Address) {
		t.Errorf("an update at the hanging member: %v", err)
	}
	if err := old.View(ctx, kv.Linearizable, func(kv.Reader) error { return nil }); !errors.As(err, &not) {
		t.Errorf("a read at the hanging member: %v", err)
	}
	release()
	wait(t, "for the old leader to follow", func() bool { return put(c.must(), kv.Durable, "after", "x") == nil && old.Age() < time.Minute })
	c.converge()
	if err := old.Stats().Err; err != nil {
		t.Errorf("the member stopped: %v", err)
	}
}

// TestFailedSync: a leader whose log cannot be made durable acknowledges nothing and stops for good.
func TestFailedSync(t *testing.T) {
	c, disks := startOnDisks(t)
	c.steps(30)
	i, old := c.leader()
	disks[i].fails.Store(true)
	if err := put(old, kv.Durable, "k", "v"); !isUnavailable(err) {
		t.Errorf("an update that could not be made durable: %v", err)
	}
	wait(t, "for the member to stop", func() bool {
		_ = put(c.must(), kv.Durable, "k", "w") // reaches its log, whoever leads
		return old.Stats().Err != nil
	})
	disks[i].fails.Store(false) // a disk that seems to work again has lost something all the same
	if err := put(old, kv.Durable, "k", "v"); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("an update after the failure: %v", err)
	}
	_, lead := c.leader(i)
	wait(t, "for an update elsewhere", func() bool {
		_, lead = c.leader(i)
		return put(lead, kv.Durable, "kept", "x") == nil
	})
	c.stop(i)
	c.start(i)
	c.converge()
}

// TestNoQuorum: without a quorum calls end with an error that says why, and who is missing.
func TestNoQuorum(t *testing.T) {
	ctx := withPatience(t)
	c := startCluster(t, 3)
	c.steps(30)
	c.converge()
	i, lead := c.leader()
	c.wires[i].isolate(true)
	// At first the leader does not know. Nothing may be answered or acknowledged, and the deadline counts.
	short, cancel := context.WithTimeout(ctx, heartbeat/4)
	err := lead.View(short, kv.Linearizable, func(kv.Reader) error { return nil })
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) && !isUnavailable(err) {
		t.Errorf("a linearizable read without a quorum: %v", err)
	}
	short, cancel = context.WithTimeout(ctx, heartbeat/4)
	err = lead.Update(short, kv.Durable, func(tx kv.Txn) error { tx.Put("a", []byte("k"), nil); return nil })
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) && !isUnavailable(err) {
		t.Errorf("an update without a quorum: %v", err)
	}
	var none *kv.NoQuorumError
	wait(t, "for the leader to notice", func() bool {
		short, cancel := context.WithTimeout(ctx, heartbeat/4)
		defer cancel()
		err := lead.View(short, kv.Linearizable, func(kv.Reader) error { return nil })
		if err == nil {
			t.Fatal("a linearizable read was answered without a quorum")
		}
		return errors.As(err, &none)
	})
	if !errors.Is(none, kv.ErrNoQuorum) || len(none.Missing) != 2 {
		t.Errorf("the error is %v with %d missing members", none, len(none.Missing))
	}
	wait(t, "for the leadership to end", func() bool { return lead.Epoch() == 0 })
	wait(t, "for an update to say why", func() bool { return errors.Is(put(lead, kv.Ordered, "k", "v"), kv.ErrNoQuorum) })
	// A stale read says how old it is.
	if err := lead.View(ctx, kv.Stale, func(kv.Reader) error { return nil }); err != nil {
		t.Error(err)
	}
	if lead.Age() == 0 {
		t.Error("the member claims to be up to date")
	}
	c.wires[i].isolate(false)
	c.steps(20)
	c.converge()
}

// TestLearner: an empty member receives the state while writes go on, becomes a voter, leads, and is
// demoted and removed again.
func TestLearner(t *testing.T) {
	ctx := withPatience(t)
	c := startCluster(t, 3)
	for _, lead := c.leader(); lead.Stats().StateIndex == 0; _, lead = c.leader() {
		c.steps(50)
	}
	const id = 3
	c.wires = append(c.wires, listen(t, "127.0.0.1:0"))
	c.servers = append(c.servers, raft.Server{ID: "m3", Address: raft.ServerAddress(c.wires[id].Addr().String())})
	c.members = append(c.members, nil)
	c.tune = func(i int, o *raftkv.Options) { o.Join = i == id }
	c.start(id)
	fresh := c.members[id]
	if age := fresh.Age(); age != raftkv.Unknown {
		t.Errorf("the age of an empty member is %v", age)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				c.steps(10)
			}
		}
	}()
	change := func(what string, do func(lead *raftkv.Store) error) {
		t.Helper()
		wait(t, what, func() bool {
			err := do(c.must())
			if err != nil && !isUnavailable(err) {
				t.Log(what, err)
			}
			return err == nil
		})
	}
	addr := string(c.servers[id].Address)
	change("add a learner", func(lead *raftkv.Store) error { return lead.AddLearner(ctx, "m3", addr) })
	for _, m := range c.must().Members() {
		if m.ID == "m3" && m.Voter {
			t.Error("the learner votes")
		}
	}
	wait(t, "for the learner to catch up", func() bool { return fresh.Age() < time.Second && fresh.AppliedIndex()+20 > c.must().AppliedIndex() })
	if fresh.Stats().Restores == 0 {
		t.Error("it caught up without the state file")
	}
	change("make it a voter", func(lead *raftkv.Store) error { return lead.AddVoter(ctx, "m3", addr) })
	change("make it lead", func(lead *raftkv.Store) error {
		if lead == fresh {
			return nil
		}
		if err := lead.TransferLeadershipTo(ctx, "m3", addr); err != nil {
			return err
		}
		return errors.New("not yet")
	})
	change("let another one lead", func(lead *raftkv.Store) error {
		if lead != fresh {
			return nil
		}
		if err := lead.TransferLeadershipTo(ctx, "m0", string(c.servers[0].Address)); err != nil {
			return err
		}
		return errors.New("not yet")
	})
	change("demote it", func(lead *raftkv.Store) error { return lead.Demote(ctx, "m3") })
	close(stop)
	<-stopped
	c.converge()
	change("remove it", func(lead *raftkv.Store) error { return lead.RemoveMember(ctx, "m3") })
	if n := len(c.must().Members()); n != 3 {
		t.Errorf("%d members are left", n)
	}
}

// TestDiskIsBounded: while writes go on, log and state file stay within what the options allow, although
// one member is away.
func TestDiskIsBounded(t *testing.T) {
	const minLog = 1 << 20
	c := startTuned(t, 3, func(_ int, o *raftkv.Options) { o.MinLog = minLog })
	c.steps(20)
	i, _ := c.leader()
	c.stop((i + 1) % 3)
	most, written := int64(0), uint64(0)
	for written < 6<<20 {
		c.steps(100)
		st := c.must().Stats()
		most, written = max(most, st.LogBytes), st.BatchBytes
	}
	// The retained log, what the two tables hold, and segments that are not full or spare.
	if limit := int64(minLog + 2*100<<10 + 16*64<<10 + 1<<20); most > limit {
		t.Errorf("the log took up to %d bytes, want at most %d", most, limit)
	}
	dir := filepath.Join(c.dir, string(c.servers[i].ID))
	fi, err := os.Stat(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > 64<<20 {
		t.Errorf("the state file has %d bytes", fi.Size())
	}
	c.start((i + 1) % 3)
	c.converge()
	if left, _ := filepath.Glob(filepath.Join(dir, "spool-*")); len(left) > 0 {
		t.Error(fmt.Sprint("left behind: ", left))
	}
}
