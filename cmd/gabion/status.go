package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
)

// Exit codes of status, beside 1 and 2.
const (
	exitDegraded = 3
	exitLost     = 4
)

func newStatus(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show health, capacity, disks and work in progress",
		Long: `Show the state of the filesystem. The first line says whether it is ok, degraded
(everything can be read, with less redundancy than asked for) or lost (some
content cannot be read), and why.

Exit codes: 0 ok, 3 degraded, 4 lost, 1 the state could not be found out.`,
		Example: "  gabion status\n  gabion status --json | jq .health\n  watch gabion status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				s, err := c.Status(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					err = e.printJSON(s)
				} else {
					err = e.printStatus(s)
				}
				if err != nil {
					return err
				}
				switch s.Health {
				case control.OK:
					return nil
				case control.Degraded:
					return exitError(exitDegraded)
				}
				return exitError(exitLost)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (e *env) printStatus(s control.Status) error {
	head := string(s.Health)
	if len(s.Reasons) > 0 {
		head += ": " + strings.Join(s.Reasons, "; ")
	}
	fmt.Fprintln(e.out, head)
	fmt.Fprintln(e.out)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(e.out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("data", "%s", s.Data)
	if !s.Started.IsZero() {
		row("process", "%d, up %s, gabion %s", s.PID, time.Since(s.Started).Round(time.Second), s.Version)
	} else {
		row("process", "none; the data directory was opened to look")
	}
	row("mount", "%s", orDash(s.Mount))
	row("webdav", "%s", orDash(s.DAV))
	for _, p := range s.Presets {
		row("preset", "%s, version %d: %s, compression %s, encryption %s; used by %s", p.Name, p.Version, strings.Join(p.Policies, " "),
			p.Compression, p.Encryption, orDash(strings.Join(p.Namespaces, ", ")))
	}
	if s.Keys.Present {
		state := "locked: the content needs its " + s.Keys.Secret
		if s.Keys.Unlocked {
			state = "unlocked, by a " + s.Keys.Secret
		}
		row("encryption", "%s", state)
	}
	row("capacity", "%s used, %s free of %s; %d files", size(s.Capacity.Used), size(s.Capacity.Free), size(s.Capacity.Total), s.Capacity.Files)
	if r := s.KV.Remote; r != nil {
		row("kv", "store %s of cluster %s, %s pending, %s cached", r.Store, r.Cluster, size(s.KV.PendingBytes), size(s.KV.RecentBytes))
		for _, m := range r.Members {
			if m.Role == "" {
				row("", "%s at %s: down", m.Node, m.Address)
				continue
			}
			row("", "%s at %s: %s, log index %d, lag %d", m.Node, m.Address, m.Role, m.Applied, m.Lag)
		}
	} else {
		row("kv", "%s, log index %d (%d in the state file), %s pending, %s recent, %s state, %s log", member(s.KV),
			s.KV.Applied, s.KV.State, size(s.KV.PendingBytes), size(s.KV.RecentBytes), size(s.KV.StateBytes), size(s.KV.LogBytes))
	}
	row("memory", "%s resident; %s of content not on the disks yet", size(s.Memory.RSS), size(s.Memory.Dirty))
	if c := s.Cache; c != nil && (c.Dir != "" || c.Hits+c.Misses > 0) {
		row("cache", "%s of %s in %s, %s of %s in memory; %d hits (%s), %d misses", size(c.Used), size(c.Size), orDash(c.Dir),
			size(c.MemoryUsed), size(c.MemorySize), c.Hits, size(c.HitBytes), c.Misses)
		if c.Error != "" {
			row("", "last error: %s", c.Error)
		}
	}
	fmt.Fprintln(e.out)
	if err := e.printDisks(s.Disks); err != nil {
		return err
	}
	fmt.Fprintln(e.out)
	row("objects", "%d, %s stored as %s", s.Objects.Total, size(s.Objects.Bytes), size(s.Objects.Stored))
	for _, d := range s.Objects.Degraded {
		what := fmt.Sprintf("survive the loss of %d more disks instead of %d", d.Spare, d.Full)
		if d.Spare < 0 {
			what = "cannot be read"
		}
		row("", "%d (%s) %s", d.Objects, size(d.Bytes), what)
	}
	m := s.Maintenance
	now := "idle"
	if m.Task != "" {
		now = fmt.Sprintf("%s, %d of %d objects", m.Task, m.Done, m.Total)
	}
	row("maintenance", "%s; %d waiting", now, m.Left)
	row("", "%d healed, %d fragments rebuilt (%s), %d deleted, %d bad, %d errors", m.Healed, m.Rebuilt, size(m.Bytes), m.Deleted+m.Collected, m.Bad, m.Errors)
	if m.Scrubbed+m.NoPlace+m.Obsolete > 0 {
		row("", "%d fragments scrubbed; %d have no place, %d wait to be deleted", m.Scrubbed, m.NoPlace, m.Obsolete)
	}
	if m.Garbage+m.Compacted > 0 {
		row("", "%s of garbage on the disks; %s copied to compact them", size(m.Garbage), size(m.Compacted))
	}
	if m.Moved+m.Rewritten > 0 {
		row("", "%d fragments moved to emptier disks (%s), %d objects rewritten", m.Moved, size(m.MovedSize), m.Rewritten)
	}
	for _, w := range m.Walks {
		if w.Ended == nil {
			row("", "%s of namespace %s: %d of %d objects, %d changed, %d errors", w.Kind, w.Namespace, w.Done, w.Total, w.Changed, w.Errors)
		}
	}
	if m.LastError != "" {
		row("", "last error: %s", m.LastError)
	}
	return nil
}

// member says what part this member of the key-value store plays.
func member(k control.KV) string {
	if k.Error != "" {
		return "stopped: " + k.Error
	}
	if k.Leads {
		return fmt.Sprintf("leader in term %d", k.Term)
	}
	return fmt.Sprintf("follower in term %d", k.Term)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
