package kvrpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// A write is applied once because the member that applies it writes down that it has, in the same
// transaction. The rows are in kv.SystemKeyspace:
//
//	"client/" client[16]                 the client is registered
//	"client/" client[16] slot u16        the last write of the slot that was applied
//
// Integers in keys are big endian. The value of both:
//
//	0       1          5             13
//	+-------+----------+-------------+-----------------------------------------+
//	| state | hour u32 | sequence u64| body: result of the write, see state    |
//	+-------+----------+-------------+-----------------------------------------+
//	1 registered       no sequence, no body
//	2 applied          body is the ApplyResponse or CallResponse, without index and era
//	3 forgotten        applied; the body was over maxStored
//	4 refused          not applied, and never will be: body is the kvpb.Error
//
// in little endian; hour counts from 1970, by the leader's clock, and serves only to forget clients that
// have been idle for a day. A write of a client that is not registered is refused, so a copy that arrives
// after its client was forgotten does nothing.
//
// A write that was refused needs no row, unless an earlier copy of it may still arrive (repeat): that one
// must not be applied after the client has been told that nothing happened.
const (
	rowRegistered = 1
	rowApplied    = 2
	rowForgotten  = 3
	rowRefused    = 4

	rowHeader    = 13
	clientPrefix = "client/"
	idleHours    = 25
)

func clientKey(client []byte) []byte {
	k := make([]byte, 0, len(clientPrefix)+clientBytes+2)
	return append(append(k, clientPrefix...), client...)
}

func slotKey(client []byte, slot uint32) []byte {
	return binary.BigEndian.AppendUint16(clientKey(client), uint16(slot))
}

type row struct {
	state    byte
	hour     uint32
	sequence uint64
	body     []byte
}

func (r row) encode() []byte {
	b := make([]byte, rowHeader, rowHeader+len(r.body))
	b[0] = r.state
	binary.LittleEndian.PutUint32(b[1:], r.hour)
	binary.LittleEndian.PutUint64(b[5:], r.sequence)
	return append(b, r.body...)
}

func decodeRow(b []byte) (row, error) {
	if len(b) < rowHeader || b[0] < rowRegistered || b[0] > rowRefused {
		return row{}, &kv.CorruptError{What: "record of a client's writes", Err: fmt.Errorf("%d bytes", len(b))}
	}
	return row{b[0], binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint64(b[5:]), b[rowHeader:]}, nil
}

func hour() uint32 { return uint32(time.Now().Unix() / 3600) }

func getRow(r kv.Reader, key []byte) (row, bool, error) {
	v, err := r.Get(kv.SystemKeyspace, key)
	if errors.Is(err, kv.ErrNotFound) {
		return row{}, false, nil
	}
	if err != nil {
		return row{}, false, err
	}
	out, err := decodeRow(v)
	return out, true, err
}

// check validates the identity of a write.
func (o *writeOptions) check() error {
	switch {
	case len(o.client) == 0:
		return nil
	case len(o.client) != clientBytes:
		return invalid("a client of %d bytes", len(o.client))
	case o.slot >= Slots:
		return invalid("slot %d", o.slot)
	case o.sequence == 0:
		return invalid("sequence 0")
	}
	return nil
}

// earlier looks for a copy of the write that was applied or refused before. done says that there was one,
// and body is its result.
func (o *writeOptions) earlier(tx kv.Reader, key []byte) (body []byte, done bool, err error) {
	last, found, err := getRow(tx, key)
	if err != nil {
		return nil, false, err
	}
	if !found {
		if _, registered, err := getRow(tx, clientKey(o.client)); err != nil || !registered {
			return nil, false, errors.Join(err, errUnregistered)
		}
		return nil, false, nil
	}
	switch {
	case last.sequence < o.sequence:
		return nil, false, nil
	case last.sequence > o.sequence:
		return nil, false, errStale
	case last.state == rowForgotten:
		return nil, false, ErrResultForgotten
	case last.state == rowRefused:
		return nil, false, unmarshalError(last.body)
	}
	return append([]byte(nil), last.body...), true, nil
}

// record writes down that the write was applied.
func (o *writeOptions) record(tx kv.Txn, key, body []byte) {
	r := row{state: rowApplied, hour: hour(), sequence: o.sequence, body: body}
	if len(body) > maxStored {
		r.state, r.body = rowForgotten, nil
	}
	tx.Put(kv.SystemKeyspace, key, r.encode())
}

// refuse writes down that the write is refused for good.
func (o *writeOptions) refuse(tx kv.Txn, key []byte, e *kvpb.Error) error {
	body, err := proto.Marshal(e)
	if err != nil {
		return err
	}
	tx.Put(kv.SystemKeyspace, key, row{state: rowRefused, hour: hour(), sequence: o.sequence, body: body}.encode())
	return nil
}

// registerClient makes the client known.
func registerClient(tx kv.Txn, client []byte) error {
	key := clientKey(client)
	if _, found, err := getRow(tx, key); err != nil || found {
		return err
	}
	tx.Put(kv.SystemKeyspace, key, row{state: rowRegistered, hour: hour()}.encode())
	return nil
}

// idleClients returns the clients none of whose rows is younger than idleHours.
func idleClients(r kv.Reader, now uint32) (idle [][]byte, err error) {
	var last []byte
	var newest uint32
	settle := func() {
		if last != nil && newest+idleHours <= now {
			idle = append(idle, last)
		}
	}
	var damaged error
	err = r.Range(kv.SystemKeyspace, kv.Prefix([]byte(clientPrefix)), func(key, value []byte) bool {
		row, err := decodeRow(value)
		if err != nil || len(key) < len(clientPrefix)+clientBytes {
			damaged = err
			return err == nil
		}
		if client := key[len(clientPrefix) : len(clientPrefix)+clientBytes]; string(client) != string(last) {
			settle()
			last, newest = append([]byte(nil), client...), 0
		}
		newest = max(newest, row.hour)
		return true
	})
	settle()
	return idle, errors.Join(err, damaged)
}

// forgetClient removes all rows of a client, if it is still idle.
func forgetClient(tx kv.Txn, client []byte, now uint32) error {
	var keys [][]byte
	busy := false
	err := tx.Range(kv.SystemKeyspace, kv.Prefix(clientKey(client)), func(key, value []byte) bool {
		row, err := decodeRow(value)
		busy = busy || err != nil || row.hour+idleHours > now
		keys = append(keys, append([]byte(nil), key...))
		return !busy
	})
	if err != nil || busy {
		return err
	}
	for _, key := range keys {
		tx.Delete(kv.SystemKeyspace, key)
	}
	return nil
}
