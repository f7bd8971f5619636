package maint

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/client"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// ksWalk has, by namespace number(4) and kind, the Walk as JSON.
const ksWalk kv.Keyspace = "obj/walk"

// Kinds of walks.
const (
	WalkScrub   = "scrub"
	WalkRewrite = "rewrite"
)

// Walk is a pass over all objects of a namespace, a few at a time, whose position is kept: it goes on where it was
// after a restart, with whichever agent.
type Walk struct {
	V         int    `json:"v"`
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Position  []byte `json:"position"` // the name of the last object that was looked at
	Began     int64  `json:"began"`    // Unix seconds
	Ended     int64  `json:"ended"`    // 0: it is under way
	Done      int64  `json:"done"`     // objects
	Total     int64  `json:"total"`    // as there were when it began
	Changed   int64  `json:"changed"`  // objects found bad, or rewritten
	Errors    int64  `json:"errors"`
}

// Active tells whether the walk is under way.
func (w Walk) Active() bool { return w.V != 0 && w.Ended == 0 }

func walkKey(ns uint32, kind string) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(kind)), ns), kind...)
}

func readWalk(r kv.Reader, ns uint32, kind string) (w Walk, err error) {
	b, err := r.Get(ksWalk, walkKey(ns, kind))
	if errors.Is(err, kv.ErrNotFound) {
		return w, nil
	}
	if err == nil {
		if err = json.Unmarshal(b, &w); err != nil || w.V != 1 {
			err = &objstore.CorruptError{What: "position of " + kind, Err: fmt.Errorf("%q: %w", b, err)}
		}
	}
	return w, err
}

// walk returns the last walk of a kind over a namespace; it is zero when there was none.
func (m *Maint) walk(ctx context.Context, n *nsm.Manager, kind string) (w Walk, err error) {
	err = m.o.KV.View(ctx, kv.Pending, func(r kv.Reader) error {
		w, err = readWalk(r, n.Number(), kind)
		return err
	})
	return w, err
}

// putWalk writes a walk if it is still where it was at was.
func (m *Maint) putWalk(ctx context.Context, n *nsm.Manager, was, w Walk) error {
	w.V = 1
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return m.o.KV.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		is, err := readWalk(tx, n.Number(), w.Kind)
		if err != nil {
			return err
		}
		if is.Began != was.Began || string(is.Position) != string(was.Position) || is.Ended != was.Ended {
			return nsm.ErrFenced // another agent has gone on with it, or it was begun again
		}
		tx.Put(ksWalk, walkKey(n.Number(), w.Kind), b)
		return nil
	})
}

// Walks returns the last walk of each kind over each namespace.
func (m *Maint) Walks(ctx context.Context) ([]Walk, error) {
	var out []Walk
	for _, ns := range m.o.Namespaces() {
		for _, kind := range []string{WalkScrub, WalkRewrite} {
			w, err := m.walk(ctx, ns.NSM(), kind)
			if err != nil {
				return nil, err
			}
			if w.V != 0 {
				out = append(out, w)
			}
		}
	}
	return out, nil
}

// BeginWalk begins a walk over a namespace. One that is under way begins again.
func (m *Maint) BeginWalk(ctx context.Context, ns *client.Namespace, kind string) error {
	n := ns.NSM()
	u, err := n.Usage(ctx)
	if err != nil {
		return err
	}
	was, err := m.walk(ctx, n, kind)
	if err != nil {
		return err
	}
	w := Walk{Namespace: n.Name(), Kind: kind, Began: max(m.o.Clock().Unix(), was.Began+1), Total: u.Objects}
	if err := m.putWalk(ctx, n, was, w); err != nil {
		return err
	}
	m.log.Info("maintenance walk began", "kind", kind, "namespace", n.Name(), "objects", u.Objects)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.todo.walk = true
	m.nudge()
	return nil
}

// walkStep is how many objects a step of a walk looks at, and how long it takes about.
const (
	stepObjects = 256
	stepTime    = 2 * time.Second
)

// walks goes on with the walks of the namespaces that are ours, a step each, begins those that are due, and
// reports whether one is under way.
func (m *Maint) walks(ctx context.Context) (more bool, err error) {
	var errs []error
	for _, ns := range m.o.Namespaces() {
		within, ok := m.under(ctx, ns.NSM().Number())
		if !ok {
			continue
		}
		for _, kind := range []string{WalkScrub, WalkRewrite} {
			w, err := m.walk(ctx, ns.NSM(), kind)
			if err == nil && kind == WalkScrub && !w.Active() && m.scrubDue(w) {
				if err = m.BeginWalk(ctx, ns, kind); err == nil {
					w, err = m.walk(ctx, ns.NSM(), kind)
				}
			}
			if err == nil && w.Active() {
				more = true
				err = m.stepWalk(within, ns, w)
			}
			if !errors.Is(err, nsm.ErrFenced) {
				errs = append(errs, err)
			}
		}
	}
	return more, errors.Join(errs...)
}

// scrubDue tells whether a scrub is to begin after the last one.
func (m *Maint) scrubDue(last Walk) bool {
	if m.o.ScrubEvery < 0 {
		return false
	}
	since := m.started
	if last.V != 0 {
		since = time.Unix(last.Began, 0)
	}
	return m.o.Clock().Sub(since) >= m.o.ScrubEvery
}

func (m *Maint) stepWalk(ctx context.Context, ns *client.Namespace, w Walk) error {
	n := ns.NSM()
	defer m.task(w.Kind, w.Total)()
	m.note(func(p *Progress) { p.Done = w.Done })
	was := w
	from := ""
	if len(w.Position) > 0 {
		from = string(w.Position) + "\x00"
	}
	begin := time.Now()
	end, count := true, 0
	var failed error
	err := n.List(ctx, from, "", func(name string, mf *manifest.Manifest) bool {
		changed, err := m.visit(ctx, ns, w.Kind, name, mf)
		if ctx.Err() != nil || errors.Is(err, nsm.ErrFenced) {
			end, failed = false, err
			return false
		}
		w.Position, w.Done = []byte(name), w.Done+1
		if changed {
			w.Changed++
		}
		if err != nil {
			w.Errors++
			m.log.Warn("maintenance walk", "kind", w.Kind, "namespace", n.Name(), "object", name, "error", err)
		}
		m.note(func(p *Progress) { p.Done = w.Done })
		if count++; count >= stepObjects || time.Since(begin) > stepTime || m.urgent() {
			end = false
		}
		return end
	})
	if err = errors.Join(err, failed, ctx.Err()); err != nil {
		return err
	}
	if end {
		w.Ended, w.Position = m.o.Clock().Unix(), nil
		m.log.Info("maintenance walk ended", "kind", w.Kind, "namespace", n.Name(), "objects", w.Done, "changed", w.Changed, "errors", w.Errors)
	}
	return m.putWalk(ctx, n, was, w)
}

// visit does to one object what the walk is for.
func (m *Maint) visit(ctx context.Context, ns *client.Namespace, kind, name string, mf *manifest.Manifest) (changed bool, err error) {
	n := ns.NSM()
	if kind == WalkScrub {
		bad := make(map[objstore.FragmentKey]bool)
		_, err := m.verify(ctx, n, mf, func(chunk, fragment int, err error) {
			key := mf.Key(n.Number(), chunk, fragment)
			bad[key] = true
			m.seenBad(n, name, key, mf.Chunks[chunk].Fragments[fragment].Disk, err)
		})
		// At once, and not by the queue: that is urgent, so that the walk would end at every object.
		if err == nil && len(bad) > 0 {
			err = m.heal(ctx, object{n, name}, bad)
		}
		return len(bad) > 0, err
	}
	m.work.RLock()
	defer m.work.RUnlock()
	h, err := ns.Rewrite(ctx, name, client.HealOptions{Spend: m.spend.spend})
	m.note(func(p *Progress) {
		p.Bytes += h.Bytes
		if h.Rewritten {
			p.Rewritten++
		}
	})
	return h.Rewritten, err
}
