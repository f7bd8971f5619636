package dav

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gabionfs/gabion/kv"
)

const lockSpace kv.Keyspace = "davlock"

// lockTable keeps the locks in the store. Locks that have expired count for nothing, and are removed by
// whoever makes a new one. Safe for concurrent use.
type lockTable struct {
	kv         kv.Store
	max        int
	maxTimeout time.Duration
	count      atomic.Int64 // of records, approximately: other processes may share the store
}

func pathKey(p string) []byte { return append([]byte{'p'}, p...) }

func lockKey(l *lock) []byte {
	return append(append(pathKey(l.path), 0), l.token[:]...)
}

func tokenKey(t token) []byte { return append([]byte{'t'}, t[:]...) }

// reach says which locks a search finds, besides those on the path itself.
type reach uint8

const (
	above reach = 1 << iota // locks of infinite depth on collections above it
	below                   // locks on anything below it
)

// scan returns the live locks that concern p.
func scan(r kv.Reader, p string, which reach, now time.Time) (found []lock, err error) {
	collect := func(rng kv.Range, keep func(*lock) bool) error {
		var bad error
		err := r.Range(lockSpace, rng, func(k, v []byte) bool {
			var l lock
			if l, bad = decodeLock(k, v); bad != nil {
				return false
			}
			if l.expiry.After(now) && keep(&l) {
				found = append(found, l)
			}
			return true
		})
		return errors.Join(bad, err)
	}
	all := func(*lock) bool { return true }
	if err := collect(kv.Prefix(append(pathKey(p), 0)), all); err != nil {
		return nil, err
	}
	if which&above != 0 {
		deep := func(l *lock) bool { return l.deep }
		for dir := p; dir != "/"; {
			dir, _ = split(dir)
			if err := collect(kv.Prefix(append(pathKey(dir), 0)), deep); err != nil {
				return nil, err
			}
		}
	}
	if which&below != 0 {
		err = collect(kv.Prefix(pathKey(strings.TrimSuffix(p, "/")+"/")), func(l *lock) bool { return l.path != p })
	}
	return found, err
}

// view reads at the leader without waiting for its log: locks are made durable before they are
// answered, so that what a view shows beyond that was never promised to anyone.
func (t *lockTable) view(ctx context.Context, fn func(kv.Reader) error) error {
	err := t.kv.View(ctx, kv.Pending, fn)
	var notLeader *kv.NotLeaderError
	if errors.As(err, &notLeader) {
		return t.kv.View(ctx, kv.Linearizable, fn)
	}
	return err
}

// find returns the live locks that concern p.
func (t *lockTable) find(ctx context.Context, p string, which reach, now time.Time) (found []lock, err error) {
	err = t.view(ctx, func(r kv.Reader) (err error) {
		found, err = scan(r, p, which, now)
		return err
	})
	return found, err
}

// open counts the locks, and removes those that expired while nobody served.
func (t *lockTable) open(ctx context.Context, now time.Time) error {
	n := 0
	err := t.kv.Update(ctx, kv.Ordered, func(tx kv.Txn) (err error) {
		n, err = sweep(tx, now)
		return err
	})
	t.count.Store(int64(n))
	return err
}

// sweep deletes expired locks and returns how many are left. A record that cannot be read protects
// nothing and goes, too.
func sweep(tx kv.Txn, now time.Time) (live int, err error) {
	type record struct{ key, token []byte }
	var dead []record
	err = tx.Range(lockSpace, kv.Prefix([]byte{'p'}), func(k, v []byte) bool {
		if l, err := decodeLock(k, v); err == nil && l.expiry.After(now) {
			live++
			return true
		}
		rec := record{key: bytes.Clone(k)}
		if len(k) > len(token{}) {
			rec.token = tokenKey(token(k[len(k)-len(token{}):]))
		}
		dead = append(dead, rec)
		return true
	})
	for _, rec := range dead {
		tx.Delete(lockSpace, rec.key)
		if rec.token != nil {
			tx.Delete(lockSpace, rec.token)
		}
	}
	return live, err
}

// create stores l, with a new token, unless a lock that excludes it exists: then the error is a 423 that
// names the resources in the way.
func (t *lockTable) create(ctx context.Context, l lock, now time.Time, href func(string) string) (lock, error) {
	l.token = newToken()
	which := above
	if l.deep {
		which |= below
	}
	full := t.count.Load() >= int64(t.max)
	added := 0
	err := t.kv.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		added = 1
		if full {
			live, err := sweep(tx, now)
			if err != nil {
				return err
			}
			if live >= t.max {
				return fail(http.StatusInsufficientStorage, "there are %d locks already, which is the limit", live)
			}
			added = live + 1 - int(t.count.Load())
		}
		found, err := scan(tx, l.path, which, now)
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(o lock) bool { return o.shared && l.shared })
		if len(found) > 0 {
			return lockedError("no-conflicting-lock", found, href)
		}
		tx.Put(lockSpace, lockKey(&l), l.encode())
		tx.Put(lockSpace, tokenKey(l.token), []byte(l.path))
		return nil
	})
	if err == nil {
		t.count.Add(int64(added))
	}
	return l, err
}

// byToken returns the live lock with token tok, or an error that matches kv.ErrNotFound.
func byToken(r kv.Reader, tok token, now time.Time) (lock, error) {
	p, err := r.Get(lockSpace, tokenKey(tok))
	if err != nil {
		return lock{}, err
	}
	key := lockKey(&lock{path: string(p), token: tok})
	v, err := r.Get(lockSpace, key)
	if err != nil {
		return lock{}, err
	}
	l, err := decodeLock(key, v)
	if err == nil && !l.expiry.After(now) {
		err = kv.ErrNotFound
	}
	return l, err
}

// refresh makes the lock with token tok live until expiry.
func (t *lockTable) refresh(ctx context.Context, tok token, now, expiry time.Time, allowed func(*lock) error) (l lock, err error) {
	err = t.kv.Update(ctx, kv.Durable, func(tx kv.Txn) (err error) {
		if l, err = byToken(tx, tok, now); err != nil {
			return err
		}
		if err := allowed(&l); err != nil {
			return err
		}
		l.expiry = expiry
		tx.Put(lockSpace, lockKey(&l), l.encode())
		return nil
	})
	return l, err
}

// remove deletes the lock with token tok.
func (t *lockTable) remove(ctx context.Context, tok token, now time.Time, allowed func(*lock) error) error {
	err := t.kv.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		l, err := byToken(tx, tok, now)
		if err != nil {
			return err
		}
		if err := allowed(&l); err != nil {
			return err
		}
		tx.Delete(lockSpace, lockKey(&l))
		tx.Delete(lockSpace, tokenKey(tok))
		return nil
	})
	if err == nil {
		t.count.Add(-1)
	}
	return err
}

// removeTree deletes the locks on p and below it, whose resources are gone. Most of the time there are
// none, which a view finds out without a transaction.
func (t *lockTable) removeTree(ctx context.Context, p string, now time.Time) error {
	found, err := t.find(ctx, p, below, now)
	if err != nil || len(found) == 0 {
		return err
	}
	removed := 0
	err = t.kv.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		found, err := scan(tx, p, below, now)
		for i := range found {
			tx.Delete(lockSpace, lockKey(&found[i]))
			tx.Delete(lockSpace, tokenKey(found[i].token))
		}
		removed = len(found)
		return err
	})
	if err == nil {
		t.count.Add(int64(-removed))
	}
	return err
}

// timeout caps what a client asked for.
func (t *lockTable) timeout(asked time.Duration) time.Duration {
	return min(max(asked, time.Second), t.maxTimeout)
}
