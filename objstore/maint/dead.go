package maint

import (
	"context"
	"time"

	"github.com/gabionfs/gabion/objstore/manager"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// lookForDead is how often it is looked whether dead disks can be retired, which reads all manifests.
const lookForDead = 10 * time.Minute

// retireDead retires disks that have been down for long and that nothing refers to any more, since what was on
// them was made anew on others. While a namespace has ids on hold, what refers to a disk is not known.
func (m *Maint) retireDead(ctx context.Context) error {
	if m.o.RetireAfter < 0 || !m.ours(allNamespaces) || time.Since(m.lookedForDead) < min(lookForDead, m.o.RetireAfter) {
		return nil
	}
	var dead []*manager.Disk
	for _, d := range m.o.Disks.Disks() {
		if s := d.Status(); s.State != manager.Up && time.Since(s.Since) >= m.o.RetireAfter {
			dead = append(dead, d)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	m.lookedForDead = time.Now()
	for _, ns := range m.o.Namespaces() {
		if h, err := ns.NSM().Held(ctx); err != nil || h != (nsm.Hold{}) {
			return err
		}
	}
	for _, d := range dead {
		n, err := m.References(ctx, d.ID())
		if err != nil {
			return err
		}
		if n > 0 {
			m.log.Info("dead disk is still referred to", "disk", d.ID(), "objects", n)
			continue
		}
		m.log.Warn("dead disk retired", "disk", d.ID(), "dir", d.Dir(), "down", time.Since(d.Status().Since).Round(time.Second))
		if err := m.Retire(ctx, d.ID()); err != nil {
			return err
		}
	}
	return nil
}
