package main

import (
	"bytes"
	"container/list"
	"strconv"
	"strings"
	"sync"

	"github.com/tidwall/match"
	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// cursors remembers where scans have stopped: a cursor of the protocol is a number, a place in a range is a
// key. The oldest are forgotten.
type cursors struct {
	mu    sync.Mutex
	last  uint64
	by    map[uint64]*list.Element // of *cursor
	order list.List                // the one used last is at the back
}

type cursor struct {
	id   uint64
	next []byte // the first key that was not looked at
}

const maxCursors = 10000

func (c *cursors) keep(next []byte) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[uint64]*list.Element{}
	}
	c.last++
	c.by[c.last] = c.order.PushBack(&cursor{c.last, next})
	if c.order.Len() > maxCursors {
		old := c.order.Remove(c.order.Front()).(*cursor)
		delete(c.by, old.id)
	}
	return c.last
}

func (c *cursors) find(id uint64) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[id]
	if e == nil {
		return nil, false
	}
	c.order.MoveToBack(e)
	return e.Value.(*cursor).next, true
}

// scanOptions of SCAN.
type scanOptions struct {
	pattern string // all keys when it is empty
	count   int
	other   bool // another type than string is asked for
}

// Bounds of COUNT, which is how many keys one SCAN looks at.
const (
	defaultCount = 10
	maxCount     = 10000
)

func parseScanOptions(args [][]byte) (o scanOptions, err error) {
	o.count = defaultCount
	if len(args)%2 != 0 {
		return o, errSyntax
	}
	for i := 0; i < len(args); i += 2 {
		switch strings.ToUpper(string(args[i])) {
		case "MATCH":
			o.pattern = string(args[i+1])
		case "COUNT":
			n, err := integer(args[i+1])
			if err != nil {
				return o, err
			}
			if n < 1 {
				return o, errSyntax
			}
			o.count = int(min(n, maxCount))
		case "TYPE":
			o.other = !strings.EqualFold(string(args[i+1]), "string")
		default:
			return o, errSyntax
		}
	}
	return o, nil
}

func (o *scanOptions) wants(key []byte) bool {
	return !o.other && (o.pattern == "" || match.Match(string(key), o.pattern))
}

// scan answers SCAN. A prefix that the pattern begins with is all that is looked at.
func (n *session) scan(args [][]byte) {
	id, err := strconv.ParseUint(string(args[1]), 10, 64)
	if err != nil {
		n.fail(replyError("ERR invalid cursor"))
		return
	}
	o, err := parseScanOptions(args[2:])
	if err != nil {
		n.fail(err)
		return
	}
	r := literalPrefix(o.pattern)
	if id != 0 {
		next, ok := n.server.cursors.find(id)
		if !ok {
			n.fail(replyError("ERR invalid cursor: it is forgotten, begin again at 0"))
			return
		}
		if bytes.Compare(next, r.From) > 0 {
			r.From = next
		}
	}
	r.Limit = o.count
	page, err := n.page(r)
	if err != nil {
		n.fail(err)
		return
	}
	var found [][]byte
	for _, e := range page.Entries {
		if o.wants(e.Key) {
			found = append(found, e.Key)
		}
	}
	id = 0
	if page.More {
		id = n.server.cursors.keep(page.Next(r).From)
	}
	n.out = redcon.AppendArray(n.out, 2)
	n.out = redcon.AppendBulkString(n.out, strconv.FormatUint(id, 10))
	n.out = appendBulks(n.out, found)
}

func appendBulks(out []byte, list [][]byte) []byte {
	out = redcon.AppendArray(out, len(list))
	for _, b := range list {
		out = redcon.AppendBulk(out, b)
	}
	return out
}

// literalPrefix returns the range of keys that begin as every match of the pattern does.
func literalPrefix(pattern string) kv.Range {
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		pattern = pattern[:i]
	}
	if pattern == "" {
		return kv.Range{}
	}
	return kv.Prefix([]byte(pattern))
}

func (n *session) page(r kv.Range) (*kvrpc.Page, error) {
	ctx, cancel := n.server.context()
	defer cancel()
	return n.server.store.Range(ctx, n.keyspace(), r, kvrpc.RangeOptions{KeysOnly: true})
}

// maxKeysBytes bounds the answer of KEYS.
const maxKeysBytes = 32 << 20

// keys answers KEYS, page by page: they are no view of one moment.
func (n *session) keys(args [][]byte) {
	o := scanOptions{pattern: string(args[1])}
	r := literalPrefix(o.pattern)
	var found [][]byte
	for size := 0; ; {
		page, err := n.page(r)
		if err != nil {
			n.fail(err)
			return
		}
		for _, e := range page.Entries {
			if o.wants(e.Key) {
				found = append(found, e.Key)
				size += len(e.Key)
			}
		}
		if size > maxKeysBytes {
			n.fail(replyError("ERR too many keys for one answer: use SCAN"))
			return
		}
		if !page.More {
			break
		}
		r = page.Next(r)
	}
	n.out = appendBulks(n.out, found)
}

func (n *session) dbsize([][]byte) {
	ctx, cancel := n.server.context()
	defer cancel()
	c, err := n.server.store.Count(ctx, n.keyspace(), kv.Range{}, kvrpc.ReadOptions{})
	if err != nil {
		n.fail(err)
		return
	}
	n.out = redcon.AppendInt(n.out, int64(c.Keys))
}
