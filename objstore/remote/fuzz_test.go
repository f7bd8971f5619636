package remote

import (
	"bytes"
	"testing"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// FuzzRequest decodes a request's header and meta as a server does. What decodes encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	add := func(r request, meta []byte) {
		r.meta = len(meta)
		f.Add(append(r.append(nil), meta...))
	}
	add(request{op: opHello}, hello{asd.ID{1}, asd.ID{2}}.append(nil))
	add(request{op: opPut, data: 100}, putMeta{key, []byte("info"), []uint32{7}}.append(nil))
	add(request{op: opRead, limit: 5e9}, span{key, 77, 4096}.append(nil))
	add(request{op: opHas}, key.Append(key.Append(nil)))
	add(request{op: opStat}, nil)
	add(request{op: opReadMany}, span{key, 5, 10}.append(span{key, 77, 4096}.append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerLen {
			return
		}
		r, err := parseRequest([headerLen]byte(b[:headerLen]))
		if err != nil {
			return
		}
		if again := r.append(nil); !bytes.Equal(again[:12], b[:12]) {
			t.Fatalf("%x became %x", b[:headerLen], again)
		}
		meta := b[headerLen:]
		if len(meta) < r.meta {
			return
		}
		meta = meta[:r.meta]
		var again []byte
		switch r.op {
		case opHello:
			var h hello
			h, err = parseHello(meta)
			again = h.append(nil)
		case opPut:
			var p putMeta
			p, err = parsePut(meta, r.data)
			again = p.append(nil)
		case opRead, opPrefetch:
			var s span
			s, err = parseSpan(meta)
			again = s.append(nil)
		case opReadMany:
			var list []span
			var size int
			list, size, err = parseSpans(meta)
			if size < 0 || size > MaxFragment || len(list) > maxReads {
				t.Fatalf("%d reads of %d bytes", len(list), size)
			}
			for _, s := range list {
				again = s.append(again)
			}
		case opHas, opDelete:
			var keys []objstore.FragmentKey
			keys, err = parseKeys(meta)
			again = appendKeys(keys)(nil)
		default:
			return
		}
		if err == nil && !bytes.Equal(again, meta) {
			t.Fatalf("%v: %x became %x", r.op, meta, again)
		}
	})
}

// FuzzAnswer decodes an answer's header and meta as a client does.
func FuzzAnswer(f *testing.F) {
	f.Add(answer{data: 5}.append(nil), listing{true, []objstore.FragmentInfo{{Key: key, Size: 9}}}.append(nil))
	f.Add(answer{status: statusClaimed, meta: 40}.append(nil), []byte(asd.ID{9}.String()+" it is claimed"))
	f.Add(answer{}.append(nil), appendStat(nil, objstore.DiskStat{Total: 9, Used: 8, Free: 1, Fragments: 3, Full: true}))
	f.Add(answer{}.append(nil), appendList(nil, []Announcement{{ASD: asd.ID{1}, Total: 5, State: Down, Dir: "/d", Err: "gone"}}))
	f.Fuzz(func(t *testing.T, head, meta []byte) {
		if len(head) == headerLen {
			if a, err := parseAnswer([headerLen]byte(head), 5); err == nil {
				if a.status == statusOK && a.data != 5 || a.meta > maxAnswer {
					t.Fatalf("%+v", a)
				}
				if again := a.append(nil); !bytes.Equal(again, head) {
					t.Fatalf("%x became %x", head, again)
				}
				if err := errorOf(a.status, string(meta), opPut, "there"); (err == nil) != (a.status == statusOK) {
					t.Fatalf("status %d is %v", a.status, err)
				}
			}
		}
		if l, err := parseListing(meta); err == nil && !bytes.Equal(l.append(nil), meta) {
			t.Fatalf("%x", meta)
		}
		if s, err := parseStat(meta); err == nil && !bytes.Equal(appendStat(nil, s), meta) {
			t.Fatalf("%x", meta)
		}
		if l, err := parseList(meta); err == nil && !bytes.Equal(appendList(nil, l), meta) {
			t.Fatalf("%x", meta)
		}
	})
}
