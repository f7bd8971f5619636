package dav

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/webdav"

	"github.com/gabionfs/gabion/fs"
)

// propsXattr holds all dead properties of a resource, so that a change of several is one transaction, a
// listing reads one attribute per member, and they follow the inode wherever it goes:
//
//	"gdp" version(1)
//	for each property, in order of namespace and name:
//	    len namespace  len name  len lang  len inner-XML      (uvarint lengths)
const (
	propsXattr = "user.dav.props"
	propsMagic = "gdp\x01"
)

func encodeProps(props []webdav.Property) []byte {
	b := []byte(propsMagic)
	for _, p := range props {
		b = appendString(b, p.XMLName.Space)
		b = appendString(b, p.XMLName.Local)
		b = appendString(b, p.Lang)
		b = binary.AppendUvarint(b, uint64(len(p.InnerXML)))
		b = append(b, p.InnerXML...)
	}
	return b
}

func decodeProps(b []byte) (props []webdav.Property, err error) {
	if len(b) < len(propsMagic) || string(b[:len(propsMagic)]) != propsMagic {
		return nil, fmt.Errorf("%w: attribute %s", errBadRecord, propsXattr)
	}
	for b = b[len(propsMagic):]; len(b) > 0; {
		var field [4]string
		for i := range field {
			var ok bool
			if field[i], b, ok = cutString(b, fs.MaxXattr); !ok {
				return nil, fmt.Errorf("%w: attribute %s", errBadRecord, propsXattr)
			}
		}
		p := webdav.Property{
			XMLName: xml.Name{Space: field[0], Local: field[1]}, Lang: field[2], InnerXML: []byte(field[3]),
		}
		if !wellFormed(&p) {
			return nil, fmt.Errorf("%w: attribute %s", errBadRecord, propsXattr)
		}
		props = append(props, p)
	}
	return props, nil
}

// wellFormed reports whether p can be part of an answer. The attribute may have been written through a
// mount, by anyone who may write to the file.
func wellFormed(p *webdav.Property) bool {
	var b strings.Builder
	writeStart(&b, xml.StartElement{Name: p.XMLName})
	b.Write(p.InnerXML)
	b.WriteString("</" + p.XMLName.Local + ">")
	depth, first := 0, true
	err := eachToken([]byte(b.String()), func(t xml.Token, _, _ int64) error {
		switch t := t.(type) {
		case xml.StartElement:
			if first && t.Name != p.XMLName || !first && depth == 0 || depth > maxXMLDepth {
				return errBadRecord
			}
			first = false
			depth++
		case xml.EndElement:
			depth--
		case xml.Directive, xml.ProcInst:
			return errBadRecord
		}
		return nil
	})
	return err == nil
}

// loadProps returns the dead properties of ino, in order. An attribute that does not decode counts as
// none, so that it cannot take the listing of its directory down.
func (h *Handler) loadProps(ctx context.Context, ino fs.Ino) ([]webdav.Property, error) {
	v, err := h.fs.GetXattr(ctx, ino, propsXattr)
	if errors.Is(err, fs.ErrNoAttr) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	props, err := decodeProps(v)
	if err != nil {
		h.log.WarnContext(ctx, "webdav: ignoring dead properties", "inode", uint64(ino), "error", err)
		return nil, nil
	}
	return props, nil
}

// storeProps replaces the dead properties before by after. More than fit fail with fs.ErrTooBig.
func (h *Handler) storeProps(ctx context.Context, ino fs.Ino, before, after []webdav.Property) error {
	b := encodeProps(after)
	switch {
	case len(b) > fs.MaxXattr:
		return fs.ErrTooBig
	case slices.Equal(b, encodeProps(before)):
		return nil
	case len(after) == 0:
		return h.fs.RemoveXattr(ctx, ino, propsXattr)
	}
	return h.fs.SetXattr(ctx, ino, propsXattr, b, 0)
}

func compareNames(a, b xml.Name) int {
	return cmp.Or(strings.Compare(a.Space, b.Space), strings.Compare(a.Local, b.Local))
}
