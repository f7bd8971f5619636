package volume

import (
	"context"
	"errors"

	"github.com/gabionfs/gabion/fs"
)

func (s *Session) Lookup(ctx context.Context, parent fs.Ino, name string) (fs.Attr, error) {
	if err := s.exists(parent); err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Lookup(ctx, parent, name)
	return s.attr(&in, err)
}

func (s *Session) Parent(ctx context.Context, dir fs.Ino) (fs.Ino, error) {
	if err := s.exists(dir); err != nil {
		return 0, err
	}
	return s.v.tree.Parent(ctx, dir)
}

func (s *Session) Readlink(ctx context.Context, ino fs.Ino) (string, error) {
	if err := s.exists(ino); err != nil {
		return "", err
	}
	return s.v.tree.Readlink(ctx, ino)
}

func (s *Session) ReadDir(ctx context.Context, dir fs.Ino, after uint64, plus bool, fn func(fs.Dirent, *fs.Attr) bool) error {
	if err := s.exists(dir); err != nil {
		return err
	}
	return s.v.tree.ReadDir(ctx, dir, after, plus, func(d fs.Dirent, a *fs.Attr) bool {
		if a != nil && a.IsRegular() {
			s.v.data.Overlay(a)
		}
		return fn(d, a)
	})
}

func (s *Session) Mknod(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (fs.Attr, error) {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Mknod(ctx, c, parent, name, mode, rdev)
	if err == nil {
		s.entryChanged(parent, name, 0)
	}
	return in.Attr, err
}

func (s *Session) Mkdir(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode uint32) (fs.Attr, error) {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Mkdir(ctx, c, parent, name, mode)
	if err == nil {
		s.entryChanged(parent, name, 0)
	}
	return in.Attr, err
}

func (s *Session) Symlink(ctx context.Context, c fs.Cred, parent fs.Ino, name, target string) (fs.Attr, error) {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Symlink(ctx, c, parent, name, target)
	if err == nil {
		s.entryChanged(parent, name, 0)
	}
	return in.Attr, err
}

func (s *Session) Tmpfile(ctx context.Context, c fs.Cred, parent fs.Ino, mode uint32) (fs.Attr, error) {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Tmpfile(ctx, c, parent, mode)
	if err != nil {
		return fs.Attr{}, err
	}
	s.v.holds.hold(in.Ino)
	s.v.holds.orphan(in.Ino)
	return in.Attr, nil
}

func (s *Session) Link(ctx context.Context, ino, parent fs.Ino, name string) (fs.Attr, error) {
	ctx, err := s.begin(ctx, ino, parent)
	if err != nil {
		return fs.Attr{}, err
	}
	in, err := s.v.tree.Link(ctx, ino, parent, name)
	if err != nil {
		return fs.Attr{}, err
	}
	if in.Nlink == 1 {
		s.v.holds.linked(ino)
	}
	s.entryChanged(parent, name, ino)
	return s.attr(&in, nil)
}

func (s *Session) Unlink(ctx context.Context, parent fs.Ino, name string) error {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return err
	}
	in, err := s.v.tree.Unlink(ctx, parent, name)
	if err != nil {
		return err
	}
	s.entryChanged(parent, name, in.Ino)
	if in.Nlink == 0 {
		s.v.orphaned(in.Ino)
	}
	return nil
}

func (s *Session) Rmdir(ctx context.Context, parent fs.Ino, name string) error {
	ctx, err := s.begin(ctx, parent)
	if err != nil {
		return err
	}
	in, err := s.v.tree.Rmdir(ctx, parent, name)
	if err != nil {
		return err
	}
	s.entryChanged(parent, name, in.Ino)
	s.v.orphaned(in.Ino)
	return nil
}

func (s *Session) Rename(ctx context.Context, parent fs.Ino, name string, newParent fs.Ino, newName string, f fs.RenameFlags) error {
	ctx, err := s.begin(ctx, parent, newParent)
	if err != nil {
		return err
	}
	if f&fs.RenameNoReplace == 0 {
		if err := s.flushReplacement(ctx, parent, name, newParent, newName); err != nil {
			return err
		}
	}
	r, err := s.v.tree.Rename(ctx, parent, name, newParent, newName, f)
	if err != nil || r.Unchanged {
		return err
	}
	s.entryChanged(parent, name, r.Moved.Ino)
	s.entryChanged(newParent, newName, r.Target.Ino)
	if r.Target.Ino != 0 && r.Target.Nlink == 0 {
		s.v.orphaned(r.Target.Ino)
	}
	return nil
}

// flushReplacement flushes what is about to replace an existing name. Errors of names are left to the
// rename itself.
func (s *Session) flushReplacement(ctx context.Context, parent fs.Ino, name string, newParent fs.Ino, newName string) error {
	if _, err := s.v.tree.Lookup(ctx, newParent, newName); err != nil {
		return nil
	}
	in, err := s.v.tree.Lookup(ctx, parent, name)
	if err != nil || !in.IsRegular() {
		return nil
	}
	if err := s.v.data.Flush(ctx, in.Ino); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.OpError{Op: "rename", Ino: parent, Name: name, Err: err}
	}
	return nil
}
