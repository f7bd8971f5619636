package kvrpc

import (
	"fmt"
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is wrapped
	"google.golang.org/grpc/mem"
)

// frame is a message of the KV service that this package encodes and decodes itself, in the format that
// the .proto files define. Everything else on the connection goes through the ordinary codec.
type frame struct {
	in  []byte          // received; belongs to whoever received it
	out mem.BufferSlice // to be sent; belongs to gRPC from then on
}

// codec is the protobuf codec, and frames.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.out, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. A frame is copied once, into memory of its own size, so that
// what is decoded from it may point into it.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if n := data.Len(); n > maxMessage {
		return fmt.Errorf("kvrpc: message of %d bytes, allowed are %d", n, maxMessage)
	}
	f.in = data.Materialize()
	return nil
}

// Buffers that messages are encoded into, by size class: 2 KiB, 8 KiB, ... 2 MiB. Larger ones are not kept.
type bufferPool struct{ classes [6]sync.Pool }

// gRPC does not give back buffers of 1 KiB and less.
const smallestBuffer = 2 << 10

// class returns the class whose buffers hold n bytes, or -1.
func (p *bufferPool) class(n int) int {
	c := max(0, (bits.Len(uint(max(n, 1)-1))-11+1)/2)
	if c >= len(p.classes) {
		return -1
	}
	return c
}

// get returns an empty buffer with room for n bytes.
func (p *bufferPool) get(n int) []byte {
	c := p.class(n)
	if c < 0 {
		return make([]byte, 0, n)
	}
	if b, ok := p.classes[c].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, smallestBuffer<<(2*c))
}

// Get implements mem.BufferPool.
func (p *bufferPool) Get(n int) *[]byte {
	b := p.get(n)[:n]
	return &b
}

// Put implements mem.BufferPool: gRPC has sent the buffer.
func (p *bufferPool) Put(b *[]byte) {
	if c := p.class(cap(*b)); c >= 0 && cap(*b) == smallestBuffer<<(2*c) {
		p.classes[c].Put(b)
	}
}

// outbox gathers encoded messages for one stream until they are sent together. The caller serialises.
type outbox struct {
	pool *bufferPool
	segs [][]byte
	size int
}

const (
	// segmentBytes is when the outbox begins another buffer.
	segmentBytes = 64 << 10
	// flushBytes ends a message to the other side, though others wait.
	flushBytes = 1 << 20
)

// room returns the buffer to append n bytes to, which the caller gives back with put.
func (o *outbox) room(n int) []byte {
	if k := len(o.segs) - 1; k >= 0 {
		if s := o.segs[k]; cap(s)-len(s) >= n {
			return s
		}
		if s := o.segs[k]; len(s)+n <= segmentBytes { // a larger one takes over
			bigger := append(o.pool.get(max(len(s)+n, 2*cap(s))), s...)
			o.pool.Put(&s)
			o.segs[k] = bigger
			return bigger
		}
	}
	o.segs = append(o.segs, o.pool.get(n))
	return o.segs[len(o.segs)-1]
}

func (o *outbox) put(s []byte) {
	k := len(o.segs) - 1
	o.size += len(s) - len(o.segs[k])
	o.segs[k] = s
}

// adopt adds a message that is encoded already. It keeps the slice.
func (o *outbox) adopt(s []byte) {
	o.segs = append(o.segs, s)
	o.size += len(s)
}

// take removes about flushBytes, at least one segment, and returns them as a message.
func (o *outbox) take() mem.BufferSlice {
	n, k := 0, 0
	for k < len(o.segs) && (k == 0 || n+len(o.segs[k]) <= flushBytes) {
		n += len(o.segs[k])
		k++
	}
	out := make(mem.BufferSlice, k)
	for i := range out {
		s := o.segs[i]
		out[i] = mem.NewBuffer(&s, o.pool)
	}
	rest := copy(o.segs, o.segs[k:])
	clear(o.segs[rest:])
	o.segs = o.segs[:rest]
	o.size -= n
	return out
}

// drop forgets everything.
func (o *outbox) drop() { o.segs, o.size = nil, 0 }
