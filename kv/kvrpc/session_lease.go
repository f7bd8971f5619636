package kvrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// SessionMember is what exclusive sessions ask of a member beside a store. *raftkv.Store has it.
type SessionMember interface {
	kv.Store
	// Epoch identifies the leadership under which the member evaluates transactions now; 0 when it does
	// not lead.
	Epoch() uint64
	// SyncSince is Sync, with an error that matches kv.ErrUnknownOutcome when that leadership is over.
	SyncSince(ctx context.Context, epoch uint64) error
}

// sessionKey of kv.SystemKeyspace has who uses the store exclusively:
//
//	+-----------+---------------+--------------+----------------+------------+----------- -
//	| 1         | uvarint epoch | uvarint last | uvarint TTL ms | session 16 | owner ...
//	+-----------+---------------+--------------+----------------+------------+----------- -
//
// last is the number of the last batch of the session that was applied; it changes in the transaction that
// applies it. The owner is empty when nobody has the store. The row stays for ever, so that epochs
// only rise.
var sessionKey = []byte("session")

const (
	sessionVersion = 1
	sessionID      = 16
	maxOwner       = 256
	maxTTL         = time.Hour
)

type sessionRow struct {
	epoch, last uint64
	ttl         time.Duration
	session     [sessionID]byte
	owner       string
}

func (r *sessionRow) held() bool { return r.owner != "" }

func (r *sessionRow) encode() []byte {
	b := append(make([]byte, 0, 1+30+sessionID+len(r.owner)), sessionVersion)
	b = binary.AppendUvarint(b, r.epoch)
	b = binary.AppendUvarint(b, r.last)
	b = binary.AppendUvarint(b, uint64(r.ttl.Milliseconds()))
	b = append(b, r.session[:]...)
	return append(b, r.owner...)
}

var errSessionRow = errors.New("malformed")

func decodeSessionRow(b []byte) (r sessionRow, err error) {
	if len(b) < 1 || b[0] != sessionVersion {
		return r, errSessionRow
	}
	b = b[1:]
	var ttl uint64
	for _, v := range []*uint64{&r.epoch, &r.last, &ttl} {
		n := 0
		if *v, n = binary.Uvarint(b); n <= 0 {
			return r, errSessionRow
		}
		b = b[n:]
	}
	if ttl > uint64(maxTTL.Milliseconds()) || len(b) < sessionID || len(b) > sessionID+maxOwner {
		return r, errSessionRow
	}
	r.ttl = time.Duration(ttl) * time.Millisecond
	r.owner = string(b[copy(r.session[:], b):])
	return r, nil
}

// readSession returns the row, or an empty one.
func readSession(r kv.Reader) (sessionRow, error) {
	b, err := r.Get(kv.SystemKeyspace, sessionKey)
	if errors.Is(err, kv.ErrNotFound) {
		return sessionRow{}, nil
	}
	if err != nil {
		return sessionRow{}, err
	}
	row, err := decodeSessionRow(b)
	if err != nil {
		return row, &kv.CorruptError{What: "row of the exclusive session", Err: err}
	}
	return row, nil
}

func writeSession(tx kv.Txn, r *sessionRow) { tx.Put(kv.SystemKeyspace, sessionKey, r.encode()) }

// leases knows when the sessions of this process' leaders were heard of last. It is not replicated: a new
// leader counts from when it first looks, so a session can only be thought alive for too long.
type leases struct {
	mu    sync.Mutex
	heard map[SessionMember]lastHeard
}

type lastHeard struct {
	epoch uint64 // the leadership
	fence uint64 // the session
	at    time.Time
}

// note records that session fence had the store just now, under a leadership that was verified.
func (l *leases) note(m SessionMember, epoch, fence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.heard == nil {
		l.heard = map[SessionMember]lastHeard{}
	}
	l.heard[m] = lastHeard{epoch, fence, time.Now()}
}

// silence returns for how long nothing was heard of the session that the row tells of. Called inside a
// transaction of that member, so epoch is the leadership that evaluates it.
func (l *leases) silence(m SessionMember, row *sessionRow) time.Duration {
	epoch := m.Epoch()
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.heard[m]
	if !ok || h.epoch != epoch || h.fence != row.epoch {
		if l.heard == nil {
			l.heard = map[SessionMember]lastHeard{}
		}
		l.heard[m] = lastHeard{epoch, row.epoch, time.Now()}
		return 0
	}
	return time.Since(h.at)
}

// admit says whether someone without a session may write to the store: not while one is held. A session
// that has run out ends with the first such write, in the same transaction.
func (l *leases) admit(tx kv.Txn, m SessionMember) error {
	row, err := readSession(tx)
	if err != nil || !row.held() {
		return err
	}
	if l.silence(m, &row) < row.ttl {
		return &kv.FencedError{Holder: row.owner}
	}
	writeSession(tx, &sessionRow{epoch: row.epoch + 1})
	return nil
}
