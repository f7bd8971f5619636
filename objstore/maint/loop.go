package maint

import (
	"errors"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore/manager"
)

// settle is how long maintenance lets work gather before it begins.
const settle = 200 * time.Millisecond

// retryEvery is how often maintenance looks whether what could not be done can be done now.
const retryEvery = 30 * time.Second

func (m *Maint) loop() {
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	collect, stopCollect := ticker(m.o.CollectEvery)
	defer stopCollect()
	scrub, stopScrub := ticker(m.o.ScrubEvery)
	defer stopScrub()
	for {
		var err error
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
			if !m.pause(settle) {
				return
			}
			err = m.round()
		case <-retry.C:
			err = m.retry()
		case <-collect:
			_, err = m.Collect(m.ctx)
		case <-scrub:
			m.todoLater()
		}
		if err != nil && m.ctx.Err() == nil && !errors.Is(err, kv.ErrClosed) {
			m.log.Warn("maintenance will try again", "error", err)
		}
	}
}

func ticker(every time.Duration) (<-chan time.Time, func()) {
	if every < 0 {
		return nil, func() {}
	}
	t := time.NewTicker(every)
	return t.C, t.Stop
}

// pause waits, and reports false when maintenance is to stop.
func (m *Maint) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-m.ctx.Done():
		return false
	}
}

// todoLater has it looked whether a walk is to go on, or fragments should move.
func (m *Maint) todoLater() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.todo.balance, m.todo.walk = true, true
	m.nudge()
}

// urgent tells whether something waits that is more important than walks and moves.
func (m *Maint) urgent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.todo.survey || m.todo.more || len(m.todo.bad)+len(m.todo.degraded) > 0
}

// round does what is waiting.
func (m *Maint) round() error {
	m.mu.Lock()
	t := m.todo
	m.todo.reset()
	m.mu.Unlock()
	var errs []error
	for o, keys := range t.bad {
		errs = append(errs, m.heal(m.ctx, o, keys))
	}
	for o := range t.degraded {
		if t.bad[o] == nil && !m.waiting() {
			errs = append(errs, m.heal(m.ctx, o, nil))
		}
	}
	if t.survey || t.more {
		_, err := m.label(m.ctx)
		errs = append(errs, err, m.unpark(m.ctx), m.Purge(m.ctx))
		if wait := m.settling(); wait > 0 {
			// A disk has gone just now. It may be back in a moment: look again then.
			m.later(wait)
		} else {
			err := m.Repair(m.ctx)
			if err != nil {
				m.later(retryEvery) // not every object that is left over is in a queue
			}
			errs = append(errs, err)
		}
	}
	for ns := range t.obsolete {
		errs = append(errs, m.DeleteObsolete(m.ctx, ns))
	}
	return errors.Join(append(errs, m.leisure(t))...)
}

// leisure does, for a while, what can wait, and sees to it that it goes on.
func (m *Maint) leisure(t todo) error {
	var again todo
	var errs []error
	if (t.balance || t.survey) && !m.waiting() {
		more, err := m.Rebalance(m.ctx)
		again.balance = more
		errs = append(errs, err)
	}
	if t.walk {
		more, err := m.walks(m.ctx)
		again.walk = more && err == nil // what fails is tried again with the next retry
		errs = append(errs, err)
	}
	if again.balance || again.walk {
		m.mu.Lock()
		m.todo.balance, m.todo.walk = m.todo.balance || again.balance, m.todo.walk || again.walk
		m.mu.Unlock()
		m.nudge()
	}
	return errors.Join(errs...)
}

// waiting tells whether a disk is down that may still come back: degraded objects wait with it.
func (m *Maint) waiting() bool { return m.settling() > 0 }

// later surveys after d.
func (m *Maint) later(d time.Duration) {
	m.wg.Go(func() {
		if m.pause(d) {
			m.DisksChanged()
		}
	})
}

// settling returns how long to wait before the disks that are down now are given up.
func (m *Maint) settling() time.Duration {
	if m.o.RepairDelay < 0 {
		return 0
	}
	var wait time.Duration
	for _, d := range m.o.Disks.Disks() {
		if s := d.Status(); s.State != manager.Up && s.Admin == manager.Active {
			wait = max(wait, m.o.RepairDelay-time.Since(s.Since))
		}
	}
	return wait
}

// retry looks after what is left over: queues that could not be emptied, objects that are degraded.
func (m *Maint) retry() error {
	_, err := m.label(m.ctx)
	errs := []error{err, m.retireDead(m.ctx), m.unpark(m.ctx), m.Purge(m.ctx)} // a disk that is up may not have answered
	m.todoLater()
	for _, ns := range m.o.Namespaces() {
		m.Obsolete(ns.NSM())
		// Some at a time: those that cannot be healed must not keep others from their turn.
		names, last, err := ns.NSM().Degraded(m.ctx, m.degradedFrom[ns.NSM()], maxTodo/2)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(names) == 0 {
			last = 0
		}
		m.degradedFrom[ns.NSM()] = last
		for _, name := range names {
			m.Degraded(ns.NSM(), name)
		}
	}
	return errors.Join(errs...)
}
