package meta

import (
	"context"
	"errors"
	"slices"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// A call reads pages of doubling size, so that a reader which takes a few entries costs little and one
// which takes all of them opens few views, none of them for long.
const (
	firstPage = 64
	lastPage  = 1024
)

// ReadDir calls fn for the entries of dir whose cookie is above after, in the order of cookies, until
// fn returns false. With plus, a is the entry's attributes, or nil where its inode is missing or
// damaged. No view is open while fn runs. An entry that exists throughout is seen exactly once, however
// the others change. a is valid during the call only.
func (t *Tree) ReadDir(ctx context.Context, dir fs.Ino, after uint64, plus bool, fn func(d fs.Dirent, a *fs.Attr) bool) error {
	p := page{want: firstPage}
	for first := true; after < cookieMask; first = false {
		err := t.view(ctx, func(r kv.Reader) error {
			if first {
				in, err := GetInode(r, dir)
				if err != nil {
					return err
				}
				if !in.IsDir() {
					return fs.ErrNotDir
				}
			}
			return p.read(r, dir, after, plus)
		})
		if err != nil {
			return &fs.OpError{Op: "readdir", Ino: dir, Err: translate(err)}
		}
		names := string(p.names) // one allocation for all of them
		for i := range p.entries {
			e := &p.entries[i]
			d := fs.Dirent{Ino: e.ino, Type: e.typ, Cookie: e.cookie, Name: names[e.from:e.to]}
			var a *fs.Attr
			if plus && p.attrs[i].Ino != 0 {
				a = &p.attrs[i]
			}
			if !fn(d, a) {
				return nil
			}
		}
		if !p.full {
			return nil
		}
		after = p.entries[len(p.entries)-1].cookie
		p.want = min(2*p.want, lastPage)
	}
	return nil
}

// page is part of a directory, copied out of a view.
type page struct {
	want    int
	full    bool // there may be more
	entries []pageEntry
	names   []byte
	attrs   []fs.Attr // with plus, of each entry; Ino 0 where there are none
	order   []int32   // scratch: entries by inode number
}

type pageEntry struct {
	entry
	cookie   uint64
	from, to int // of the name in names
}

// read fills the page with the entries above after. It ends between two cookies, never between entries
// of one cookie.
func (p *page) read(r kv.Reader, dir fs.Ino, after uint64, plus bool) error {
	p.entries, p.names, p.attrs, p.full = p.entries[:0], p.names[:0], p.attrs[:0], false
	var bad error
	err := r.Range(DirentKeyspace, direntRange(dir, after), func(k, v []byte) bool {
		_, cookie, name, err := parseDirentKey(k)
		if err == nil && len(p.entries) >= p.want && cookie != p.entries[len(p.entries)-1].cookie {
			p.full = true
			return false
		}
		e, err2 := decodeEntry(k, v)
		if bad = errors.Join(err, err2); bad != nil {
			return false
		}
		from := len(p.names)
		p.names = append(p.names, name...)
		p.entries = append(p.entries, pageEntry{e, cookie, from, len(p.names)})
		return true
	})
	if err = errors.Join(err, bad); err != nil || !plus {
		return err
	}
	return p.readAttrs(r)
}

// readAttrs reads the inodes in the order of their numbers, which is the order of their rows.
func (p *page) readAttrs(r kv.Reader) error {
	p.order = p.order[:0]
	for i := range p.entries {
		p.order = append(p.order, int32(i))
	}
	slices.SortFunc(p.order, func(a, b int32) int {
		x, y := p.entries[a].ino, p.entries[b].ino
		if x < y {
			return -1
		}
		if x > y {
			return 1
		}
		return 0
	})
	p.attrs = append(p.attrs, make([]fs.Attr, len(p.entries))...)
	if n := len(p.order); n >= denseMin {
		first, last := p.entries[p.order[0]].ino, p.entries[p.order[n-1]].ino
		if last-first < fs.Ino(denseSpan*n) {
			return p.scanAttrs(r, first, last)
		}
	}
	for _, i := range p.order {
		in, err := GetInode(r, p.entries[i].ino)
		if err := p.setAttr(i, &in, err); err != nil {
			return err
		}
	}
	return nil
}

// Where a page has at least denseMin entries and their inode numbers lie within denseSpan times as many,
// as they do in a directory that was filled in one go, one scan is cheaper than reading each.
const (
	denseMin  = 8
	denseSpan = 4
)

func (p *page) scanAttrs(r kv.Reader, first, last fs.Ino) error {
	i := 0
	var bad error
	err := r.Range(InodeKeyspace, kv.Range{From: inodeKey(first), To: inodeKey(last + 1)}, func(k, v []byte) bool {
		if len(k) != 8 {
			return true
		}
		ino := inoOf(k)
		for i < len(p.order) && p.entries[p.order[i]].ino < ino {
			i++ // its inode is missing
		}
		var in Inode
		var err error
		for decoded := false; i < len(p.order) && p.entries[p.order[i]].ino == ino; i++ {
			if !decoded {
				in, err = decodeInode(ino, v)
				decoded = true
			}
			if bad = p.setAttr(p.order[i], &in, err); bad != nil {
				return false
			}
		}
		return true
	})
	return errors.Join(err, bad)
}

// setAttr gives an entry its attributes, or none when there are none that could be read.
func (p *page) setAttr(i int32, in *Inode, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrIO) {
		return nil
	}
	if err == nil {
		p.attrs[i] = in.Attr
	}
	return err
}
