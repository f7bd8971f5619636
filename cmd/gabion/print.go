package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// printJSON writes v indented, for scripts and for people who read what scripts read.
func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printTable writes v as JSON if that was asked for, or else a table: a head, whose columns tabs separate, and what rows
// writes below it.
func (e *env) printTable(asJSON bool, v any, head string, rows func(w io.Writer)) error {
	if asJSON {
		return e.printJSON(v)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	rows(w)
	return w.Flush()
}

// terminal reports whether messages go to a person who is watching.
func (e *env) terminal() bool {
	f, ok := e.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress shows a line that replaces itself, on a terminal only.
func (e *env) progress(format string, args ...any) {
	if e.terminal() {
		fmt.Fprintf(e.err, "\r\x1b[K"+format, args...)
	}
}

// endProgress clears the line.
func (e *env) endProgress() {
	if e.terminal() {
		fmt.Fprint(e.err, "\r\x1b[K")
	}
}

// size formats bytes for people, in binary units.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// writeJSONLine writes v as JSON on one line.
func writeJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// short formats a time that has passed with its two largest units.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
