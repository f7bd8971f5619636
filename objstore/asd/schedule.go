package asd

import "time"

// CompactionMode says when compaction runs by itself. Whatever the mode, a put that finds the ASD full makes room by
// it, and Compact runs it at once.
type CompactionMode uint8

const (
	// CompactAuto, the zero value: whenever a segment has enough garbage.
	CompactAuto CompactionMode = iota
	// CompactScheduled: as CompactAuto, within Compaction.Window.
	CompactScheduled
	// CompactManual: only in calls of Compact.
	CompactManual
)

// String returns "auto", "scheduled" or "manual".
func (m CompactionMode) String() string {
	switch m {
	case CompactScheduled:
		return "scheduled"
	case CompactManual:
		return "manual"
	}
	return "auto"
}

const (
	day           = 24 * time.Hour
	defaultWindow = 4 * time.Hour
)

// Window is a part of every day, in the zone of the clock.
type Window struct {
	// From is when it begins, after midnight. Zero means midnight; a day or more counts from the next one.
	From time.Duration
	// Length of it. Zero means 4 hours; a day or more means always.
	Length time.Duration
	// Splay lets the ASDs begin one after the other: each one so much later, less than Splay, as its id says, and
	// at most half of Length. They end together. Zero means that all begin at once.
	Splay time.Duration
}

// state reports whether the window is open for an ASD, and when to look again: when that changes, unless one window
// follows another without a pause.
func (w Window) state(now time.Time, id ID) (open bool, until time.Time) {
	length := w.Length
	if length <= 0 {
		length = defaultWindow
	}
	if length >= day {
		return true, now.Add(day)
	}
	from := w.From % day
	if from < 0 {
		from += day
	}
	var delay time.Duration
	if splay := min(w.Splay, length/2); splay > 0 {
		delay = time.Duration(le.Uint64(id[:]) % uint64(splay))
	}
	y, m, d := now.Date()
	for days := -2; ; days++ {
		// Not now plus hours: days have 23 and 25 of them, too, and a window can reach into the day after the next.
		begin := time.Date(y, m, d+days, 0, 0, 0, 0, now.Location()).Add(from)
		end := begin.Add(length)
		begin = begin.Add(delay)
		if now.Before(begin) {
			return false, begin
		}
		if now.Before(end) {
			return true, end
		}
	}
}

// mayCompact reports whether the background may compact now, and after how long to ask again.
func (a *ASD) mayCompact() (ok bool, again time.Duration) {
	c := &a.opts.Compaction
	switch c.Mode {
	case CompactManual:
		return false, day
	case CompactScheduled:
		now := c.Now()
		open, until := c.Window.state(now, a.identity.ASD)
		return open, until.Sub(now)
	}
	return true, day
}
