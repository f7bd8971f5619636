package meta

import (
	"context"
	"errors"
	"strings"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// maxXattrName is the kernel's XATTR_NAME_MAX.
const maxXattrName = 255

// checkXattr says whether an attribute's name can be stored. Which namespaces there are and who may use
// them is the exporter's business, but system. attributes have a meaning that nobody here would keep.
func checkXattr(name string) error {
	switch {
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return fs.ErrInvalid
	case len(name) > maxXattrName:
		return fs.ErrNameTooLong
	case strings.HasPrefix(name, "system."):
		return fs.ErrNotSupported
	}
	return nil
}

func xattrKey(ino fs.Ino, name string) []byte {
	return append(append(make([]byte, 0, 8+len(name)), inodeKey(ino)...), name...)
}

func xattrRange(ino fs.Ino) kv.Range { return kv.Range{From: inodeKey(ino), To: inodeKey(ino + 1)} }

// GetXattr returns the value of an extended attribute; fs.ErrNoAttr when ino has none of that name.
func (t *Tree) GetXattr(ctx context.Context, ino fs.Ino, name string) (value []byte, err error) {
	if err := checkXattr(name); err != nil {
		return nil, err
	}
	err = t.view(ctx, func(r kv.Reader) error {
		b, err := r.Get(XattrKeyspace, xattrKey(ino, name))
		if errors.Is(err, kv.ErrNotFound) {
			if _, err := GetInode(r, ino); err != nil {
				return err
			}
			return fs.ErrNoAttr
		}
		value = append([]byte{}, b...)
		return err
	})
	return value, translate(err)
}

// SetXattr sets an extended attribute, under the rules of setxattr(2): fs.ErrExist and fs.ErrNoAttr by
// m, fs.ErrTooBig for a value over fs.MaxXattr, fs.ErrNoSpace when the list of names would pass it.
func (t *Tree) SetXattr(ctx context.Context, ino fs.Ino, name string, value []byte, m fs.XattrMode) error {
	err := checkXattr(name)
	switch {
	case err != nil:
	case len(value) > fs.MaxXattr:
		err = fs.ErrTooBig
	case m&^(fs.XattrCreate|fs.XattrReplace) != 0:
		err = fs.ErrInvalid
	}
	if err != nil {
		return &fs.OpError{Op: "setxattr", Ino: ino, Name: name, Err: err}
	}
	value = append([]byte{}, value...) // the transaction keeps it
	return t.update(ctx, "setxattr", ino, name, func(c *change) error {
		in, err := GetInode(c, ino)
		if err != nil {
			return err
		}
		_, err = c.Get(XattrKeyspace, xattrKey(ino, name))
		switch {
		case err == nil && m&fs.XattrCreate != 0:
			return fs.ErrExist
		case err == nil:
		case !errors.Is(err, kv.ErrNotFound):
			return err
		case m&fs.XattrReplace != 0:
			return fs.ErrNoAttr
		default:
			used, err := xattrNames(c, ino, nil)
			if err != nil {
				return err
			}
			if used+len(name)+1 > fs.MaxXattr {
				return fs.ErrNoSpace
			}
			in.Xattrs++
		}
		c.Put(XattrKeyspace, xattrKey(ino, name), value)
		in.Changed(c.now)
		PutInode(c, &in)
		return nil
	})
}

// RemoveXattr removes an extended attribute; fs.ErrNoAttr when ino has none of that name.
func (t *Tree) RemoveXattr(ctx context.Context, ino fs.Ino, name string) error {
	if err := checkXattr(name); err != nil {
		return &fs.OpError{Op: "removexattr", Ino: ino, Name: name, Err: err}
	}
	return t.update(ctx, "removexattr", ino, name, func(c *change) error {
		in, err := GetInode(c, ino)
		if err != nil {
			return err
		}
		if _, err := c.Get(XattrKeyspace, xattrKey(ino, name)); err != nil {
			if errors.Is(err, kv.ErrNotFound) {
				err = fs.ErrNoAttr
			}
			return err
		}
		if in.Xattrs == 0 {
			return damaged(InodeKeyspace, inodeKey(ino), "it counts no extended attributes and has some")
		}
		in.Xattrs--
		c.Delete(XattrKeyspace, xattrKey(ino, name))
		in.Changed(c.now)
		PutInode(c, &in)
		return nil
	})
}

// ListXattr returns the names of the extended attributes of ino, sorted.
func (t *Tree) ListXattr(ctx context.Context, ino fs.Ino) (names []string, err error) {
	err = t.view(ctx, func(r kv.Reader) error {
		names = nil
		in, err := GetInode(r, ino)
		if err != nil || in.Xattrs == 0 {
			return err
		}
		_, err = xattrNames(r, ino, func(name []byte) { names = append(names, string(name)) })
		return err
	})
	if err != nil {
		return nil, &fs.OpError{Op: "listxattr", Ino: ino, Err: translate(err)}
	}
	return names, nil
}

// xattrNames calls fn, which may be nil, with each name, and returns how many bytes listxattr(2) takes.
func xattrNames(r kv.Reader, ino fs.Ino, fn func(name []byte)) (size int, err error) {
	err = r.Range(XattrKeyspace, xattrRange(ino), func(k, _ []byte) bool {
		size += len(k) - 8 + 1
		if fn != nil {
			fn(k[8:])
		}
		return true
	})
	return size, err
}

func dropXattrs(t kv.Txn, ino fs.Ino) error {
	var keys [][]byte // deleted after the range, which must not see writes
	_, err := xattrNames(t, ino, func(name []byte) { keys = append(keys, xattrKey(ino, string(name))) })
	for _, k := range keys {
		t.Delete(XattrKeyspace, k)
	}
	return err
}
