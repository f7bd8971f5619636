package dav

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gabionfs/gabion/fs"
)

// maxSymlinks is how many symbolic links the resolution of one name follows, as in Linux.
const maxSymlinks = 40

// node is what a path names.
type node struct {
	path   string
	parent fs.Ino  // the directory with the last entry; 0 for the root
	name   string  // of the last entry; empty for the root
	entry  fs.Attr // of the last entry itself, which may be a symbolic link; Ino 0 when there is none
	attr   fs.Attr // of what it leads to
}

func (n *node) isRoot() bool { return n.name == "" }

// found reports whether the path leads to something.
func (n *node) found() bool { return n.attr.Ino != 0 }

// errNoParent: a directory on the way is missing. It is told from a missing last name, because methods
// that create answer 409 to the one and go on with the other.
var errNoParent = fail(http.StatusConflict, "the parent collection does not exist")

// errHidden: a link that leads nowhere, out of the tree or in a circle.
var errHidden = errors.New("dav: the link leads nowhere")

// locate resolves p. A missing last name is not an error: the node is then not found. When a directory
// on the way is missing, it returns errNoParent.
func (h *Handler) locate(ctx context.Context, p string) (node, error) {
	n := node{path: p}
	w := walker{fs: h.fs, phys: []fs.Ino{fs.Root}}
	if p == "/" {
		a, err := h.fs.Getattr(ctx, fs.Root)
		n.entry, n.attr = a, a
		return n, err
	}
	visited := []fs.Ino{fs.Root}
	for name := range strings.SplitSeq(p[1:], "/") {
		if n.name != "" {
			if !n.attr.IsDir() {
				return n, errNoParent
			}
			visited = append(visited, n.attr.Ino)
		}
		n.parent, n.name, n.entry, n.attr = w.top(), name, fs.Attr{}, fs.Attr{}
		var err error
		n.entry, n.attr, err = w.follow(ctx, name)
		if err == nil && n.entry.Ino != n.attr.Ino && n.attr.IsDir() && slices.Contains(visited, n.attr.Ino) {
			err = errHidden
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errHidden) {
			n.attr = fs.Attr{}
			continue
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// existing is locate for methods that need the resource.
func (h *Handler) existing(ctx context.Context, p string) (node, error) {
	n, err := h.locate(ctx, p)
	if err == errNoParent || err == nil && !n.found() {
		return n, fs.ErrNotExist
	}
	return n, err
}

// walker resolves names from a directory, following symbolic links inside the tree.
type walker struct {
	fs    fs.FS
	phys  []fs.Ino // the directories from the root to where it stands
	links int
}

func (w *walker) top() fs.Ino { return w.phys[len(w.phys)-1] }

// follow resolves one name. entry is the entry itself, a is what it leads to in the end.
func (w *walker) follow(ctx context.Context, name string) (entry, a fs.Attr, err error) {
	todo := []string{name}
	for first := true; len(todo) > 0; first = false {
		name, todo = todo[0], todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(w.phys) == 1 {
				return entry, a, errHidden
			}
			w.phys = w.phys[:len(w.phys)-1]
			if a, err = w.fs.Getattr(ctx, w.top()); err != nil {
				return entry, a, err
			}
			continue
		}
		a, err = w.fs.Lookup(ctx, w.top(), name)
		if first {
			entry = a
		}
		if err != nil {
			if !first && (errors.Is(err, fs.ErrNotDir) || errors.Is(err, fs.ErrNameTooLong)) {
				err = errHidden
			}
			return entry, a, err
		}
		switch a.Mode & fs.TypeMask {
		case fs.TypeSymlink:
			target, err := w.fs.Readlink(ctx, a.Ino)
			if err != nil {
				return entry, a, err
			}
			if w.links++; w.links > maxSymlinks || strings.HasPrefix(target, "/") {
				return entry, a, errHidden
			}
			todo = append(strings.Split(target, "/"), todo...)
		case fs.TypeDir:
			w.phys = append(w.phys, a.Ino)
		default:
			if len(todo) > 0 {
				return entry, a, errHidden
			}
		}
	}
	if a.Mode&fs.TypeMask == fs.TypeSymlink { // its target was nothing but "." or slashes
		a, err = w.fs.Getattr(ctx, w.top())
	}
	return entry, a, err
}
