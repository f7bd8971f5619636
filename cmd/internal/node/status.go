package node

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

// Status returns the state of every layer.
func (n *Node) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{
		Version: n.o.Version, Data: n.dir.Path, Cluster: n.dir.Config.Cluster, Memory: memory(), Reasons: []string{},
	}
	var err error
	if s.Keys, err = n.Keys(ctx); err != nil {
		return s, err
	}
	if s.Presets, err = n.Presets(ctx); err != nil {
		return s, err
	}
	for _, p := range s.Presets {
		if slices.Contains(p.Namespaces, volumeNamespace) {
			s.Policies = p.Policies
		}
	}
	if s.Disks, err = n.ASDs(ctx); err != nil {
		return s, err
	}
	if err := n.room(ctx, &s); err != nil {
		return s, err
	}
	if err := n.safety(ctx, &s); err != nil {
		return s, err
	}
	if err := n.maintenance(ctx, &s); err != nil {
		return s, err
	}
	s.KV = n.kv.Status()
	if r, ok := n.kv.(*remote); ok {
		r.askMembers(ctx, &s.KV)
	}
	if n.volume != nil {
		s.Memory.Dirty = n.volume.Dirty()
	}
	s.Cache = n.cache()
	judge(&s)
	return s, nil
}

// cache is what keeps fragments near, or nil.
func (n *Node) cache() *control.Cache {
	c, ok := n.objects.Cache()
	if !ok {
		return nil
	}
	out := &control.Cache{
		On: []string{}, Hits: c.Hits, Misses: c.Misses, HitBytes: c.HitBytes, MemoryUsed: c.MemoryUsed, MemorySize: c.MemorySize,
		Dir: c.CacheOptions.Dir, Used: c.Used, Size: c.Stat.Size, Pages: c.Pages, Written: c.Written, Evicted: c.Evicted, Skipped: c.Skipped,
		Damaged: c.Damaged, Late: c.Late, WriteErrors: c.WriteErrors, Loading: c.Loading, Error: c.LastError,
	}
	if c.Reads {
		out.On = append(out.On, "read")
	}
	if c.Writes {
		out.On = append(out.On, "write")
	}
	if c.Err != nil {
		out.Error = c.Err.Error()
	}
	return out
}

func (n *Node) room(ctx context.Context, s *control.Status) error {
	if n.session == nil {
		c, err := n.objects.Capacity(ctx)
		s.Capacity = control.Capacity{Total: c.Total, Used: c.Used, Free: c.Free}
		return err
	}
	st, err := n.session.StatFS(ctx)
	if err != nil {
		return err
	}
	s.Capacity = control.Capacity{Total: int64(st.Total), Used: int64(st.Total - st.Free), Free: int64(st.Avail), Files: int64(st.Files)}
	return nil
}

func (n *Node) safety(ctx context.Context, s *control.Status) error {
	u, err := n.objects.Usage(ctx)
	if err != nil {
		return err
	}
	s.Objects = control.Objects{Total: u.Objects, Bytes: u.Bytes, Stored: u.Stored, Degraded: []control.Safety{}}
	list, err := n.objects.Safety(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Objects > 0 && l.Spare < l.Full {
			s.Objects.Degraded = append(s.Objects.Degraded, control.Safety{Spare: l.Spare, Full: l.Full, Objects: l.Objects, Bytes: l.Bytes})
		}
	}
	return nil
}

func (n *Node) maintenance(ctx context.Context, s *control.Status) error {
	p := n.objects.Progress()
	s.Maintenance = control.Maintenance{
		Task: p.Task, Done: p.Done, Total: p.Total, Left: p.Left, Healed: p.Healed, Rebuilt: p.Rebuilt, Bytes: p.Bytes,
		Deleted: p.Deleted, Collected: p.Collected, Scrubbed: p.Scrubbed, Bad: p.BadSeen, NoPlace: p.NoPlace,
		Errors: p.Errors, LastError: p.LastError, Rewritten: p.Rewritten, Moved: p.Moved, MovedSize: p.MovedBytes,
	}
	for _, d := range n.objects.Disks() {
		s.Maintenance.Garbage += d.Stat.Garbage
		s.Maintenance.Compacted += d.Stat.Compacted
	}
	var err error
	if s.Maintenance.Obsolete, err = n.objects.Waiting(ctx); err != nil {
		return err
	}
	s.Maintenance.Walks, err = n.walks(ctx)
	return err
}

// judge says how healthy it all is, and why.
func judge(s *control.Status) {
	s.Health = control.OK
	worse := func(h control.Health, format string, args ...any) {
		if h == control.Lost || s.Health == control.OK {
			s.Health = h
		}
		s.Reasons = append(s.Reasons, fmt.Sprintf(format, args...))
	}
	if s.KV.Error != "" {
		worse(control.Lost, "the key-value store has stopped: %s", s.KV.Error)
	}
	if r := s.KV.Remote; r != nil && s.KV.Error == "" {
		judgeRemote(r, worse)
	}
	for _, d := range s.Objects.Degraded {
		if d.Spare < 0 {
			worse(control.Lost, "%d objects cannot be read", d.Objects)
		}
	}
	for _, d := range s.Disks {
		switch d.State {
		case "ok", "slow", "disabled", "draining": // nothing is less safe for it
		default:
			worse(control.Degraded, "disk %s in %s is %s", d.ID, d.Dir, d.State)
		}
	}
	for _, d := range s.Objects.Degraded {
		if d.Spare >= 0 {
			worse(control.Degraded, "%d objects survive the loss of %d more disks instead of %d", d.Objects, d.Spare, d.Full)
		}
	}
}

// judgeRemote says what is wrong with the store of a cluster. While it does not answer nothing is lost:
// what is known is served, and fsync waits.
func judgeRemote(r *control.Remote, worse func(control.Health, string, ...any)) {
	switch {
	case !r.Connected:
		worse(control.Degraded, "store %s of the cluster has no leader that answers: what needs it waits", r.Store)
	case r.MembersError != "":
		worse(control.Degraded, "the members of store %s cannot be asked: %s", r.Store, r.MembersError)
	}
	for _, m := range r.Members {
		if m.Role == "" {
			worse(control.Degraded, "node %s does not serve store %s: %s", m.Node, r.Store, m.Error)
		}
	}
}

// memory of this process.
func memory() control.Memory {
	m := control.Memory{}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		m.Limit = limit
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	m.Heap = int64(sample[0].Value.Uint64())
	if raw, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := bytes.Fields(raw); len(f) > 1 {
			pages, _ := strconv.ParseInt(string(f[1]), 10, 64) // the kernel writes numbers
			m.RSS = pages * int64(os.Getpagesize())
		}
	}
	return m
}
