package dav

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// davFile is the webdav.File of one request: content to read, a directory to list, or properties.
type davFile struct {
	ctx     context.Context
	fs      *davFS
	info    *fileInfo
	content *snapshot // nil unless content is read
	off     int64
}

var (
	_ webdav.File            = (*davFile)(nil)
	_ webdav.DeadPropsHolder = (*davFile)(nil)
)

// maxReplaced is how often a file may be replaced while it is being opened.
const maxReplaced = 100

// open begins to read the content. A file that was replaced since its name was resolved is no longer there,
// while the name always was: the name is resolved again.
func (f *davFile) open() (err error) {
	for range maxReplaced {
		ino := f.info.attr.Ino
		if f.content, err = f.fs.h.readers.begin(f.ctx, ino); err == nil {
			f.info = &fileInfo{path: f.info.path, name: f.info.name, attr: f.content.attr}
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		n, again := f.fs.h.existing(f.ctx, f.info.path)
		if again != nil || n.attr.Ino == ino || !n.attr.IsRegular() {
			return err
		}
		f.info = &fileInfo{path: f.info.path, name: n.name, attr: n.attr}
	}
	return err
}

func (f *davFile) Stat() (os.FileInfo, error) { return f.info, nil }

func (f *davFile) Close() error {
	if f.content != nil {
		f.content.close()
		f.content = nil
	}
	return nil
}

func (f *davFile) Read(p []byte) (int, error) {
	rest := f.info.attr.Size - f.off
	if rest <= 0 || f.content == nil {
		return 0, io.EOF
	}
	n, err := f.content.read(f.ctx, f.off, p[:min(int64(len(p)), rest)])
	f.off += int64(n)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF // it was truncated, through a mount; the length is promised already
	}
	if err != nil {
		return n, f.fs.keep(err)
	}
	return n, nil
}

func (f *davFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		off += f.info.attr.Size
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	f.off = off
	return off, nil
}

// Write refuses: content is written by put alone.
func (f *davFile) Write([]byte) (int, error) { return 0, f.fs.keep(fs.ErrNotSupported) }

// Readdir returns the whole directory, whatever count is; x/net/webdav asks for nothing else.
func (f *davFile) Readdir(int) ([]os.FileInfo, error) {
	all, err := f.fs.h.list(f.ctx, f.info)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed since it was opened: it has no members
	}
	if err != nil {
		return nil, f.fs.keep(err)
	}
	f.fs.listed, f.fs.next = all, 0
	infos := make([]os.FileInfo, len(all))
	for i, fi := range all {
		infos[i] = fi
	}
	return infos, nil
}

// DeadProps returns the properties that x/net/webdav does not make itself: those that are stored, and
// the live ones of liveProps.
func (f *davFile) DeadProps() (map[xml.Name]webdav.Property, error) {
	stored, err := f.fs.stored(f.ctx, f.info)
	if err != nil {
		return nil, err
	}
	props := make(map[xml.Name]webdav.Property, len(stored)+4)
	for _, p := range stored {
		props[p.XMLName] = p
	}
	if err := f.fs.addLive(f.ctx, f.info, props); err != nil {
		return nil, f.fs.keep(err)
	}
	return props, nil
}

// Patch applies changes of properties, all or none.
func (f *davFile) Patch(patches []webdav.Proppatch) ([]webdav.Propstat, error) {
	stored, err := f.fs.h.loadProps(f.ctx, f.info.attr.Ino)
	if err != nil {
		return nil, f.fs.keep(err)
	}
	c := propChange{props: stored, attr: f.info.attr}
	for _, patch := range patches {
		for _, p := range patch.Props {
			c.apply(p, patch.Remove)
		}
	}
	if !c.failed() {
		err := f.fs.h.storeProps(f.ctx, f.info.attr.Ino, stored, c.props)
		switch {
		case errors.Is(err, fs.ErrTooBig):
			c.refuseStored(http.StatusInsufficientStorage)
		case err != nil:
			return nil, f.fs.keep(err)
		case c.set.Mask != 0:
			if _, err := f.fs.h.fs.Setattr(f.ctx, f.info.attr.Ino, c.set); err != nil {
				return nil, f.fs.keep(err)
			}
		}
		if err := f.fs.h.settle(f.ctx, f.info.attr.Ino); err != nil {
			return nil, f.fs.keep(err)
		}
	}
	return c.propstats(), nil
}
