package volume

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/fs/meta"
	"github.com/gabionfs/gabion/kv"
)

func (s *Session) Getattr(ctx context.Context, ino fs.Ino) (fs.Attr, error) {
	if err := s.exists(ino); err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Getattr(ctx, ino)
	return s.attr(&in, err)
}

func (s *Session) Setattr(ctx context.Context, ino fs.Ino, set fs.SetAttr) (fs.Attr, error) {
	ctx, err := s.begin(ctx, ino)
	if err != nil {
		return fs.Attr{}, err
	}
	size := set.Mask&fs.SetSize != 0
	if size {
		if err := s.v.data.SetSize(ctx, ino, set.Size); err != nil {
			return fs.Attr{}, opError("truncate", ino, err)
		}
		set.Mask &^= fs.SetSize
	}
	if set.Mask&(fs.SetMtime|fs.SetMtimeNow) != 0 {
		s.v.data.TimesSet(ino)
	}
	var in meta.Inode
	if set.Mask != 0 {
		in, err = s.v.tree.Setattr(ctx, ino, set)
	} else {
		in, err = s.v.tree.Getattr(ctx, ino)
	}
	if err == nil {
		s.inodeChanged(ino, size)
	}
	return s.attr(&in, err)
}

func (s *Session) GetXattr(ctx context.Context, ino fs.Ino, name string) ([]byte, error) {
	if err := s.exists(ino); err != nil {
		return nil, err
	}
	return s.v.tree.GetXattr(ctx, ino, name)
}

func (s *Session) ListXattr(ctx context.Context, ino fs.Ino) ([]string, error) {
	if err := s.exists(ino); err != nil {
		return nil, err
	}
	return s.v.tree.ListXattr(ctx, ino)
}

func (s *Session) SetXattr(ctx context.Context, ino fs.Ino, name string, value []byte, m fs.XattrMode) error {
	ctx, err := s.begin(ctx, ino)
	if err != nil {
		return err
	}
	if err = s.v.tree.SetXattr(ctx, ino, name, value, m); err == nil {
		s.inodeChanged(ino, false)
	}
	return err
}

func (s *Session) RemoveXattr(ctx context.Context, ino fs.Ino, name string) error {
	ctx, err := s.begin(ctx, ino)
	if err != nil {
		return err
	}
	if err = s.v.tree.RemoveXattr(ctx, ino, name); err == nil {
		s.inodeChanged(ino, false)
	}
	return err
}

// Hold keeps ino alive without a name.
func (s *Session) Hold(ino fs.Ino) error {
	first, ok := s.v.holds.hold(ino)
	if !ok {
		return fs.ErrNotExist
	}
	if !first {
		return nil
	}
	// The inode may have been reaped before: then it has no row. It cannot be reaped from here on.
	err := s.v.kv.View(context.Background(), kv.Pending, func(r kv.Reader) error {
		_, err := meta.GetInode(r, ino)
		return err
	})
	if err != nil {
		s.Drop(ino, 1)
		if errors.Is(err, kv.ErrClosed) {
			err = fs.ErrClosed
		}
	}
	return err
}

// Drop undoes n Holds.
func (s *Session) Drop(ino fs.Ino, n uint64) {
	if s.v.holds.drop(ino, n) {
		s.v.data.Reap(ino)
	}
}

func (s *Session) StatFS(ctx context.Context) (fs.Stat, error) {
	files, err := s.v.tree.Files(ctx)
	if err != nil {
		return fs.Stat{}, err
	}
	c := objCapacity(s.v)
	st := fs.Stat{Total: uint64(max(0, c.Total)), Free: uint64(max(0, c.Free))}
	st.Avail = st.Free
	st.FilesFree = st.Free / bytesPerInode
	st.Files = files + st.FilesFree
	return st, nil
}

// bytesPerInode is what a small file is taken to cost when the free inodes are estimated: nothing
// limits their number but space.
const bytesPerInode = 4096

func (s *Session) Sync(ctx context.Context) error { return s.v.data.Sync(ctx) }

func opError(op string, ino fs.Ino, err error) error {
	if err == nil {
		return nil
	}
	return &fs.OpError{Op: op, Ino: ino, Err: err}
}
