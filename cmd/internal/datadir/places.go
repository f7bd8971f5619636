package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/gabionfs/gabion/objstore/remote"
)

// The places file says where the disks are that are in use, for when the key-value store, which knows, is lost:
//
//	+---------------------------------+
//	| "gabion-disks 1\n"              |  magic and version
//	+---------------------------------+
//	| folder or address, quoted, "\n" |  for each disk; relative when it is inside the directory
//	+---------------------------------+
//	| "crc32c " 8 hex digits "\n"     |  of everything above it
//	+---------------------------------+
const placesMagic = "gabion-disks 1\n"

// maxPlaces bounds the file.
const maxPlaces = 1 << 20

// Places returns the absolute folders and addresses of the disks that were in use when the file was written last.
// Without the file, as in a directory that an early release made, those that the directory was made with.
func (d *Dir) Places() ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(d.Path, placesName))
	if errors.Is(err, os.ErrNotExist) {
		var out []string
		for _, f := range d.Config.ASDs {
			out = append(out, d.Resolve(f))
		}
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := decodePlaces(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(d.Path, placesName), err)
	}
	for i, f := range list {
		list[i] = d.Resolve(f)
	}
	return list, nil
}

// WritePlaces replaces the file durably, if it says something else. Not safe for concurrent use.
func (d *Dir) WritePlaces(places []string) error {
	var b bytes.Buffer
	b.WriteString(placesMagic)
	for _, p := range places {
		if !remote.IsAddress(p) {
			if rel, err := filepath.Rel(d.Path, p); err == nil && filepath.IsLocal(rel) {
				p = rel // the directory may be moved
			}
		}
		fmt.Fprintf(&b, "%q\n", p)
	}
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), crc32.MakeTable(crc32.Castagnoli)))
	if old, err := os.ReadFile(filepath.Join(d.Path, placesName)); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	return d.replace(placesName, b.Bytes())
}

var errPlaces = errors.New("the list of disks is damaged")

func decodePlaces(raw []byte) ([]string, error) {
	if len(raw) > maxPlaces || !bytes.HasPrefix(raw, []byte(placesMagic)) {
		return nil, errPlaces
	}
	end := bytes.LastIndex(raw, []byte("crc32c "))
	if end < 0 || string(raw[end:]) != fmt.Sprintf("crc32c %08x\n", crc32.Checksum(raw[:end], crc32.MakeTable(crc32.Castagnoli))) {
		return nil, errPlaces
	}
	var out []string
	for _, line := range strings.Split(string(raw[len(placesMagic):end]), "\n") {
		if line == "" {
			continue
		}
		var p string
		if _, err := fmt.Sscanf(line, "%q", &p); err != nil || p == "" {
			return nil, errPlaces
		}
		out = append(out, p)
	}
	return out, nil
}
