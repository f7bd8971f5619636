package nsm

import (
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// RuleError reports a manifest that was refused because it breaks a rule of its policy.
type RuleError struct {
	Namespace, Name string
	Chunk           int
	Rule            string
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("objstore: manifest of %s/%q refused: chunk %d: %s", e.Namespace, e.Name, e.Chunk, e.Rule)
}

// checkNew holds a new manifest to the rules.
func (n *Manager) checkNew(name string, m *manifest.Manifest) error {
	return n.rules(m.ID, func(preset objstore.Preset) error { return n.checkAgainst(preset, name, m) })
}

func (n *Manager) checkAgainst(preset objstore.Preset, name string, m *manifest.Manifest) error {
	for i := range m.Chunks {
		c := &m.Chunks[i]
		p, ok := policyOf(preset, c)
		switch {
		case !ok:
			return n.refuse(name, i, "the preset has no policy (%d,%d)", c.K, c.M)
		case len(c.Fragments) != c.K+c.M:
			return n.refuse(name, i, "%d fragments, policy %v", len(c.Fragments), p)
		case c.Present() < p.C:
			return n.refuse(name, i, "%d confirmed fragments, policy %v", c.Present(), p)
		}
		for j, f := range c.Fragments {
			if f.Disk != 0 && !preset.Has(f.Disk) {
				return n.refuse(name, i, "fragment %d on disk %d, which the preset does not list", j, f.Disk)
			}
		}
		if err := n.checkPlaces(name, i, c, p.X, nil); err != nil {
			return err
		}
	}
	return nil
}

// checkPlaces holds one chunk to the rules of placement. Fragments that were there before may stay on
// a disk that was retired since, and as many on a node as there were.
func (n *Manager) checkPlaces(name string, chunk int, c *manifest.Chunk, x int, before []manifest.Fragment) error {
	nodes, had := make(map[string]int, len(c.Fragments)), make(map[string]int)
	for _, f := range before {
		if node, ok := n.o.Disks.Node(f.Disk); ok && f.Disk != 0 {
			had[node]++
		}
	}
	for i, f := range c.Fragments {
		if f.Disk == 0 {
			continue
		}
		for _, o := range c.Fragments[:i] {
			if o.Disk == f.Disk {
				return n.refuse(name, chunk, "two fragments on disk %d", f.Disk)
			}
		}
		node, ok := n.o.Disks.Node(f.Disk)
		if !ok {
			if before == nil || before[i].Disk != f.Disk {
				return n.refuse(name, chunk, "fragment %d on disk %d, which is unknown or retired", i, f.Disk)
			}
			continue
		}
		if nodes[node]++; nodes[node] > max(x, had[node]) {
			return n.refuse(name, chunk, "more than %d fragments on node %q", x, node)
		}
	}
	return nil
}

// checkChange holds a change of a manifest to the rules.
func (n *Manager) checkChange(name string, old, m *manifest.Manifest) error {
	if m.ID != old.ID || m.Size != old.Size || len(m.Chunks) != len(old.Chunks) {
		return n.refuse(name, 0, "a change may only touch fragments")
	}
	for i := range m.Chunks {
		c, o := &m.Chunks[i], &old.Chunks[i]
		if c.K != o.K || c.M != o.M || c.Size != o.Size || len(c.Fragments) != len(o.Fragments) {
			return n.refuse(name, i, "a change may only touch fragments")
		}
		for j, f := range c.Fragments {
			was := o.Fragments[j]
			if f.Version < was.Version || f.Version == was.Version && was.Disk != 0 && f.Disk != 0 && f.Disk != was.Disk {
				return n.refuse(name, i, "the version of fragment %d does not rise", j)
			}
		}
		x := len(c.Fragments)
		if p, ok := policyOf(n.Preset(), c); ok {
			x = p.X
		}
		if err := n.checkPlaces(name, i, c, x, o.Fragments); err != nil {
			return err
		}
	}
	return nil
}

func (n *Manager) refuse(name string, chunk int, format string, args ...any) error {
	return &RuleError{Namespace: n.o.Name, Name: name, Chunk: chunk, Rule: fmt.Sprintf(format, args...)}
}
