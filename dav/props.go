package dav

import (
	"context"
	"encoding/xml"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// propQuery is what a PROPFIND asks for.
type propQuery struct {
	depth string
	all   bool              // allprop
	names bool              // propname
	want  map[xml.Name]bool // prop, or include of allprop
	dead  bool              // a dead property could be among them
	locks map[string][]lock // of the resources that the answer is about; loaded when asked for
}

// liveProp is a property that the state of a resource determines, beyond those of x/net/webdav.
type liveProp struct {
	value func(f *davFS, ctx context.Context, i *fileInfo) (innerXML string, ok bool, err error)
	set   func(c *propChange, value string) bool // nil: protected
	inAll bool                                   // part of allprop
	// doubled: x/net/webdav has one of its own, and would list it twice where it is not asked for by name.
	doubled bool
}

const (
	msNS     = "urn:schemas-microsoft-com:"
	apacheNS = "http://apache.org/dav/props/"
)

// liveProps is set up once and never changes.
var liveProps = map[xml.Name]liveProp{
	{Space: davNS, Local: "creationdate"}:          {value: creationDate, inAll: true},
	{Space: davNS, Local: "lockdiscovery"}:         {value: lockDiscovery, inAll: true},
	{Space: davNS, Local: "supportedlock"}:         {value: supportedLock, doubled: true},
	{Space: davNS, Local: "quota-available-bytes"}: {value: quotaAvailable},
	{Space: davNS, Local: "quota-used-bytes"}:      {value: quotaUsed},
	{Space: davNS, Local: "lastmodified"}:          {value: epochMtime, set: setEpochMtime},
	{Space: msNS, Local: "Win32LastModifiedTime"}:  {value: httpMtime, set: setMtime},
	{Space: msNS, Local: "Win32LastAccessTime"}:    {value: httpAtime, set: setAtime},
	{Space: apacheNS, Local: "executable"}:         {value: executable, set: setExecutable},
	// Settable here; x/net/webdav answers PROPFIND of it. See renameProtected.
	{Space: davNS, Local: renamedPrefix + "getlastmodified"}: {set: setMtime},
}

// inNet are the properties that x/net/webdav knows, and keeps PROPPATCH from setting.
var inNet = []string{"resourcetype", "displayname", "getcontentlength", "getlastmodified", "creationdate",
	"getcontentlanguage", "getcontenttype", "getetag", "lockdiscovery", "supportedlock"}

// wantsStored reports whether a dead property could be among what q asks for. Most clients list with
// live properties only, which spares a read for each member.
func (q *propQuery) wantsStored() bool {
	if q.all || q.names {
		return true
	}
	for name := range q.want {
		if _, live := liveProps[name]; !live && !(name.Space == davNS && slices.Contains(inNet, name.Local)) {
			return true
		}
	}
	return false
}

// addLive adds the live properties that were asked for to props.
func (f *davFS) addLive(ctx context.Context, i *fileInfo, props map[xml.Name]webdav.Property) error {
	q := f.props
	if q == nil {
		return nil
	}
	for name, p := range liveProps {
		if p.value == nil || !(q.want[name] || q.all && p.inAll || q.names && !p.doubled) {
			continue
		}
		v, ok, err := p.value(f, ctx, i)
		if err != nil {
			return err
		}
		if ok {
			props[name] = webdav.Property{XMLName: name, InnerXML: []byte(v)}
		}
	}
	return nil
}

func creationDate(_ *davFS, _ context.Context, i *fileInfo) (string, bool, error) {
	return time.Unix(0, i.attr.Btime).UTC().Format("2006-01-02T15:04:05Z"), true, nil
}

func epochMtime(_ *davFS, _ context.Context, i *fileInfo) (string, bool, error) {
	return strconv.FormatInt(time.Unix(0, i.attr.Mtime).Unix(), 10), true, nil
}

func httpMtime(_ *davFS, _ context.Context, i *fileInfo) (string, bool, error) {
	return time.Unix(0, i.attr.Mtime).UTC().Format(http.TimeFormat), true, nil
}

func httpAtime(_ *davFS, _ context.Context, i *fileInfo) (string, bool, error) {
	return time.Unix(0, i.attr.Atime).UTC().Format(http.TimeFormat), true, nil
}

func executable(_ *davFS, _ context.Context, i *fileInfo) (string, bool, error) {
	if i.attr.Mode&0o100 != 0 {
		return "T", i.attr.IsRegular(), nil
	}
	return "F", i.attr.IsRegular(), nil
}

func quotaAvailable(f *davFS, ctx context.Context, i *fileInfo) (string, bool, error) {
	return f.quota(ctx, i, func(s *fs.Stat) uint64 { return s.Avail })
}

func quotaUsed(f *davFS, ctx context.Context, i *fileInfo) (string, bool, error) {
	return f.quota(ctx, i, func(s *fs.Stat) uint64 { return s.Total - s.Free })
}

func (f *davFS) quota(ctx context.Context, i *fileInfo, pick func(*fs.Stat) uint64) (string, bool, error) {
	if !i.IsDir() {
		return "", false, nil
	}
	if f.stat == nil {
		s, err := f.h.fs.StatFS(ctx)
		if err != nil {
			return "", false, err
		}
		f.stat = &s
	}
	return strconv.FormatUint(pick(f.stat), 10), true, nil
}

func supportedLock(*davFS, context.Context, *fileInfo) (string, bool, error) {
	entry := func(scope string) string {
		return `<D:lockentry xmlns:D="DAV:"><D:lockscope><D:` + scope + `/></D:lockscope>` +
			`<D:locktype><D:write/></D:locktype></D:lockentry>`
	}
	return entry("exclusive") + entry("shared"), true, nil
}

// lockDiscovery lists the locks on i. Those of a whole listing are read at once.
func lockDiscovery(f *davFS, ctx context.Context, i *fileInfo) (string, bool, error) {
	q := f.props
	if q.locks == nil {
		which := above
		if q.depth != "0" {
			which |= below
		}
		found, err := f.h.locks.find(ctx, f.rq.path, which, f.h.now())
		if err != nil {
			return "", false, err
		}
		q.locks = map[string][]lock{}
		for _, l := range found {
			at := l.path
			if l.deep && within(f.rq.path, l.path) {
				at = "/" // covers whatever is listed
			}
			q.locks[at] = append(q.locks[at], l)
		}
	}
	var b strings.Builder
	for _, at := range []string{"/", i.path} {
		for _, l := range q.locks[at] {
			if l.covers(i.path) {
				b.WriteString(f.h.activeLock(&l))
			}
		}
		if i.path == "/" {
			break
		}
	}
	return b.String(), true, nil
}

// propChange collects what a PROPPATCH asks for.
type propChange struct {
	props   []webdav.Property // the dead properties as they will be
	attr    fs.Attr
	set     fs.SetAttr
	results []propResult
}

type propResult struct {
	name   xml.Name
	status int
	stored bool // it is a dead property
}

// apply changes one property, in the order of the request, as RFC 4918 wants it.
func (c *propChange) apply(p webdav.Property, remove bool) {
	name := p.XMLName
	res := propResult{name: name, status: http.StatusOK}
	if rest, ok := strings.CutPrefix(name.Local, renamedPrefix); ok && name.Space == davNS {
		res.name.Local = rest
	}
	live, isLive := liveProps[name]
	switch {
	case isLive && (remove || live.set == nil):
		res.status = http.StatusForbidden
	case isLive:
		if !live.set(c, strings.TrimSpace(string(p.InnerXML))) {
			res.status = http.StatusConflict
		}
	default:
		res.stored = true
		i, found := slices.BinarySearchFunc(c.props, name, func(p webdav.Property, n xml.Name) int {
			return compareNames(p.XMLName, n)
		})
		switch {
		case remove && found:
			c.props = slices.Concat(c.props[:i], c.props[i+1:])
		case remove:
		case found:
			c.props = slices.Concat(c.props[:i], []webdav.Property{p}, c.props[i+1:])
		default:
			c.props = slices.Concat(c.props[:i], []webdav.Property{p}, c.props[i:])
		}
	}
	c.results = append(c.results, res)
}

func (c *propChange) failed() bool {
	return slices.ContainsFunc(c.results, func(r propResult) bool { return r.status != http.StatusOK })
}

// refuseStored says that the dead properties failed.
func (c *propChange) refuseStored(status int) {
	for i := range c.results {
		if c.results[i].stored {
			c.results[i].status = status
		}
	}
}

// propstats groups the results by status. When one failed, all that did not depend on it.
func (c *propChange) propstats() (stats []webdav.Propstat) {
	failed := c.failed()
	for _, r := range c.results {
		if failed && r.status == http.StatusOK {
			r.status = webdav.StatusFailedDependency
		}
		i := slices.IndexFunc(stats, func(s webdav.Propstat) bool { return s.Status == r.status })
		if i < 0 {
			i = len(stats)
			s := webdav.Propstat{Status: r.status}
			if r.status == http.StatusForbidden {
				s.XMLError = `<D:cannot-modify-protected-property xmlns:D="DAV:"/>`
			}
			stats = append(stats, s)
		}
		stats[i].Props = append(stats[i].Props, webdav.Property{XMLName: r.name})
	}
	return stats
}

func setMtime(c *propChange, v string) bool {
	t, ok := parseTime(v)
	c.set.Mask |= fs.SetMtime
	c.set.Mtime = t
	return ok
}

func setAtime(c *propChange, v string) bool {
	t, ok := parseTime(v)
	c.set.Mask |= fs.SetAtime
	c.set.Atime = t
	return ok
}

func setEpochMtime(c *propChange, v string) bool {
	sec, err := strconv.ParseInt(v, 10, 64)
	c.set.Mask |= fs.SetMtime
	c.set.Mtime = sec * int64(time.Second)
	return err == nil && sec >= 0 && sec < math.MaxInt64/int64(time.Second)
}

func setExecutable(c *propChange, v string) bool {
	c.set.Mask |= fs.SetMode
	c.set.Mode = c.attr.Mode &^ (fs.TypeMask | 0o111)
	if v == "T" {
		c.set.Mode |= c.attr.Mode & 0o444 >> 2
	}
	return c.attr.IsRegular() && (v == "T" || v == "F")
}

// parseTime reads the date formats of HTTP and RFC 3339, to nanoseconds since the epoch.
func parseTime(v string) (int64, bool) {
	t, err := http.ParseTime(v)
	if err != nil {
		t, err = time.Parse(time.RFC3339, v)
	}
	return t.UnixNano(), err == nil && t.Year() > 1677 && t.Year() < 2262
}
