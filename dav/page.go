package dav

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

// pageTemplate is parsed once and never changes.
var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// pageRows is how many entries one page shows.
const pageRows = 2000

type pageData struct {
	Title      string
	Zone       string // of the times
	Crumbs     []pageLink
	Up         string // empty on the top
	Rows       []pageRow
	From, To   int
	Total      int
	Prev, Next string
}

type pageLink struct{ Name, Href string }

type pageRow struct {
	Name, Href string
	Dir        bool
	Size       string
	Bytes      int64
	Time       string
	Stamp      string
}

// page shows a collection to people: directories first, then files, by name.
func (h *Handler) page(ctx context.Context, rq *request, n *node) error {
	all, err := h.list(ctx, &fileInfo{path: n.path, name: n.name, attr: n.attr})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b *fileInfo) int {
		if a.IsDir() != b.IsDir() {
			if a.IsDir() {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)), strings.Compare(a.name, b.name))
	})
	first, _ := strconv.Atoi(rq.r.URL.Query().Get("from")) // anything else than a number is the beginning
	d := h.pageData(n.path, all, min(max(first, 0), len(all)))

	hd := rq.w.Header()
	hd.Set("Content-Type", "text/html; charset=utf-8")
	hd.Set("Cache-Control", "no-cache")
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("X-Frame-Options", "DENY")
	hd.Set("Referrer-Policy", "no-referrer")
	hd.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
	rq.w.WriteHeader(http.StatusOK)
	if rq.r.Method == http.MethodHead {
		return nil
	}
	w := bufio.NewWriterSize(rq.w, 32<<10)
	if err := pageTemplate.Execute(w, d); err != nil {
		return err
	}
	return w.Flush()
}

func (h *Handler) pageData(path string, all []*fileInfo, first int) *pageData {
	last := min(first+pageRows, len(all))
	d := &pageData{
		Title: path, Zone: h.now().Format("MST"), Total: len(all), From: first + 1, To: last,
		Crumbs: []pageLink{{"gabion", h.href("/", true)}},
	}
	if path != "/" {
		dir, _ := split(path)
		d.Up = h.href(dir, true)
		for i, name := range strings.Split(path[1:], "/") {
			at := "/" + strings.Join(strings.Split(path[1:], "/")[:i+1], "/")
			d.Crumbs = append(d.Crumbs, pageLink{name, h.href(at, true)})
		}
	}
	for _, fi := range all[first:last] {
		row := pageRow{
			Name: fi.name, Href: h.href(fi.path, fi.IsDir()), Dir: fi.IsDir(),
			Time: fi.ModTime().Format("2006-01-02 15:04"), Stamp: fi.ModTime().UTC().Format(time.RFC3339),
		}
		if !fi.IsDir() {
			row.Size, row.Bytes = humanSize(fi.attr.Size), fi.attr.Size
		}
		d.Rows = append(d.Rows, row)
	}
	here := h.href(path, true)
	if first > 0 {
		d.Prev = fmt.Sprintf("%s?from=%d", here, max(first-pageRows, 0))
	}
	if last < len(all) {
		d.Next = fmt.Sprintf("%s?from=%d", here, last)
	}
	return d
}

// humanSize writes a size with three digits that count.
func humanSize(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.5 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	digits := 0
	if v < 9.995 {
		digits = 2
	} else if v < 99.95 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, v, "KMGTPE"[unit])
}
