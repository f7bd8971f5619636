package kvrpc

import (
	"context"
	"crypto/sha256"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

// Session is the level of a read that shows at least what this client has seen before, its own durable
// writes included. Any member answers it; one that is behind waits until it has caught up.
const Session kv.Level = 0x10

// ReadOptions say how fresh a read must be. The zero value is a linearizable read.
type ReadOptions struct {
	// Level is a level of package kv, or Session.
	Level kv.Level
	// MinIndex is the index that a Session read must show; 0 is the highest that this client has been told
	// of by reads and writes of the store.
	MinIndex uint64
	// MaxAge refuses Stale and Session reads of views that may be older; 0 allows any age.
	MaxAge time.Duration
	// Info, when it is not nil, is set to what the answer tells beside the data.
	Info *ReadInfo
}

// ReadInfo is what an answer tells about the view that was read.
type ReadInfo struct {
	Index uint64        // the view shows everything up to this index of the log; a Watch goes on behind it
	Seen  uint64        // nothing in the view is newer than this index, which a Session read may ask for
	Age   time.Duration // how old it may be; 0 of a linearizable read, raftkv.Unknown when a member cannot tell
}

// Key names a key of a keyspace.
type Key struct {
	Keyspace kv.Keyspace
	Key      []byte
}

// Value is a value, or that there is none.
type Value struct {
	Found bool
	Value []byte
}

// Entry is a key with its value.
type Entry struct{ Key, Value []byte }

// RangeOptions of a range.
type RangeOptions struct {
	ReadOptions
	// MaxBytes of keys and values in a page; 1 MiB when 0, at most 16 MiB. A page has one entry at least.
	MaxBytes int
	// KeysOnly leaves the values out.
	KeysOnly bool
}

// Page is a part of a range. Its slices share memory and belong to the caller.
type Page struct {
	Entries []Entry
	// More says that the range may go on behind the page.
	More bool
	ReadInfo
}

// Next returns what is left of r behind the page. Its Limit stays: that is the size of a page.
func (p *Page) Next(r kv.Range) kv.Range {
	if n := len(p.Entries); n > 0 {
		last := p.Entries[n-1].Key
		if r.Reverse {
			r.To = last
		} else {
			r.From = after(last)
		}
	}
	return r
}

// after returns the first key behind key.
func after(key []byte) []byte {
	if len(key) >= kv.MaxKey { // a longer one does not exist
		if r := kv.Prefix(key); r.To != nil {
			return r.To
		}
	}
	return append(append(make([]byte, 0, len(key)+1), key...), 0)
}

// CountResult is what Count found.
type CountResult struct {
	Keys   uint64
	Bytes  uint64            // of keys and values
	Digest [sha256.Size]byte // as kv.DigestRange computes it
	ReadInfo
}

// Get returns the value of key, or kv.ErrNotFound. The value belongs to the caller.
func (s *Store) Get(ctx context.Context, ks kv.Keyspace, key []byte, o ReadOptions) ([]byte, error) {
	var one [1]Value
	if err := s.get(ctx, []Key{{ks, key}}, o, false, one[:]); err != nil {
		return nil, err
	}
	if !one[0].Found {
		return nil, kv.ErrNotFound
	}
	return one[0].Value, nil
}

// MultiGet returns the values of up to MaxGet keys in one consistent view, in their order.
func (s *Store) MultiGet(ctx context.Context, keys []Key, o ReadOptions) ([]Value, error) {
	values := make([]Value, len(keys))
	return values, s.get(ctx, keys, o, false, values)
}

// Exists says whether the key exists.
func (s *Store) Exists(ctx context.Context, ks kv.Keyspace, key []byte, o ReadOptions) (bool, error) {
	var one [1]Value
	err := s.get(ctx, []Key{{ks, key}}, o, true, one[:])
	return one[0].Found, err
}

func (s *Store) get(ctx context.Context, keys []Key, o ReadOptions, existsOnly bool, values []Value) error {
	if len(keys) > MaxGet {
		return &kv.TooLargeError{What: "keys of a get", Size: len(keys), Max: MaxGet}
	}
	c := newCall(opGet)
	defer c.free()
	c.keys, c.existsOnly = keys, existsOnly
	if err := s.doRead(ctx, c, o); err != nil {
		return err
	}
	info, err := decodeValues(c.body, values)
	if err != nil {
		return err
	}
	s.saw(info, o.Info)
	return nil
}

// Range returns one page of the keys in r. Go on with p.Next while p.More; each page is a view of its own.
func (s *Store) Range(ctx context.Context, ks kv.Keyspace, r kv.Range, o RangeOptions) (*Page, error) {
	c := newCall(opRange)
	defer c.free()
	c.cold = func() proto.Message {
		return &kvpb.RangeRequest{
			Store: s.name, Read: c.read.proto(), Keyspace: []byte(ks), From: r.From, To: r.To,
			ToIsEmpty: r.To != nil && len(r.To) == 0, Reverse: r.Reverse,
			Limit: uint32(min(max(r.Limit, 0), 1<<31)), MaxBytes: uint32(min(max(o.MaxBytes, 0), maxAnswer)), KeysOnly: o.KeysOnly,
		}
	}
	if err := s.doRead(ctx, c, o.ReadOptions); err != nil {
		return nil, err
	}
	p, err := decodePage(c.body)
	if err != nil {
		return nil, err
	}
	s.saw(p.ReadInfo, o.Info)
	return p, nil
}

// Scan calls fn with each key in r, in order, until fn returns false. It asks for the next page while fn
// works on one; pages are views of their own. Key and value belong to fn.
func (s *Store) Scan(ctx context.Context, ks kv.Keyspace, r kv.Range, o RangeOptions, fn func(key, value []byte) bool) error {
	type result struct {
		page *Page
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o.Info = nil
	limit := r.Limit
	page, err := s.Range(ctx, ks, r, o)
	for {
		if err != nil {
			return err
		}
		var ahead chan result
		r = page.Next(r)
		r.Limit -= len(page.Entries)
		more := page.More && (limit == 0 || r.Limit > 0)
		if limit == 0 {
			r.Limit = 0
		}
		if more {
			ahead = make(chan result, 1)
			go func(r kv.Range) {
				p, err := s.Range(ctx, ks, r, o)
				ahead <- result{p, err}
			}(r)
		}
		for i := range page.Entries {
			if !fn(page.Entries[i].Key, page.Entries[i].Value) {
				if more {
					cancel()
					<-ahead
				}
				return nil
			}
		}
		if !more {
			return nil
		}
		next := <-ahead
		page, err = next.page, next.err
	}
}

// Count counts the keys in r; r.Limit and r.Reverse do not count.
func (s *Store) Count(ctx context.Context, ks kv.Keyspace, r kv.Range, o ReadOptions) (*CountResult, error) {
	c := newCall(opCount)
	defer c.free()
	c.cold = func() proto.Message {
		return &kvpb.CountRequest{
			Store: s.name, Read: c.read.proto(), Keyspace: []byte(ks), From: r.From, To: r.To,
			ToIsEmpty: r.To != nil && len(r.To) == 0,
		}
	}
	if err := s.doRead(ctx, c, o); err != nil {
		return nil, err
	}
	var m kvpb.CountResponse
	if err := proto.Unmarshal(c.body, &m); err != nil {
		return nil, invalid("%v", err)
	}
	out := &CountResult{Keys: m.Keys, Bytes: m.Bytes, ReadInfo: ReadInfo{m.Index, m.Seen, age(m.AgeUs)}}
	copy(out.Digest[:], m.Digest)
	s.saw(out.ReadInfo, o.Info)
	return out, nil
}

// Set sets key to value.
func (s *Store) Set(ctx context.Context, c kv.Commit, ks kv.Keyspace, key, value []byte) error {
	_, err := s.step(ctx, c, kv.Step{Op: kv.OpSet, Keyspace: ks, Key: key, Value: value})
	return err
}

// Delete removes key; removing an absent key does nothing.
func (s *Store) Delete(ctx context.Context, c kv.Commit, ks kv.Keyspace, key []byte) error {
	_, err := s.step(ctx, c, kv.Step{Op: kv.OpDelete, Keyspace: ks, Key: key})
	return err
}

// TestAndSet sets key to value if it has the value expect. A nil expect stands for an absent key, a nil
// value for removing it. It returns what was there, and whether it was as expected.
func (s *Store) TestAndSet(ctx context.Context, c kv.Commit, ks kv.Keyspace, key, expect, value []byte) (before Value, swapped bool, err error) {
	r, err := s.step(ctx, c, kv.Step{
		Op: kv.OpTestAndSet, Keyspace: ks, Key: key, Value: value, Remove: value == nil, Expect: expect, ExpectAbsent: expect == nil})
	return Value{r.Found, r.Value}, r.Count > 0, err
}

// Replace sets key to value, or removes it when value is nil, and returns what was there.
func (s *Store) Replace(ctx context.Context, c kv.Commit, ks kv.Keyspace, key, value []byte) (before Value, err error) {
	r, err := s.step(ctx, c, kv.Step{Op: kv.OpReplace, Keyspace: ks, Key: key, Value: value, Remove: value == nil})
	return Value{r.Found, r.Value}, err
}

// Confirm sets key to value unless it has that value, and says whether it had to.
func (s *Store) Confirm(ctx context.Context, c kv.Commit, ks kv.Keyspace, key, value []byte) (written bool, err error) {
	r, err := s.step(ctx, c, kv.Step{Op: kv.OpConfirm, Keyspace: ks, Key: key, Value: value})
	return r.Count > 0, err
}

// DeletePrefix removes the keys that begin with prefix, all keys of the keyspace when it is empty, in one
// transaction, and says how many they were. When they are more than a transaction may remove it fails with
// a *kv.TooLargeError; limit, when it is not 0, bounds the number.
func (s *Store) DeletePrefix(ctx context.Context, c kv.Commit, ks kv.Keyspace, prefix []byte, limit int) (uint64, error) {
	r, err := s.step(ctx, c, kv.Step{Op: kv.OpDeletePrefix, Keyspace: ks, Key: prefix, Limit: limit})
	return r.Count, err
}

func (s *Store) step(ctx context.Context, c kv.Commit, st kv.Step) (kv.StepResult, error) {
	results, err := s.Apply(ctx, c, []kv.Step{st})
	if err != nil {
		return kv.StepResult{}, err
	}
	return results[0], nil
}

// Apply runs a sequence as one transaction, see kv.Apply. It is applied once, or not at all.
func (s *Store) Apply(ctx context.Context, commit kv.Commit, steps []kv.Step) ([]kv.StepResult, error) {
	if !s.client.o.unchecked {
		if err := kv.CheckSteps(steps); err != nil {
			return nil, err
		}
	}
	c := newCall(opApply)
	defer c.free()
	c.steps = steps
	if err := s.doWrite(ctx, c, commit); err != nil {
		return nil, err
	}
	results, info, err := decodeResults(c.body, len(steps))
	if err != nil {
		return nil, err
	}
	s.wrote(info, commit)
	return results, nil
}

// Call runs the procedure that the servers have registered under this name, as one transaction on the
// leader. An error of the procedure's own is a *ProcedureError.
func (s *Store) Call(ctx context.Context, commit kv.Commit, procedure string, args []byte) ([]byte, error) {
	if len(args) > maxArgs {
		return nil, &kv.TooLargeError{What: "arguments", Size: len(args), Max: maxArgs}
	}
	c := newCall(opCall)
	defer c.free()
	c.cold = func() proto.Message {
		return &kvpb.CallRequest{Store: s.name, Write: c.write.proto(), Procedure: procedure, Args: args}
	}
	if err := s.doWrite(ctx, c, commit); err != nil {
		return nil, err
	}
	var m kvpb.CallResponse
	if err := proto.Unmarshal(c.body, &m); err != nil {
		return nil, invalid("%v", err)
	}
	s.wrote(writeInfo{m.Index, m.Era, m.Repeated}, commit)
	return m.Result, nil
}

// Sync waits until every Ordered write of this client that was acknowledged is durable. It returns an error
// that matches kv.ErrUnknownOutcome when some of them may have been lost with a leader.
func (s *Store) Sync(ctx context.Context) error {
	era, lost := s.takeEra()
	if lost {
		return errLost
	}
	c := newCall(opSync)
	defer c.free()
	c.cold = func() proto.Message { return &kvpb.SyncRequest{Store: s.name, Era: era} }
	err := s.do(ctx, c)
	if err != nil {
		s.putBackEra(era, err)
		return err
	}
	var m kvpb.SyncResponse
	if err := proto.Unmarshal(c.body, &m); err != nil {
		return invalid("%v", err)
	}
	s.sawIndex(m.Index)
	return nil
}

// decodeValues reads a GetResponse. Small values are copied out of a large message.
func decodeValues(b []byte, values []Value) (info ReadInfo, err error) {
	for i := 0; len(b) > 0; {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return info, err
		}
		b = rest
		switch f {
		case 1:
			if i == len(values) {
				return info, invalid("more values than keys")
			}
			for len(sub) > 0 {
				vf, vv, vb, rest, err := next(sub)
				if err != nil {
					return info, err
				}
				sub = rest
				if vf == 1 {
					values[i].Found = vv != 0
				} else if vf == 2 {
					values[i].Value = own(vb)
				}
			}
			if values[i].Found && values[i].Value == nil {
				values[i].Value = []byte{}
			}
			i++
		case 2:
			info.Index = v
		case 3:
			info.Age = age(v)
		case 4:
			info.Seen = v
		}
	}
	return info, nil
}

// age is a duration of so many microseconds, or as long as there is.
func age(us uint64) time.Duration {
	if us > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(us) * time.Microsecond
}

// copyBelow is the size up to which a value is copied, so that it does not keep a message of many values
// in memory.
const copyBelow = 4 << 10

func own(b []byte) []byte {
	if len(b) < copyBelow {
		return append(make([]byte, 0, len(b)), b...)
	}
	return b[:len(b):len(b)]
}

// decodePage reads a RangeResponse; the entries point into it.
func decodePage(b []byte) (*Page, error) {
	n, err := count(b, 1, maxMessage)
	if err != nil {
		return nil, err
	}
	p := &Page{Entries: make([]Entry, 0, n)}
	for len(b) > 0 {
		f, v, sub, rest, err := next(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch f {
		case 1:
			var e Entry
			for len(sub) > 0 {
				var ef protowire.Number
				var eb []byte
				if ef, _, eb, sub, err = next(sub); err != nil {
					return nil, err
				}
				if ef == 1 {
					e.Key = eb[:len(eb):len(eb)]
				} else if ef == 2 {
					e.Value = eb[:len(eb):len(eb)]
				}
			}
			p.Entries = append(p.Entries, e)
		case 2:
			p.More = v != 0
		case 3:
			p.Index = v
		case 4:
			p.Age = age(v)
		case 5:
			p.Seen = v
		}
	}
	return p, nil
}
