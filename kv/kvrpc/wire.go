package kvrpc

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// The messages that a busy connection consists of are encoded and decoded here by hand, in the format of
// kv.proto: nothing is allocated per key, and every count is checked before memory is taken for it.

// opcode is the field number of an operation in kvpb.Request and of its result in kvpb.Response.
type opcode = protowire.Number

const (
	opGet      opcode = 2
	opRange    opcode = 3
	opCount    opcode = 4
	opApply    opcode = 5
	opCall     opcode = 6
	opRegister opcode = 7
	opSync     opcode = 8
	opPing     opcode = 9
	opError    opcode = 15
)

// request is one operation as the server works on it. Its slices point into the message.
type request struct {
	id         uint64
	op         opcode
	size       int // bytes of it in the message
	store      string
	read       readOptions
	write      writeOptions
	keys       []Key // Get
	existsOnly bool
	steps      []kv.Step     // Apply
	msg        proto.Message // the others
	host       *host
}

type readOptions struct {
	level    kvpb.Level
	minIndex uint64
	maxAge   uint64 // microseconds
}

type writeOptions struct {
	client   []byte
	slot     uint32
	sequence uint64
	repeat   bool
	commit   kv.Commit
}

func invalid(format string, args ...any) error { return &InvalidError{fmt.Sprintf(format, args...)} }

// next takes one field off a message: v of a varint, b of what has a length. Fixed numbers are told as
// nothing, groups refused.
func next(data []byte) (n protowire.Number, v uint64, b, rest []byte, err error) {
	n, t, k := protowire.ConsumeTag(data)
	if k < 0 {
		return 0, 0, nil, nil, invalid("%v", protowire.ParseError(k))
	}
	data = data[k:]
	switch t {
	case protowire.VarintType:
		v, k = protowire.ConsumeVarint(data)
	case protowire.BytesType:
		if b, k = protowire.ConsumeBytes(data); b == nil {
			b = data[:0:0]
		}
	case protowire.Fixed32Type, protowire.Fixed64Type:
		k = protowire.ConsumeFieldValue(n, t, data)
	default:
		return 0, 0, nil, nil, invalid("wire type %d", t)
	}
	if k < 0 {
		return 0, 0, nil, nil, invalid("%v", protowire.ParseError(k))
	}
	return n, v, b, data[k:], nil
}

// count says how often a field occurs in a message, up to one more than most.
func count(data []byte, field protowire.Number, most int) (int, error) {
	found := 0
	for len(data) > 0 && found <= most {
		n, t, k := protowire.ConsumeTag(data)
		if k < 0 {
			return 0, invalid("%v", protowire.ParseError(k))
		}
		m := protowire.ConsumeFieldValue(n, t, data[k:])
		if m < 0 {
			return 0, invalid("%v", protowire.ParseError(m))
		}
		data = data[k+m:]
		if n == field {
			found++
		}
	}
	return found, nil
}

// names keeps the strings of stores and keyspaces that a stream has named, so that they are made once.
type names map[string]string

func (n names) of(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(n) < 256 && len(b) <= maxName {
		n[s] = s
	}
	return s
}

// decodeExec decodes a kvpb.ExecRequest. An error means that the message is damaged; a request that is
// only refused carries its error in the second result, by position.
func decodeExec(data []byte, in names) ([]request, []error, error) {
	n, err := count(data, 1, maxRequests)
	if err != nil {
		return nil, nil, err
	}
	if n > maxRequests {
		return nil, nil, invalid("more than %d requests in one message", maxRequests)
	}
	out := make([]request, 0, n)
	var refused []error
	for len(data) > 0 {
		f, _, b, rest, err := next(data)
		if err != nil {
			return nil, nil, err
		}
		data = rest
		if f != 1 {
			continue
		}
		out = append(out, request{size: len(b)})
		r := &out[len(out)-1]
		var body []byte
		for len(b) > 0 {
			f, v, sub, rest, err := next(b)
			if err != nil {
				return nil, nil, err
			}
			b = rest
			if f == 1 {
				r.id = v
			} else if f >= opGet && f <= opPing && sub != nil {
				r.op, body = f, sub
			}
		}
		if err := r.decode(body, in); err != nil {
			if refused == nil {
				refused = make([]error, n)
			}
			refused[len(out)-1] = err
		}
	}
	return out, refused, nil
}

// decode decodes the message of the operation r.op.
func (r *request) decode(body []byte, in names) error {
	switch r.op {
	case opGet:
		return r.decodeGet(body, in)
	case opApply:
		return r.decodeApply(body, in)
	case opRange:
		m := new(kvpb.RangeRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store; r.read.set(m.Read) })
	case opCount:
		m := new(kvpb.CountRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store; r.read.set(m.Read) })
	case opCall:
		m := new(kvpb.CallRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store; r.write.set(m.Write) })
	case opRegister:
		m := new(kvpb.RegisterRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store })
	case opSync:
		m := new(kvpb.SyncRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store })
	case opPing:
		m := new(kvpb.PingRequest)
		r.msg = m
		return r.cold(body, func() { r.store = m.Store })
	}
	return invalid("no known operation")
}

// cold decodes an operation of which there are few, with the generated code. None of these messages has a
// repeated field, so they take no more memory than they have bytes.
func (r *request) cold(body []byte, take func()) error {
	if err := proto.Unmarshal(body, r.msg); err != nil {
		return invalid("%v", err)
	}
	if take(); r.op == opPing && r.store == "" {
		return nil
	}
	return checkName("store", r.store)
}

func (o *readOptions) set(m *kvpb.ReadOptions) {
	*o = readOptions{level: m.GetLevel(), minIndex: m.GetMinIndex(), maxAge: m.GetMaxAgeUs()}
}

func (o *writeOptions) set(m *kvpb.WriteOptions) {
	*o = writeOptions{client: m.GetClient(), slot: m.GetSlot(), sequence: m.GetSequence(), repeat: m.GetRepeat()}
	if m.GetCommit() == kvpb.Commit_ORDERED {
		o.commit = kv.Ordered
	}
}

func (o *readOptions) decode(b []byte) error {
	for len(b) > 0 {
		f, v, _, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch f {
		case 1:
			o.level = kvpb.Level(v)
		case 2:
			o.minIndex = v
		case 3:
			o.maxAge = v
		}
	}
	return nil
}

func (o *writeOptions) decode(b []byte) error {
	for len(b) > 0 {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch f {
		case 1:
			o.client = sub
		case 2:
			o.slot = uint32(v)
		case 3:
			o.sequence = v
		case 4:
			o.repeat = v != 0
		case 5:
			if kvpb.Commit(v) == kvpb.Commit_ORDERED {
				o.commit = kv.Ordered
			}
		}
	}
	return nil
}

func (r *request) decodeGet(b []byte, in names) error {
	n, err := count(b, 3, MaxGet)
	if err != nil {
		return err
	}
	if n > MaxGet {
		return &kv.TooLargeError{What: "keys of a get", Size: n, Max: MaxGet}
	}
	r.keys = make([]Key, 0, n)
	for len(b) > 0 {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch f {
		case 1:
			r.store = in.of(sub)
		case 2:
			err = r.read.decode(sub)
		case 3:
			var k Key
			for len(sub) > 0 && err == nil {
				var kf protowire.Number
				var kb []byte
				if kf, _, kb, sub, err = next(sub); kf == 1 {
					k.Keyspace = kv.Keyspace(in.of(kb))
				} else if kf == 2 {
					k.Key = kb
				}
			}
			r.keys = append(r.keys, k)
		case 4:
			r.existsOnly = v != 0
		}
		if err != nil {
			return err
		}
	}
	return checkName("store", r.store)
}

func (r *request) decodeApply(b []byte, in names) error {
	n, err := count(b, 3, kv.MaxSteps)
	if err != nil {
		return err
	}
	if n > kv.MaxSteps {
		return &kv.TooLargeError{What: "sequence", Size: n, Max: kv.MaxSteps}
	}
	r.steps = make([]kv.Step, n)
	i := 0
	for len(b) > 0 {
		f, _, sub, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch f {
		case 1:
			r.store = in.of(sub)
		case 2:
			err = r.write.decode(sub)
		case 3:
			err = decodeStep(sub, &r.steps[i], in)
			i++
		}
		if err != nil {
			return err
		}
	}
	return checkName("store", r.store)
}

func checkName(what, s string) error {
	if len(s) < 1 || len(s) > maxName {
		return &kv.TooLargeError{What: what + " name", Size: len(s), Max: maxName}
	}
	return nil
}

// Encoding.

func appendBytes(b []byte, f protowire.Number, v []byte) []byte {
	b = protowire.AppendTag(b, f, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendString[S ~string](b []byte, f protowire.Number, v S) []byte {
	b = protowire.AppendTag(b, f, protowire.BytesType)
	return protowire.AppendString(b, string(v))
}

func appendUint(b []byte, f protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, f, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

func appendBool(b []byte, f protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return append(protowire.AppendTag(b, f, protowire.VarintType), 1)
}

// begin starts a field with a length that is not known yet; end puts it in. There are four bytes for it: a
// varint may have more than it needs.
func begin(b []byte, f protowire.Number) ([]byte, int) {
	b = append(protowire.AppendTag(b, f, protowire.BytesType), 0, 0, 0, 0)
	return b, len(b)
}

func end(b []byte, at int) []byte {
	n := len(b) - at
	b[at-4], b[at-3], b[at-2], b[at-1] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
	return b
}
