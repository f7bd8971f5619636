package maint

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Severity of a Problem.
type Severity uint8

const (
	// Note: nothing is wrong; something is unfinished that maintenance will finish.
	Note Severity = iota
	// Warning: every object can be read, but one has less redundancy than it should.
	Warning
	// Error: an object cannot be read, or the books do not add up.
	Error
)

func (s Severity) String() string { return [...]string{"note", "warning", "error"}[s] }

// Problem is something that Check found.
type Problem struct {
	Severity  Severity
	Kind      string // "disk", "manifest", "fragment", "safety", "counter", "garbage", "unknown"
	Namespace string
	Object    string          // name, where there is one
	Disk      objstore.DiskID // where there is one
	Detail    string
}

func (p Problem) String() string {
	s := fmt.Sprintf("%v: %s: ", p.Severity, p.Kind)
	if p.Namespace != "" {
		s += p.Namespace + " "
	}
	if p.Object != "" {
		s += fmt.Sprintf("%q ", p.Object)
	}
	if p.Disk != 0 {
		s += fmt.Sprintf("disk %d ", p.Disk)
	}
	return s + p.Detail
}

// CheckOptions say how thorough a check is.
type CheckOptions struct {
	// Full reads every fragment and verifies it; otherwise it is enough that the disk has it.
	Full bool
}

// CheckResult counts what a check looked at.
type CheckResult struct {
	Objects, Fragments int64
	Garbage            int64 // fragments that no manifest and no queue refers to
}

// Check looks whether every fragment of every manifest is there, whether the counters are right, and
// whether every fragment on the disks is accounted for. It changes nothing.
func (m *Maint) Check(ctx context.Context, o CheckOptions, report func(Problem)) (CheckResult, error) {
	var r CheckResult
	for _, d := range m.o.Disks.Disks() {
		if s := d.Status(); s.State != manager.Up {
			report(Problem{Severity: Warning, Kind: "disk", Disk: s.ID, Detail: fmt.Sprintf("in %s is %v: %v", s.Dir, s.State, s.Err)})
		}
	}
	for _, ns := range m.o.Namespaces() {
		c := &checker{m: m, o: o, ns: ns, n: ns.NSM(), report: report, r: &r}
		if err := c.run(ctx); err != nil {
			return r, err
		}
	}
	return r, nil
}

type checker struct {
	m      *Maint
	o      CheckOptions
	ns     *client.Namespace
	n      *nsm.Manager
	report func(Problem)
	r      *CheckResult
}

func (c *checker) problem(s Severity, kind, object string, disk objstore.DiskID, format string, args ...any) {
	c.report(Problem{s, kind, c.n.Name(), object, disk, fmt.Sprintf(format, args...)})
}

func (c *checker) run(ctx context.Context) error {
	type item struct {
		name string
		m    *manifest.Manifest
	}
	var page []item
	var errs []error
	flush := func() {
		absent, err := c.absent(ctx, func(fn func(name string, m *manifest.Manifest)) {
			for _, it := range page {
				fn(it.name, it.m)
			}
		})
		errs = append(errs, err)
		for _, it := range page {
			if err := c.object(ctx, it.name, it.m, absent); err != nil {
				errs = append(errs, err)
			}
		}
		page = page[:0]
	}
	err := c.n.List(ctx, "", "", func(name string, m *manifest.Manifest) bool {
		if page = append(page, item{name, m}); len(page) == 256 {
			flush()
		}
		return ctx.Err() == nil
	})
	var corrupt *objstore.CorruptError
	if errors.As(err, &corrupt) {
		c.problem(Error, "manifest", "", 0, "%v", err)
		err = nil
	}
	flush()
	if err := errors.Join(append(errs, err, ctx.Err())...); err != nil {
		return err
	}
	problems, err := c.n.Recount(ctx)
	for _, p := range problems {
		c.problem(Error, "counter", "", 0, "%s", p)
	}
	if err != nil {
		return err
	}
	return c.garbage(ctx)
}

// absent asks every disk that is up, once, for the fragments that it should have.
func (c *checker) absent(ctx context.Context, each func(func(string, *manifest.Manifest))) (map[nsm.Location]bool, error) {
	byDisk := make(map[objstore.DiskID][]objstore.FragmentKey)
	each(func(_ string, m *manifest.Manifest) {
		for _, l := range nsm.Locations(c.n.Number(), m) {
			byDisk[l.Disk] = append(byDisk[l.Disk], l.Key)
		}
	})
	out := make(map[nsm.Location]bool)
	for id, keys := range byDisk {
		d := c.m.o.Disks.Disk(id)
		if d == nil {
			continue
		}
		if !d.Readable() {
			continue
		}
		var has []bool
		err := d.Do(ctx, func(dev objstore.Disk) error {
			h, err := dev.HasFragments(ctx, keys)
			if err == nil {
				has = h
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("check disk %d: %w", id, err)
		}
		for i, h := range has {
			if !h {
				out[nsm.Location{Disk: id, Key: keys[i]}] = true
			}
		}
	}
	return out, nil
}

// object checks one object.
func (c *checker) object(ctx context.Context, name string, m *manifest.Manifest, absent map[nsm.Location]bool) error {
	c.r.Objects++
	intact := make([]int, len(m.Chunks))
	unsafe, unfinished := false, false
	bad := make(map[[2]int]error)
	if c.o.Full {
		if _, err := c.m.verify(ctx, c.n, m, func(chunk, fragment int, err error) { bad[[2]int{chunk, fragment}] = err }); err != nil {
			return err
		}
	}
	for i := range m.Chunks {
		for j, f := range m.Chunks[i].Fragments {
			d := c.m.o.Disks.Disk(f.Disk)
			l := nsm.Location{Disk: f.Disk, Key: m.Key(c.n.Number(), i, j)}
			err := bad[[2]int{i, j}]
			if absent[l] && err == nil {
				err = objstore.ErrNoFragment
			}
			switch {
			case f.Disk == 0, f.Unconfirmed && d != nil && d.Readable() && absent[l]:
				unfinished = true // acknowledged with fewer; the rest is still to come
			case d == nil || !d.Readable():
				unsafe = true
			case err != nil:
				if c.changed(ctx, name, m) {
					return nil
				}
				unsafe = true
				c.problem(Warning, "fragment", name, f.Disk, "fragment %d of chunk %d: %v", j, i, err)
			default:
				c.r.Fragments++
				intact[i]++
			}
		}
	}
	for i, n := range intact {
		if n < m.Chunks[i].K {
			if c.changed(ctx, name, m) {
				return nil
			}
			c.problem(Error, "safety", name, 0, "lost: chunk %d has %d intact fragments, %d are needed", i, n, m.Chunks[i].K)
			return nil
		}
	}
	switch {
	case unsafe:
		c.problem(Warning, "safety", name, 0, "has less redundancy than its policy wants")
	case unfinished:
		c.problem(Note, "safety", name, 0, "was acknowledged with fewer fragments than its policy wants; the others are to be written")
	}
	return nil
}

// changed tells whether an object is not as it was when the check looked: then the check proves nothing.
func (c *checker) changed(ctx context.Context, name string, m *manifest.Manifest) bool {
	now, err := c.n.Fetch(ctx, name)
	if err != nil {
		return errors.Is(err, objstore.ErrNotFound)
	}
	return string(now.Encode(nil)) != string(m.Encode(nil))
}

// garbage counts the fragments on disks that neither a manifest nor a queue accounts for.
func (c *checker) garbage(ctx context.Context) error {
	queued := make(map[nsm.Location]bool)
	var from uint64
	for {
		entries, err := c.n.Obsoletes(ctx, from, obsoleteBatch)
		if err != nil {
			return err
		}
		for _, e := range entries {
			from = e.ID + 1
			for _, l := range e.At {
				queued[l] = true
			}
		}
		if len(entries) < obsoleteBatch {
			break
		}
	}
	held, err := c.n.Held(ctx)
	if err != nil {
		return err
	}
	const end = 1<<64 - 1
	for lo := uint64(0); lo < end; {
		w, err := newWindow(ctx, c.n, lo, end)
		if err != nil {
			return err
		}
		err = eachGarbage(ctx, c.m.o.Disks, c.n, w, func(d *manager.Disk, keys []objstore.FragmentKey) error {
			parked, err := c.m.parked(ctx, d.ID())
			if err != nil {
				return err
			}
			for _, l := range parked {
				queued[l] = true
			}
			n, unknown := 0, 0
			for _, k := range keys {
				switch {
				case queued[nsm.Location{Disk: d.ID(), Key: k}]:
				case held.Has(k.Object):
					unknown++
				default:
					n++
				}
			}
			if unknown > 0 {
				c.problem(Warning, "unknown", "", d.ID(), "%d fragments of uploads that the key-value store knows nothing of: it is older than the disk; see `gabion namespace recover`", unknown)
			}
			if c.r.Garbage += int64(n); n > 0 {
				c.problem(Note, "garbage", "", d.ID(), "%d fragments without a manifest, to be collected; the first is %v", n, keys[0])
			}
			return nil
		})
		if err != nil {
			return err
		}
		lo = w.hi
	}
	return nil
}
