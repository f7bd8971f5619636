package dav

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// list reads a whole directory. Links are followed; what WebDAV cannot show is left out.
func (h *Handler) list(ctx context.Context, dir *fileInfo) ([]*fileInfo, error) {
	var all []*fileInfo
	links := false
	err := h.fs.ReadDir(ctx, dir.attr.Ino, 0, true, func(d fs.Dirent, a *fs.Attr) bool {
		switch a.Mode & fs.TypeMask {
		case fs.TypeSymlink:
			links = true
		case fs.TypeDir, fs.TypeRegular:
		default:
			return true
		}
		if !strings.HasPrefix(d.Name, stagePrefix) {
			all = append(all, &fileInfo{path: join(dir.path, d.Name), name: d.Name, attr: *a})
		}
		return true
	})
	if err != nil || !links {
		return all, err
	}
	return slices.DeleteFunc(all, func(fi *fileInfo) bool {
		if fi.attr.Mode&fs.TypeMask != fs.TypeSymlink {
			return false
		}
		n, err := h.existing(ctx, fi.path)
		fi.attr = n.attr
		return err != nil || !n.attr.IsDir() && !n.attr.IsRegular()
	}), nil
}

func join(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

// fileInfo is an os.FileInfo that knows its entity tag and content type.
type fileInfo struct {
	path, name string
	attr       fs.Attr
}

var (
	_ webdav.ETager       = (*fileInfo)(nil)
	_ webdav.ContentTyper = (*fileInfo)(nil)
)

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.attr.Size }
func (i *fileInfo) ModTime() time.Time { return time.Unix(0, i.attr.Mtime) }
func (i *fileInfo) IsDir() bool        { return i.attr.IsDir() }
func (i *fileInfo) Sys() any           { return &i.attr }

func (i *fileInfo) Mode() os.FileMode {
	m := os.FileMode(i.attr.Mode & 0o777)
	if i.IsDir() {
		m |= os.ModeDir
	}
	return m
}

func (i *fileInfo) ETag(context.Context) (string, error) { return etag(&i.attr), nil }

// ContentType goes by the extension alone: a listing must not open every file.
func (i *fileInfo) ContentType(context.Context) (string, error) {
	if t := typeByName(i.name); t != "" {
		return t, nil
	}
	return "application/octet-stream", nil
}
