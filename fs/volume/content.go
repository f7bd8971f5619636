package volume

import (
	"context"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/objstore"
)

func (s *Session) Read(ctx context.Context, ino fs.Ino, off int64, p []byte) (int, error) {
	if err := s.exists(ino); err != nil {
		return 0, err
	}
	n, err := s.v.data.Read(ctx, ino, off, p)
	return n, opError("read", ino, err)
}

func (s *Session) Write(ctx context.Context, ino fs.Ino, off int64, p []byte) error {
	ctx, err := s.begin(ctx, ino)
	if err != nil {
		return err
	}
	if err := s.v.data.Write(ctx, ino, off, p); err != nil {
		return opError("write", ino, err)
	}
	s.inodeChanged(ino, true)
	return nil
}

func (s *Session) Fsync(ctx context.Context, ino fs.Ino) error {
	a, err := s.Getattr(ctx, ino)
	if err != nil {
		return err
	}
	if ctx, err = s.begin(ctx, ino); err != nil {
		return err
	}
	if !a.IsRegular() {
		return opError("fsync", ino, s.v.kv.Sync(ctx))
	}
	return opError("fsync", ino, s.v.data.Fsync(ctx, ino))
}

func (s *Session) Allocate(ctx context.Context, ino fs.Ino, m fs.AllocMode, off, length int64) error {
	ctx, err := s.begin(ctx, ino)
	if err != nil {
		return err
	}
	if err := s.v.data.Allocate(ctx, ino, m, off, length); err != nil {
		return opError("allocate", ino, err)
	}
	s.inodeChanged(ino, true)
	return nil
}

func (s *Session) Seek(ctx context.Context, ino fs.Ino, off int64, whence int) (int64, error) {
	if err := s.exists(ino); err != nil {
		return 0, err
	}
	pos, err := s.v.data.Seek(ctx, ino, off, whence)
	return pos, opError("seek", ino, err)
}

func (s *Session) CopyRange(ctx context.Context, src fs.Ino, srcOff int64, dst fs.Ino, dstOff, n int64) (int64, error) {
	ctx, err := s.begin(ctx, src, dst)
	if err != nil {
		return 0, err
	}
	done, err := s.v.data.CopyRange(ctx, src, srcOff, dst, dstOff, n)
	if done > 0 {
		s.inodeChanged(dst, true)
	}
	return done, opError("copy", src, err)
}

func (s *Session) ReplaceContent(ctx context.Context, dst, src fs.Ino) (fs.Attr, error) {
	ctx, err := s.begin(ctx, dst, src)
	if err != nil {
		return fs.Attr{}, err
	}
	if err := s.v.data.ReplaceContent(ctx, dst, src); err != nil {
		return fs.Attr{}, opError("replace", dst, err)
	}
	s.inodeChanged(dst, true)
	s.inodeChanged(src, true)
	return s.Getattr(ctx, dst)
}

func objCapacity(v *Volume) objstore.Capacity {
	if v.capacity == nil {
		return objstore.Capacity{Total: fs.MaxFile, Free: fs.MaxFile}
	}
	return v.capacity()
}
