package kvrpc

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// call is one operation of the client on its way.
type call struct {
	op         opcode
	store      string
	read       readOptions
	write      writeOptions
	writes     bool // it is a write, with write
	keys       []Key
	existsOnly bool
	steps      []kv.Step
	cold       func() proto.Message // the others, with read and write in them

	// The attempt that is under way.
	id   uint64
	done chan struct{} // told once per attempt
	body []byte        // the answer; it points into the message
	err  error
	sent bool // the member may have seen it
	// bytes of the request, about
	bytes int
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

func newCall(op opcode) *call {
	c := calls.Get().(*call)
	*c = call{op: op, done: c.done}
	return c
}

// free gives the call back. Its body stays valid.
func (c *call) free() {
	*c = call{done: c.done}
	calls.Put(c)
}

// size is about the length of the encoded request, and never less.
func (c *call) size() int {
	n := 128 + len(c.store)
	for i := range c.keys {
		n += 16 + len(c.keys[i].Keyspace) + len(c.keys[i].Key)
	}
	for i := range c.steps {
		n += stepSize(&c.steps[i])
	}
	return n
}

// append appends the request as field 1 of a kvpb.ExecRequest.
func (c *call) append(b []byte) []byte {
	b, whole := begin(b, 1)
	b = appendUint(b, 1, c.id)
	b, op := begin(b, c.op)
	switch c.op {
	case opGet:
		b = appendString(b, 1, c.store)
		b = c.read.append(b, 2)
		for i := range c.keys {
			var at int
			b, at = begin(b, 3)
			b = appendString(b, 1, c.keys[i].Keyspace)
			b = appendBytes(b, 2, c.keys[i].Key)
			b = end(b, at)
		}
		b = appendBool(b, 4, c.existsOnly)
	case opApply:
		b = appendString(b, 1, c.store)
		b = c.write.append(b, 2)
		for i := range c.steps {
			b = appendStep(b, 3, &c.steps[i])
		}
	default:
		var err error
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, c.cold()); err != nil {
			panic(err) // our own message
		}
	}
	b = end(b, op)
	return end(b, whole)
}

func (o *readOptions) append(b []byte, f opcode) []byte {
	if *o == (readOptions{}) {
		return b
	}
	b, at := begin(b, f)
	b = appendUint(b, 1, uint64(o.level))
	b = appendUint(b, 2, o.minIndex)
	b = appendUint(b, 3, o.maxAge)
	return end(b, at)
}

func (o *writeOptions) append(b []byte, f opcode) []byte {
	b, at := begin(b, f)
	if len(o.client) > 0 {
		b = appendBytes(b, 1, o.client)
	}
	b = appendUint(b, 2, uint64(o.slot))
	b = appendUint(b, 3, o.sequence)
	b = appendBool(b, 4, o.repeat)
	if o.commit == kv.Ordered {
		b = appendUint(b, 5, uint64(kvpb.Commit_ORDERED))
	}
	return end(b, at)
}

func (o *readOptions) proto() *kvpb.ReadOptions {
	return &kvpb.ReadOptions{Level: o.level, MinIndex: o.minIndex, MaxAgeUs: o.maxAge}
}

func (o *writeOptions) proto() *kvpb.WriteOptions {
	m := &kvpb.WriteOptions{Client: o.client, Slot: o.slot, Sequence: o.sequence, Repeat: o.repeat}
	if o.commit == kv.Ordered {
		m.Commit = kvpb.Commit_ORDERED
	}
	return m
}
