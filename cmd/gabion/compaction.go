package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/objstore/asd"
)

// compactionFlags say when the disks of this process bring space of what was deleted back.
type compactionFlags struct {
	mode   string
	window string
	splay  time.Duration
}

func (f *compactionFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.mode, "compaction", "auto", "`when` the space of what was deleted is brought back: auto, scheduled or manual")
	fl.StringVar(&f.window, "compaction-window", "00:00-04:00", "`time` of the day for it, with --compaction scheduled")
	fl.DurationVar(&f.splay, "compaction-splay", 0, "begin that much later at most, each disk at a `time` of its own")
}

func (f *compactionFlags) options(changed func(string) bool) (c asd.Compaction, err error) {
	switch f.mode {
	case asd.CompactAuto.String():
		c.Mode = asd.CompactAuto
	case asd.CompactScheduled.String():
		c.Mode = asd.CompactScheduled
	case asd.CompactManual.String():
		c.Mode = asd.CompactManual
	default:
		return c, usagef("--compaction %q: it is auto, scheduled or manual", f.mode)
	}
	for _, flag := range []string{"compaction-window", "compaction-splay"} {
		if changed(flag) && c.Mode != asd.CompactScheduled {
			return c, usagef("--%s makes no sense without --compaction scheduled", flag)
		}
	}
	if c.Mode != asd.CompactScheduled {
		return c, nil
	}
	if c.Window, err = parseWindow(f.window); err != nil {
		return c, err
	}
	if f.splay < 0 || f.splay > c.Window.Length/2 {
		return c, usagef("--compaction-splay %v: want at most half of the window, which has %v", f.splay, c.Window.Length)
	}
	c.Window.Splay = f.splay
	return c, nil
}

// parseWindow reads HH:MM-HH:MM, which may go over midnight.
func parseWindow(s string) (w asd.Window, err error) {
	from, to, ok := strings.Cut(s, "-")
	begin, err1 := time.Parse("15:04", strings.TrimSpace(from))
	end, err2 := time.Parse("15:04", strings.TrimSpace(to))
	if !ok || err1 != nil || err2 != nil {
		return w, usagef("--compaction-window %q: want two times of the day, such as 22:00-06:00", s)
	}
	if !end.After(begin) {
		end = end.Add(24 * time.Hour)
	}
	w.From = time.Duration(begin.Hour())*time.Hour + time.Duration(begin.Minute())*time.Minute
	w.Length = end.Sub(begin)
	return w, nil
}
