package dav

import (
	"net/http"
	"strings"
)

// ifHeader is a parsed If header (RFC 4918, section 10.4): it holds when one of its lists does.
type ifHeader []ifList

// ifList holds for a resource when all of its conditions do.
type ifList struct {
	tag        string // URL of the resource; empty means the one that the request is for
	conditions []ifCondition
}

// ifCondition names a state token or an entity tag; the other is empty.
type ifCondition struct {
	not         bool
	token, etag string
}

var errIfHeader = fail(http.StatusBadRequest, "the If header is malformed")

// parseIf parses an If header. Beyond the grammar it takes a lock token that stands alone, with or
// without angle brackets, as a list of its own: some clients send that.
func parseIf(s string) (ifHeader, error) {
	var h ifHeader
	tag, used := "", true // used: the tag has a list
	for s = skipSpace(s); s != ""; s = skipSpace(s) {
		if len(h) >= maxIfLists {
			return nil, errIfHeader
		}
		switch s[0] {
		case '<':
			ref, rest, ok := cutDelimited(s, '>')
			if !ok {
				return nil, errIfHeader
			}
			s = rest
			if next := skipSpace(rest); isStateToken(ref) && (next == "" || next[0] != '(') {
				h = append(h, ifList{conditions: []ifCondition{{token: ref}}})
				continue
			}
			if !used || len(h) > 0 && tag == "" {
				return nil, errIfHeader
			}
			tag, used = ref, false
		case '(':
			l, rest, err := parseIfList(s[1:])
			if err != nil {
				return nil, err
			}
			l.tag, used, s = tag, true, rest
			h = append(h, l)
		default:
			word, rest := cutWord(s)
			if !isStateToken(word) {
				return nil, errIfHeader
			}
			h, s = append(h, ifList{conditions: []ifCondition{{token: word}}}), rest
		}
	}
	if len(h) == 0 || !used {
		return nil, errIfHeader
	}
	return h, nil
}

// parseIfList parses the conditions after an opening parenthesis, and the closing one.
func parseIfList(s string) (l ifList, rest string, err error) {
	for {
		var c ifCondition
		s = skipSpace(s)
		if len(s) >= 3 && strings.EqualFold(s[:3], "not") {
			c.not, s = true, skipSpace(s[3:])
		}
		if s == "" {
			return l, "", errIfHeader
		}
		var ok bool
		switch s[0] {
		case ')':
			if c.not || len(l.conditions) == 0 {
				return l, "", errIfHeader
			}
			return l, s[1:], nil
		case '<':
			c.token, s, ok = cutDelimited(s, '>')
		case '[':
			c.etag, s, ok = cutDelimited(s, ']')
		default:
			c.token, s = cutWord(s)
			ok = isStateToken(c.token)
		}
		if !ok {
			return l, "", errIfHeader
		}
		l.conditions = append(l.conditions, c)
	}
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t") }

// cutDelimited returns what stands between the first byte of s and the byte end. It is never empty.
func cutDelimited(s string, end byte) (inner, rest string, ok bool) {
	i := strings.IndexByte(s, end)
	if i < 2 {
		return "", "", false
	}
	return s[1:i], s[i+1:], true
}

func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t()<>[],"); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

func isStateToken(s string) bool {
	return strings.HasPrefix(s, tokenScheme) || strings.HasPrefix(s, "opaquelocktoken:")
}

// submitted returns the lock tokens that h submits: those that it does not negate, in whatever list.
func (h ifHeader) submitted() (tokens []string) {
	for _, l := range h {
		for _, c := range l.conditions {
			if c.token != "" && !c.not {
				tokens = append(tokens, c.token)
			}
		}
	}
	return tokens
}
