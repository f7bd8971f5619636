package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Status is what the tests read of `gabion status --json`.
type Status struct {
	Health   string   `json:"health"`
	Reasons  []string `json:"reasons"`
	Capacity struct {
		Total int64 `json:"total"`
		Used  int64 `json:"used"`
		Free  int64 `json:"free"`
	} `json:"capacity"`
	Disks   []Disk `json:"disks"`
	Objects struct {
		Total    int64    `json:"total"`
		Bytes    int64    `json:"bytes"`
		Stored   int64    `json:"stored"`
		Degraded []Safety `json:"degraded"`
	} `json:"objects"`
	Maintenance struct {
		Task     string `json:"task"`
		Left     int64  `json:"left"`
		Healed   int64  `json:"healed"`
		Bad      int64  `json:"bad"`
		Moved    int64  `json:"moved"`
		Errors   int64  `json:"errors"`
		Obsolete int64  `json:"obsolete"`
		Walks    []struct {
			Ended string `json:"ended"` // "" while it is under way
		} `json:"walks"`
	} `json:"maintenance"`
}

// Safety counts the objects that survive Spare more losses, of Full when they are whole.
type Safety struct {
	Spare   int   `json:"spare"`
	Full    int   `json:"full"`
	Objects int64 `json:"objects"`
}

// Disk is one of Status.
type Disk struct {
	ID    string `json:"id"`
	Dir   string `json:"dir"`
	State string `json:"state"`
	Total int64  `json:"total"`
	Used  int64  `json:"used"`
	Free  int64  `json:"free"`
}

// Report is what the tests read of `gabion fsck --json`.
type Report struct {
	Clean    bool `json:"clean"`
	Problems []struct {
		Kind string `json:"kind"`
		Text string `json:"text"`
	} `json:"problems"`
	Summary struct {
		Checked map[string]int64 `json:"checked"`
	} `json:"summary"`
}

// Status asks for the status. Its exit code must agree with the health.
func (g *Gabion) Status() Status {
	g.t.Helper()
	out, errs, code := g.Command("status", "--json")
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		g.t.Fatalf("gabion status: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	if want, ok := map[string]int{"ok": 0, "degraded": 3, "lost": 4}[s.Health]; !ok || code != want {
		g.t.Fatalf("gabion status: health %q with exit code %d\n%s%s", s.Health, code, out, errs)
	}
	return s
}

// Fsck checks, with every checksum when data is set, and returns the report.
func (g *Gabion) Fsck(data bool) (Report, int) {
	g.t.Helper()
	args := []string{"fsck", "--json"}
	if data {
		args = append(args, "--data-checksums")
	}
	out, errs, code := g.Command(args...)
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		g.t.Fatalf("gabion fsck: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	return r, code
}

// Clean wants a check with every checksum to find nothing, but for problems of the given kinds.
func (g *Gabion) Clean(but ...string) {
	g.t.Helper()
	r, code := g.Fsck(true)
	if len(r.Summary.Checked) == 0 {
		g.t.Fatal("gabion fsck has checked nothing")
	}
	if r.Clean != (len(r.Problems) == 0) || r.Clean != (code == 0) {
		g.t.Errorf("gabion fsck: exit code %d, clean %v, %d problems", code, r.Clean, len(r.Problems))
	}
	found := 0
	for _, p := range r.Problems {
		if slices.Contains(but, p.Kind) {
			continue
		}
		if found++; found <= 40 {
			g.t.Errorf("gabion fsck: %s: %s", p.Kind, p.Text)
		}
	}
	if found > 40 {
		g.t.Errorf("gabion fsck: %d problems in all", found)
	}
}

// WaitHealth waits until the status says health.
func (g *Gabion) WaitHealth(health string, limit time.Duration) {
	g.t.Helper()
	var s Status
	for end := time.Now().Add(Patience(limit)); ; time.Sleep(100 * time.Millisecond) {
		if s = g.Status(); s.Health == health {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("not %s within %v: %+v", health, Patience(limit), s)
		}
	}
}

// PeakRSS returns the most memory the process ever had resident, in bytes.
func (g *Gabion) PeakRSS() int64 {
	g.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID()))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return n << 10
		}
	}
	g.t.Fatalf("no VmHWM in /proc/%d/status", g.PID())
	return 0
}

// Peek is Status without a process of its own for it, to be asked often. It reports false when nobody answers.
func (g *Gabion) Peek() (s Status, ok bool) {
	c := http.Client{Timeout: Patience(time.Minute), Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dir, err := os.Open(g.Data)
			if err != nil {
				return nil, err
			}
			defer dir.Close()
			// A socket's path must be short, the data directory's need not be.
			return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/control.sock", dir.Fd()))
		}}}
	a, err := c.Get("http://gabion/v1/status")
	if err != nil {
		return s, false
	}
	defer a.Body.Close()
	return s, a.StatusCode == http.StatusOK && json.NewDecoder(a.Body).Decode(&s) == nil
}

// WaitStatus waits until the status is as cond wants it.
func (g *Gabion) WaitStatus(limit time.Duration, what string, cond func(Status) bool) {
	g.t.Helper()
	var s Status
	var ok bool
	for end := time.Now().Add(Patience(limit)); ; time.Sleep(250 * time.Millisecond) {
		if s, ok = g.Peek(); ok && cond(s) {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("waited %v in vain for: %s: %v, %+v", Patience(limit), what, ok, s)
		}
		if !g.Running() {
			g.t.Fatalf("gabion has ended while waiting for: %s", what)
		}
	}
}
