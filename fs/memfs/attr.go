package memfs

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

func (f *FS) Getattr(_ context.Context, ino fs.Ino) (a fs.Attr, err error) {
	err = f.view("getattr", ino, "", func(st *state) error {
		n, err := st.get(ino)
		if err == nil {
			a = n.stat()
		}
		return err
	})
	return a, err
}

func (f *FS) Setattr(_ context.Context, ino fs.Ino, s fs.SetAttr) (a fs.Attr, err error) {
	err = f.update("setattr", ino, "", func(c *change) error {
		n, err := c.get(ino)
		if err != nil {
			return err
		}
		if s.Mask&fs.SetSize != 0 {
			if n, err = c.regular(ino); err != nil {
				return err
			}
			if err := checkRange(s.Size, 0); err != nil {
				return err
			}
		}
		if s.Mask != 0 {
			c.setattr(n, s)
		}
		a = n.stat()
		return nil
	})
	return a, err
}

func (c *change) setattr(n *inode, s fs.SetAttr) {
	c.touch(n, s.Mask&fs.SetSize != 0)
	if s.Mask&fs.SetSize != 0 {
		n.data.truncate(n.attr.Size, s.Size)
		n.attr.Size = s.Size
	}
	if s.Mask&fs.SetMode != 0 {
		n.attr.Mode = n.attr.Mode&fs.TypeMask | s.Mode&0o7777
	}
	if s.Mask&fs.SetUID != 0 {
		n.attr.UID = s.UID
	}
	if s.Mask&fs.SetGID != 0 {
		n.attr.GID = s.GID
	}
	if s.Mask&fs.SetAtime != 0 {
		n.attr.Atime = s.Atime
	}
	if s.Mask&fs.SetMtime != 0 {
		n.attr.Mtime = s.Mtime
	}
	if s.Mask&fs.SetAtimeNow != 0 {
		n.attr.Atime = c.now
	}
	if s.Mask&fs.SetMtimeNow != 0 {
		n.attr.Mtime = c.now
	}
}

func checkXattrName(name string) error {
	switch {
	case name == "" || strings.Contains(name, "\x00"):
		return fs.ErrInvalid
	case len(name) > fs.MaxName:
		return fs.ErrNameTooLong
	}
	return nil
}

func (f *FS) GetXattr(_ context.Context, ino fs.Ino, name string) (value []byte, err error) {
	err = f.view("getxattr", ino, name, func(st *state) error {
		if err := checkXattrName(name); err != nil {
			return err
		}
		n, err := st.get(ino)
		if err != nil {
			return err
		}
		v, ok := n.xattrs[name]
		if !ok {
			return fs.ErrNoAttr
		}
		value = slices.Clone(v)
		return nil
	})
	return value, err
}

func (f *FS) SetXattr(_ context.Context, ino fs.Ino, name string, value []byte, m fs.XattrMode) error {
	return f.update("setxattr", ino, name, func(c *change) error {
		if err := checkXattrName(name); err != nil {
			return err
		}
		if m&^(fs.XattrCreate|fs.XattrReplace) != 0 {
			return fs.ErrInvalid
		}
		n, err := c.get(ino)
		if err != nil {
			return err
		}
		_, exists := n.xattrs[name]
		switch {
		case len(value) > fs.MaxXattr:
			return fs.ErrTooBig
		case exists && m&fs.XattrCreate != 0:
			return fs.ErrExist
		case !exists && m&fs.XattrReplace != 0:
			return fs.ErrNoAttr
		}
		list := len(name) + 1 // as listxattr(2) counts, each name ends in a zero byte
		for other := range n.xattrs {
			list += len(other) + 1
		}
		if !exists && list > fs.MaxXattr {
			return fs.ErrNoSpace
		}
		if n.xattrs == nil {
			n.xattrs = map[string][]byte{}
		}
		n.xattrs[name] = append([]byte{}, value...)
		c.touch(n, false)
		return nil
	})
}

func (f *FS) RemoveXattr(_ context.Context, ino fs.Ino, name string) error {
	return f.update("removexattr", ino, name, func(c *change) error {
		if err := checkXattrName(name); err != nil {
			return err
		}
		n, err := c.get(ino)
		if err != nil {
			return err
		}
		if _, ok := n.xattrs[name]; !ok {
			return fs.ErrNoAttr
		}
		delete(n.xattrs, name)
		c.touch(n, false)
		return nil
	})
}

func (f *FS) ListXattr(_ context.Context, ino fs.Ino) (names []string, err error) {
	err = f.view("listxattr", ino, "", func(st *state) error {
		n, err := st.get(ino)
		if err == nil {
			names = slices.Sorted(maps.Keys(n.xattrs))
		}
		return err
	})
	return names, err
}

func (f *FS) Hold(ino fs.Ino) error {
	f.st.mu.Lock()
	defer f.st.mu.Unlock()
	n, err := f.st.get(ino)
	if err != nil {
		return &fs.OpError{Op: "hold", Ino: ino, Err: err}
	}
	n.holds++
	return nil
}

func (f *FS) Drop(ino fs.Ino, count uint64) {
	f.st.mu.Lock()
	defer f.st.mu.Unlock()
	n := f.st.inodes[ino]
	if n == nil || n.holds < count {
		panic("memfs: an inode was dropped more often than held")
	}
	n.holds -= count
	f.st.reap(n)
}

func (f *FS) StatFS(context.Context) (fs.Stat, error) {
	f.st.mu.RLock()
	defer f.st.mu.RUnlock()
	const total = 1 << 40
	var used uint64
	for _, n := range f.st.inodes {
		used += uint64(n.data.blocks()) * 512
	}
	free := uint64(total) - min(used, total)
	files := uint64(len(f.st.inodes))
	return fs.Stat{Total: total, Free: free, Avail: free, Files: files + 1<<32, FilesFree: 1 << 32}, nil
}
