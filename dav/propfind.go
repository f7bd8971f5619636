package dav

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"slices"
)

// propfind answers with properties of a resource and, with Depth 1, of its members.
func (h *Handler) propfind(ctx context.Context, rq *request) error {
	n, err := h.existing(ctx, rq.path)
	if err != nil {
		return err
	}
	body, err := readXML(rq.r)
	if err != nil {
		return err
	}
	q, err := parsePropfind(body)
	if err != nil {
		return err
	}
	if err := h.checkIf(ctx, rq, &n); err != nil {
		return err
	}
	switch q.depth = rq.depth(); q.depth {
	case "0":
	case "1":
	case "", "infinity":
		if n.attr.IsDir() {
			return &statusError{code: http.StatusForbidden, text: "Depth infinity is not served",
				condition: "<D:propfind-finite-depth/>"}
		}
		q.depth = "0" // of a file it is the same
	default:
		return fail(http.StatusBadRequest, "Depth is 0, 1 or infinity")
	}
	rq.r.Body = io.NopCloser(bytes.NewReader(body))
	return h.delegate(ctx, rq, q)
}

// parsePropfind reads what x/net/webdav will read again: here it decides which live properties are
// worth computing.
func parsePropfind(body []byte) (*propQuery, error) {
	if len(body) == 0 {
		return &propQuery{all: true, dead: true}, nil
	}
	type names struct {
		Names []struct{ XMLName xml.Name } `xml:",any"`
	}
	var pf struct {
		XMLName xml.Name  `xml:"DAV: propfind"`
		All     *struct{} `xml:"DAV: allprop"`
		Names   *struct{} `xml:"DAV: propname"`
		Prop    names     `xml:"DAV: prop"`
		Include names     `xml:"DAV: include"`
	}
	if err := xml.Unmarshal(body, &pf); err != nil {
		return nil, badXML(err)
	}
	q := &propQuery{all: pf.All != nil, names: pf.Names != nil, want: map[xml.Name]bool{}}
	for _, n := range append(pf.Prop.Names, pf.Include.Names...) {
		q.want[n.XMLName] = true
	}
	q.dead = q.wantsStored()
	return q, nil
}

// proppatch changes properties.
func (h *Handler) proppatch(ctx context.Context, rq *request) error {
	body, err := readXML(rq.r)
	if err != nil {
		return err
	}
	if body, err = renameProtected(body); err != nil {
		return err
	}
	g := guard{path: rq.path}
	release, err := h.claims.take(ctx, claimsOf(g)...)
	if err != nil {
		return err
	}
	defer release()
	n, err := h.existing(ctx, rq.path)
	if err != nil {
		return err
	}
	if err := h.admit(ctx, rq, &n, g); err != nil {
		return err
	}
	rq.r.Body = io.NopCloser(bytes.NewReader(body))
	return h.delegate(context.WithoutCancel(ctx), rq, nil)
}

// localName returns where in a tag its name begins, after the prefix if there is one.
func localName(tag []byte) int64 {
	start := len(tag) - len(bytes.TrimLeft(tag, "</"))
	end := bytes.IndexAny(tag, " \t\r\n>")
	return int64(start + 1 + bytes.IndexByte(tag[start:end], ':'))
}

// renamedPrefix marks properties that x/net/webdav believes to be protected and we do not.
const renamedPrefix = "gabion-"

// renameProtected gives DAV:getlastmodified another name in the body of a PROPPATCH, on its way through
// x/net/webdav, which would refuse it. Patch gives it back.
func renameProtected(body []byte) ([]byte, error) {
	var edits []int64 // where to insert the prefix
	depth := 0
	err := eachToken(body, func(t xml.Token, from, to int64) error {
		var name xml.Name
		at := depth
		switch t := t.(type) {
		case xml.StartElement:
			name = t.Name
			depth++
		case xml.EndElement:
			name = t.Name
			depth--
			at = depth
		default:
			return nil
		}
		const propDepth = 3 // propertyupdate, set, prop
		if at != propDepth || name != (xml.Name{Space: davNS, Local: "getlastmodified"}) || from == to {
			return nil
		}
		edits = append(edits, from+localName(body[from:to]))
		return nil
	})
	if err != nil {
		return nil, badXML(err)
	}
	for _, at := range slices.Backward(edits) {
		body = slices.Insert(body, int(at), []byte(renamedPrefix)...)
	}
	return body, nil
}
