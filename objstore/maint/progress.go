package maint

import (
	"log/slog"
	"time"
)

// Progress is what maintenance is doing, and what it has done since it was started.
type Progress struct {
	Task  string    // "", "repair", "collect", "scrub", "rewrite", "rebalance", "recover"
	Since time.Time // of the task
	Done  int64     // objects of the task so far
	Total int64     // objects of the task, as far as it is known
	Left  int64     // objects that wait to be looked at

	Healed     int64 // objects brought nearer to full redundancy
	Rebuilt    int64 // fragments written anew
	Confirmed  int64 // fragments that were there after all
	Rewritten  int64 // objects coded anew by a smaller policy
	Bytes      int64 // written for all that
	NoPlace    int64 // fragments that no disk could take, in the last repair
	Moved      int64 // fragments moved to emptier disks
	MovedBytes int64 // of them
	Deleted    int64 // obsolete fragments
	Collected  int64 // fragments that were garbage
	Scrubbed   int64 // fragments whose checksum was verified
	BadSeen    int64 // fragments that failed
	Errors     int64 // objects that could not be healed
	LastError  string
}

// Progress returns a picture of what maintenance does.
func (m *Maint) Progress() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.prog
	p.Left = int64(len(m.todo.degraded) + len(m.todo.bad))
	return p
}

// did counts what is worth to be told of.
func (p *Progress) did() int64 {
	return p.Rebuilt + p.Confirmed + p.Rewritten + p.Moved + p.Collected + p.Errors
}

// task begins a task; call the result when it ends.
func (m *Maint) task(name string, total int64) func() {
	m.note(func(p *Progress) {
		p.Task, p.Since, p.Done, p.Total = name, time.Now(), 0, total
	})
	begin := m.Progress()
	m.log.Debug("maintenance task began", "task", name, "objects", total)
	return func() {
		p := m.Progress()
		m.note(func(p *Progress) { p.Task, p.Done, p.Total = "", 0, 0 })
		level := slog.LevelDebug
		if p.did() > begin.did() {
			level = slog.LevelInfo
		}
		m.log.Log(m.ctx, level, "maintenance task ended", "task", name, "objects", p.Done, "rebuilt", p.Rebuilt-begin.Rebuilt,
			"rewritten", p.Rewritten-begin.Rewritten, "moved", p.Moved-begin.Moved, "bytes", p.Bytes+p.MovedBytes-begin.Bytes-begin.MovedBytes,
			"collected", p.Collected-begin.Collected, "errors", p.Errors-begin.Errors, "took", time.Since(p.Since))
	}
}

func (m *Maint) note(fn func(*Progress)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn(&m.prog)
}
