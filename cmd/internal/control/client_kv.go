package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/gabionfs/gabion/kv"
)

// KVGet returns the values of keys, in their order, at one moment.
func (c *Client) KVGet(ctx context.Context, ks kv.Keyspace, keys ...[]byte) ([]Value, error) {
	if len(keys) > maxKeys {
		return nil, &kv.TooLargeError{What: "number of keys", Size: len(keys), Max: maxKeys}
	}
	var out []Value
	err := c.call(ctx, http.MethodPost, "/v1/kv/get", nil, KeysRequest{ks, keys}, &out)
	if err == nil && len(out) != len(keys) {
		err = fmt.Errorf("the running process answered %d keys with %d values", len(keys), len(out))
	}
	return out, err
}

// KVRange calls fn with the pairs of a range, and tells whether q.Limit cut it short. It is read page by
// page: each page is of one moment, the whole is not.
func (c *Client) KVRange(ctx context.Context, q RangeRequest, fn func(Pair) error) (more bool, err error) {
	left := q.Limit
	for {
		var page RangePage
		if err := c.call(ctx, http.MethodPost, "/v1/kv/range", nil, q, &page); err != nil {
			return false, err
		}
		for _, p := range page.Pairs {
			if err := fn(p); err != nil {
				return false, err
			}
		}
		n := len(page.Pairs)
		if left -= n; !page.More || n == 0 || q.Limit > 0 && left <= 0 {
			return page.More, nil
		}
		if q.Limit > 0 {
			q.Limit = left
		}
		last := page.Pairs[n-1].Key
		if q.Reverse {
			q.To = last
		} else {
			q.From = append(last, 0)
		}
	}
}

// KVCount returns the number of keys of a range.
func (c *Client) KVCount(ctx context.Context, q RangeRequest) (uint64, error) {
	var n Count
	err := c.call(ctx, http.MethodPost, "/v1/kv/count", nil, q, &n)
	return n.Keys, err
}

// KVSequence applies a sequence durably; kv.ErrConflict when an assert does not hold.
func (c *Client) KVSequence(ctx context.Context, steps []kv.Step) ([]kv.StepResult, error) {
	var r []kv.StepResult
	err := c.call(ctx, http.MethodPost, "/v1/kv/sequence", nil, steps, &r)
	return r, err
}

// KVWatch calls fn with changes, and with indexes up to which there are no others, until fn or ctx ends it.
func (c *Client) KVWatch(ctx context.Context, q WatchRequest, fn func(WatchEvent) error) error {
	return events(ctx, c, "/v1/kv/watch", q, "the watch was cut off: the process has stopped", func(e WatchEvent) (bool, error) {
		if e.Error != nil {
			return true, e.Error.err()
		}
		return false, fn(e)
	})
}

// KVBackup copies a backup of the key-value store to w.
func (c *Client) KVBackup(ctx context.Context, w io.Writer) (index uint64, err error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/kv/backup", nil, nil, -1)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return 0, err
	}
	index, err = strconv.ParseUint(resp.Trailer.Get(backupIndex), 10, 64)
	if err != nil {
		return 0, errors.New("the backup was cut off")
	}
	return index, nil
}

// KVVerify reads all of the key-value store; damage is an error.
func (c *Client) KVVerify(ctx context.Context) (Verified, error) {
	var v Verified
	err := c.call(ctx, http.MethodPost, "/v1/kv/verify", nil, struct{}{}, &v)
	return v, err
}
