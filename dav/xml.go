package dav

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
)

const (
	davNS = "DAV:"
	xmlNS = "http://www.w3.org/XML/1998/namespace"
)

func escapeXML(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return r < ' ' || r > '~' || r == '<' || r == '>' || r == '&' || r == '"' || r == '\''
	}) < 0 {
		return s
	}
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // a strings.Builder never fails
	return b.String()
}

func badXML(err error) error {
	return fail(http.StatusBadRequest, "the XML body is malformed: %v", err)
}

// readXML reads the whole body, which must be well-formed XML within the limits, or empty. The decoder
// knows no entities but the five of XML, and a nesting that could exhaust the stack ends here.
func readXML(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxXML))
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, nil
	}
	depth, roots := 0, 0
	err = eachToken(body, func(t xml.Token, _ int64, _ int64) error {
		switch t := t.(type) {
		case xml.StartElement:
			if err := checkPrefixes(t.Attr); err != nil {
				return err
			}
			if depth == 0 {
				roots++
			}
			if depth++; depth > maxXMLDepth {
				return errors.New("too many elements inside each other")
			}
		case xml.EndElement:
			depth--
		}
		return nil
	})
	if err == nil && roots != 1 {
		err = errors.New("there must be one root element")
	}
	if err != nil {
		return nil, badXML(err)
	}
	return body, nil
}

// checkPrefixes refuses the declaration of a prefix for no namespace, which encoding/xml lets pass.
func checkPrefixes(attrs []xml.Attr) error {
	for _, a := range attrs {
		if a.Name.Space == "xmlns" && a.Value == "" {
			return errors.New("a prefix without a namespace")
		}
	}
	return nil
}

// eachToken calls fn with each token of body and the offsets at which it begins and ends.
func eachToken(body []byte, fn func(t xml.Token, from, to int64) error) error {
	d := xml.NewDecoder(bytes.NewReader(body))
	for {
		from := d.InputOffset()
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(t, from, d.InputOffset()); err != nil {
			return err
		}
	}
}

// fragment is XML that stands on its own: every element declares its namespace.
type fragment struct{ xml string }

// UnmarshalXML keeps the content of start.
func (f *fragment) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	var b strings.Builder
	for depth := 0; ; {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			writeStart(&b, t)
		case xml.EndElement:
			if depth == 0 {
				f.xml = b.String()
				return nil
			}
			depth--
			b.WriteString("</" + t.Name.Local + ">")
		case xml.CharData:
			b.WriteString(escapeXML(string(t)))
		}
	}
}

// writeStart writes a start tag whose namespace is the default one.
func writeStart(b *strings.Builder, t xml.StartElement) {
	b.WriteString("<" + t.Name.Local + ` xmlns="` + escapeXML(t.Name.Space) + `"`)
	for _, a := range t.Attr {
		switch {
		case a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns":
			continue
		case a.Name.Space == "":
			b.WriteString(" " + a.Name.Local)
		case a.Name.Space == "xml" || a.Name.Space == xmlNS:
			b.WriteString(" xml:" + a.Name.Local)
		default:
			b.WriteString(` xmlns:a="` + escapeXML(a.Name.Space) + `" a:` + a.Name.Local)
		}
		b.WriteString(`="` + escapeXML(a.Value) + `"`)
	}
	b.WriteString(">")
}
