package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/gabionfs/gabion/kv"
)

// maxKeys is how many keys one request may read.
const maxKeys = 4096

func (h *handler) kvGet(r *http.Request) (any, error) {
	var q KeysRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if len(q.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: %d keys, at most %d are allowed", ErrBadRequest, len(q.Keys), maxKeys)
	}
	values := make([]Value, len(q.Keys))
	err := h.b.KV().View(r.Context(), kv.Linearizable, func(rd kv.Reader) error {
		for i, key := range q.Keys {
			v, err := rd.Get(q.Keyspace, key)
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			values[i] = Value{Found: err == nil, Value: append([]byte{}, v...)}
		}
		return nil
	})
	return values, err
}

func (h *handler) kvRange(r *http.Request) (any, error) {
	var q RangeRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if q.Limit < 0 {
		return nil, fmt.Errorf("%w: limit %d", ErrBadRequest, q.Limit)
	}
	limit := maxPage
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	var page RangePage
	err := h.b.KV().View(r.Context(), kv.Linearizable, func(rd kv.Reader) error {
		page = RangePage{Pairs: []Pair{}}
		bytes := 0
		rng := kv.Range{From: q.From, To: q.To, Reverse: q.Reverse}
		return rd.Range(q.Keyspace, rng, func(key, value []byte) bool {
			if len(page.Pairs) == limit || bytes >= maxPageLen {
				page.More = true
				return false
			}
			p := Pair{Key: append([]byte{}, key...)}
			if !q.KeysOnly {
				p.Value = append([]byte{}, value...)
			}
			bytes += len(p.Key) + len(p.Value)
			page.Pairs = append(page.Pairs, p)
			return true
		})
	})
	return page, err
}

func (h *handler) kvSequence(r *http.Request) (any, error) {
	var steps []kv.Step
	if err := decode(r, &steps); err != nil {
		return nil, err
	}
	return kv.Apply(r.Context(), h.b.KV(), kv.Durable, steps)
}

func (h *handler) kvCount(r *http.Request) (any, error) {
	var q RangeRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	var c Count
	err := h.b.KV().View(r.Context(), kv.Linearizable, func(rd kv.Reader) error {
		c = Count{}
		return rd.Range(q.Keyspace, kv.Range{From: q.From, To: q.To}, func(_, _ []byte) bool {
			c.Keys++
			return r.Context().Err() == nil
		})
	})
	return c, errors.Join(err, r.Context().Err())
}

func (h *handler) kvWatch(w http.ResponseWriter, r *http.Request) {
	var q WatchRequest
	if err := decode(r, &q); err != nil {
		writeError(w, err)
		return
	}
	send := lines[WatchEvent](w)
	if err := h.b.Watch(r.Context(), q, send); err != nil && !errors.Is(err, context.Canceled) {
		wire, _ := toWire(err)
		_ = send(WatchEvent{Error: &wire}) // the client may be gone
	}
}

// backupIndex is the trailer that says a backup is whole, and at which index it is.
const backupIndex = "Gabion-Index"

func (h *handler) kvBackup(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", backupIndex)
	out := &started{ResponseWriter: w}
	index, err := h.b.Backup(r.Context(), out)
	switch {
	case err == nil:
		w.Header().Set(backupIndex, strconv.FormatUint(index, 10))
	case out.yes:
		panic(http.ErrAbortHandler) // cut the connection: what was sent is not a backup
	default:
		w.Header().Del("Trailer")
		writeError(w, err)
	}
}

// started notes whether anything was written.
type started struct {
	http.ResponseWriter
	yes bool
}

func (s *started) Write(p []byte) (int, error) {
	s.yes = true
	return s.ResponseWriter.Write(p)
}
