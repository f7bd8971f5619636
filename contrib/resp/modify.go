package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// unit is what happens as a whole or not at all: one command that needs to know a value before it can
// write, or a transaction with such commands.
type unit struct {
	ops     []*op
	watched []watched

	answers []func(out []byte) []byte // one per op
	changed bool                      // a watched key was: nothing happened
	err     error                     // of the store; one of a command is its answer
	done    chan struct{}
}

// appendTo appends the answer of the unit's only op.
func (u *unit) appendTo(out []byte) []byte {
	if u.err != nil {
		return redcon.AppendError(out, oneLine(errorText(u.err)))
	}
	return u.answers[0](out)
}

// modifier runs units. The values that they need are read, the units are evaluated here, one on top of the
// other, and what they wrote is sent as one sequence that asserts that the values are still the same. Those
// that arrive while this goes on are the next ones: any number of clients may increment one counter.
type modifier struct {
	server *Server
	work   chan []*unit
	wait   sync.WaitGroup
}

// unitsAtOnce and unitBytes bound what is evaluated together.
const (
	unitsAtOnce = 512
	unitBytes   = 4 << 20
)

func newModifier(s *Server) *modifier {
	m := &modifier{server: s, work: make(chan []*unit)}
	m.wait.Go(m.loop)
	return m
}

// close waits for the goroutine, after the server's context has ended.
func (m *modifier) close() { m.wait.Wait() }

// run carries the units out, in their order, and returns when all are done.
func (m *modifier) run(units []*unit) {
	for _, u := range units {
		u.done = make(chan struct{})
	}
	select {
	case m.work <- units:
		for _, u := range units {
			<-u.done
		}
	case <-m.server.ctx.Done():
		for _, u := range units {
			u.err = kv.ErrClosed
		}
	}
}

func (m *modifier) loop() {
	for {
		var units []*unit
		select {
		case units = <-m.work:
		case <-m.server.ctx.Done():
			return
		}
		for more := true; more && len(units) < unitsAtOnce; {
			select {
			case u := <-m.work:
				units = append(units, u...)
			default:
				more = false
			}
		}
		for len(units) > 0 {
			n := atOnce(units)
			m.evaluate(units[:n])
			units = units[n:]
		}
	}
}

// atOnce returns how many of the units are evaluated together; at least one.
func atOnce(units []*unit) int {
	size := 0
	for i, u := range units {
		for _, o := range u.ops {
			size += o.size()
		}
		if i > 0 && (i == unitsAtOnce || size > unitBytes) {
			return i
		}
	}
	return len(units)
}

func (m *modifier) evaluate(units []*unit) {
	err := m.attempt(units)
	var large *kv.TooLargeError
	if errors.As(err, &large) && len(units) > 1 { // together they are
		for i := range units {
			m.evaluate(units[i : i+1])
		}
		return
	}
	for _, u := range units {
		if err != nil {
			u.err = err
		}
		close(u.done)
	}
}

// attempt evaluates the units until nobody changed meanwhile what they read.
func (m *modifier) attempt(units []*unit) error {
	ctx, cancel := m.server.context()
	defer cancel()
	for {
		tx, err := m.read(ctx, units)
		if err != nil {
			return err
		}
		for _, u := range units {
			u.evaluate(tx)
		}
		steps := tx.steps()
		if len(steps) == 0 {
			return nil
		}
		if _, err = m.server.store.Apply(ctx, m.server.Commit, steps); !errors.Is(err, kv.ErrConflict) {
			return err
		}
	}
}

// read fetches every key that the units name.
func (m *modifier) read(ctx context.Context, units []*unit) (*localTxn, error) {
	tx := &localTxn{values: map[localKey]*localValue{}}
	var keys []kvrpc.Key
	want := func(ks kv.Keyspace, key []byte) {
		if at := (localKey{ks, string(key)}); tx.values[at] == nil {
			tx.values[at] = new(localValue)
			keys = append(keys, kvrpc.Key{Keyspace: ks, Key: key})
		}
	}
	for _, u := range units {
		for _, w := range u.watched {
			want(w.keyspace, w.key)
		}
		for _, o := range u.ops {
			for _, k := range o.keys {
				want(o.keyspace, k)
			}
			for i := range o.steps {
				want(o.steps[i].Keyspace, o.steps[i].Key)
			}
		}
	}
	for part := range slices.Chunk(keys, kvrpc.MaxGet) {
		values, err := m.server.store.MultiGet(ctx, part, kvrpc.ReadOptions{})
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			l := tx.values[localKey{part[i].Keyspace, string(part[i].Key)}]
			l.read, l.now = v, v
		}
	}
	return tx, nil
}

// evaluate runs the unit on top of those before it. What fails leaves tx as it was.
func (u *unit) evaluate(tx *localTxn) {
	u.answers, u.changed, u.err = u.answers[:0], false, nil
	for _, w := range u.watched {
		if v := tx.values[localKey{w.keyspace, string(w.key)}].now; v.Found != w.value.Found || !bytes.Equal(v.Value, w.value.Value) {
			u.changed = true
			return
		}
	}
	for _, o := range u.ops {
		a, err := o.evaluate(tx)
		if err != nil { // the others go on, as in Redis
			text := oneLine(errorText(err))
			a = func(out []byte) []byte { return redcon.AppendError(out, text) }
		}
		u.answers = append(u.answers, a)
	}
}

// evaluate runs one command; one that fails writes nothing.
func (o *op) evaluate(tx kv.Txn) (func([]byte) []byte, error) {
	if o.modify != nil {
		return o.modify(tx)
	}
	r, err := kv.Evaluate(tx, o.steps)
	return func(out []byte) []byte { return o.answer(out, r) }, err
}

type localKey struct {
	keyspace kv.Keyspace
	key      string
}

// localValue is a value as it was read, and as the units leave it.
type localValue struct{ read, now kvrpc.Value }

// localTxn is a kv.Txn over values that were read before.
type localTxn struct{ values map[localKey]*localValue }

func (t *localTxn) at(ks kv.Keyspace, key []byte) *localValue {
	return t.values[localKey{ks, string(key)}]
}

// Get implements kv.Reader.
func (t *localTxn) Get(ks kv.Keyspace, key []byte) ([]byte, error) {
	v := t.at(ks, key)
	switch {
	case v == nil:
		return nil, fmt.Errorf("resp: %s/%q was not read", ks, key)
	case !v.now.Found:
		return nil, kv.ErrNotFound
	}
	return v.now.Value, nil
}

// Range implements kv.Reader; no command needs it here.
func (t *localTxn) Range(kv.Keyspace, kv.Range, func(key, value []byte) bool) error {
	return errors.New("resp: no ranges")
}

// Put implements kv.Txn.
func (t *localTxn) Put(ks kv.Keyspace, key, value []byte) {
	t.at(ks, key).now = kvrpc.Value{Found: true, Value: value}
}

// Delete implements kv.Txn.
func (t *localTxn) Delete(ks kv.Keyspace, key []byte) { t.at(ks, key).now = kvrpc.Value{} }

// steps returns the sequence that makes the transaction happen if everything is as it was read; none when
// it changes nothing. A view of all keys at once needs no assertion.
func (t *localTxn) steps() []kv.Step {
	var asserts, writes []kv.Step
	keys := slices.SortedFunc(maps.Keys(t.values), func(a, b localKey) int {
		if a.keyspace != b.keyspace {
			return bytes.Compare([]byte(a.keyspace), []byte(b.keyspace))
		}
		return bytes.Compare([]byte(a.key), []byte(b.key))
	})
	for _, at := range keys {
		v, key := t.values[at], []byte(at.key)
		asserts = append(asserts, assertion(at.keyspace, key, v.read))
		switch {
		case v.now.Found && (!v.read.Found || !bytes.Equal(v.now.Value, v.read.Value)):
			writes = append(writes, kv.Step{Op: kv.OpSet, Keyspace: at.keyspace, Key: key, Value: v.now.Value})
		case !v.now.Found && v.read.Found:
			writes = append(writes, kv.Step{Op: kv.OpDelete, Keyspace: at.keyspace, Key: key})
		}
	}
	if len(writes) == 0 {
		return nil
	}
	return append(asserts, writes...)
}

// assertion is the step that holds while the key is as it was seen.
func assertion(ks kv.Keyspace, key []byte, v kvrpc.Value) kv.Step {
	if !v.Found {
		return kv.Step{Op: kv.OpAssertAbsent, Keyspace: ks, Key: key}
	}
	return kv.Step{Op: kv.OpAssert, Keyspace: ks, Key: key, Value: v.Value}
}
