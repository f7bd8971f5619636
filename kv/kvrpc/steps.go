package kvrpc

import (
	"crypto/sha256"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gabionfs/gabion/kv"
)

// The numbers of kv.Op are those of kvpb.Step_Op; a test compares them.

func decodeStep(b []byte, st *kv.Step, in names) error {
	toIsEmpty := false
	for len(b) > 0 {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return err
		}
		b = rest
		switch f {
		case 1:
			if v > 255 {
				v = 255 // no operation
			}
			st.Op = kv.Op(v)
		case 2:
			st.Keyspace = kv.Keyspace(in.of(sub))
		case 3:
			st.Key = sub
		case 4:
			if len(sub) > 0 {
				st.To = sub
			}
		case 5:
			st.Value = sub
		case 6:
			st.Expect = sub
		case 7:
			st.ExpectAbsent = v != 0
		case 8:
			if len(sub) != sha256.Size {
				return invalid("a digest of %d bytes", len(sub))
			}
			st.Digest = [sha256.Size]byte(sub)
		case 9:
			st.Remove = v != 0
		case 10:
			if v > 1<<31 {
				return invalid("limit %d", v)
			}
			st.Limit = int(v)
		case 11:
			toIsEmpty = v != 0
		}
	}
	if toIsEmpty && st.To == nil {
		st.To = []byte{}
	}
	return nil
}

// stepSize is at least the length of what appendStep appends.
func stepSize(st *kv.Step) int {
	return 64 + sha256.Size + len(st.Keyspace) + len(st.Key) + len(st.To) + len(st.Value) + len(st.Expect)
}

func appendStep(b []byte, f protowire.Number, st *kv.Step) []byte {
	b, at := begin(b, f)
	b = appendUint(b, 1, uint64(st.Op))
	b = appendString(b, 2, st.Keyspace)
	if len(st.Key) > 0 {
		b = appendBytes(b, 3, st.Key)
	}
	if len(st.To) > 0 {
		b = appendBytes(b, 4, st.To)
	}
	if len(st.Value) > 0 {
		b = appendBytes(b, 5, st.Value)
	}
	if len(st.Expect) > 0 {
		b = appendBytes(b, 6, st.Expect)
	}
	b = appendBool(b, 7, st.ExpectAbsent)
	if st.Op == kv.OpAssertRange {
		b = appendBytes(b, 8, st.Digest[:])
		b = appendBool(b, 11, st.To != nil && len(st.To) == 0)
	}
	b = appendBool(b, 9, st.Remove)
	b = appendUint(b, 10, uint64(max(st.Limit, 0)))
	return end(b, at)
}

// appendResults appends the results of a write as field 1 of an ApplyResponse, or nothing when all are
// empty.
func appendResults(b []byte, results []kv.StepResult) []byte {
	empty := true
	for i := range results {
		r := &results[i]
		empty = empty && !r.Found && r.Count == 0 && len(r.Value) == 0
	}
	if empty {
		return b
	}
	for i := range results {
		r := &results[i]
		var at int
		b, at = begin(b, 1)
		b = appendBool(b, 1, r.Found)
		if len(r.Value) > 0 {
			b = appendBytes(b, 2, r.Value)
		}
		b = appendUint(b, 3, r.Count)
		b = end(b, at)
	}
	return b
}

// decodeResults reads the results of n steps from an ApplyResponse; they point into it.
func decodeResults(b []byte, n int) ([]kv.StepResult, writeInfo, error) {
	out := make([]kv.StepResult, n)
	var info writeInfo
	i := 0
	for len(b) > 0 {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return nil, info, err
		}
		b = rest
		switch f {
		case 1:
			if i == n {
				return nil, info, invalid("more results than the %d steps have", n)
			}
			for len(sub) > 0 {
				rf, rv, rb, rest, err := next(sub)
				if err != nil {
					return nil, info, err
				}
				sub = rest
				switch rf {
				case 1:
					out[i].Found = rv != 0
				case 2:
					out[i].Value = rb
				case 3:
					out[i].Count = rv
				}
			}
			i++
		case 2:
			info.index = v
		case 3:
			info.repeated = v != 0
		case 4:
			info.era = v
		}
	}
	if i != 0 && i != n {
		return nil, info, invalid("%d results of %d steps", i, n)
	}
	return out, info, nil
}

// writeInfo is what an answer to a write tells beside its results.
type writeInfo struct {
	index, era uint64
	repeated   bool
}
