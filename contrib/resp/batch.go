package main

import (
	"errors"

	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// op is a command that was understood: either steps of a sequence and what to answer with their results,
// or a function that needs to know values first.
type op struct {
	steps  []kv.Step
	answer func(out []byte, r []kv.StepResult) []byte

	keyspace kv.Keyspace
	keys     [][]byte // that modify gets
	modify   func(tx kv.Txn) (func(out []byte) []byte, error)

	writes bool
}

// check reports what one command asks beyond the limits, so that it does not spoil those it is sent with.
func (o *op) check() error {
	for _, k := range o.keys {
		if err := kv.CheckKey(o.keyspace, k); err != nil {
			return err
		}
	}
	return kv.CheckSteps(o.steps)
}

func (o *op) size() (n int) {
	for i := range o.steps {
		n += len(o.steps[i].Key) + len(o.steps[i].Value)
	}
	for _, k := range o.keys {
		n += len(k)
	}
	return n
}

// Bounds of what is sent at once.
const (
	batchSteps = 1024
	batchBytes = 4 << 20
)

// batch is a stretch of commands of one pipeline that are carried out together.
type batch struct {
	ops          []*op
	modify       bool // they all modify
	steps, bytes int
}

// add puts an op into the batch, after carrying out what it cannot be together with.
func (n *session) add(o *op) {
	b := &n.batch
	if len(b.ops) > 0 && (b.modify != (o.modify != nil) || b.steps+len(o.steps) > batchSteps || b.bytes > batchBytes) {
		n.flush()
	}
	b.modify = o.modify != nil
	b.ops = append(b.ops, o)
	b.steps += len(o.steps)
	b.bytes += o.size()
}

// flush carries the batch out and appends the answers.
func (n *session) flush() {
	b := n.batch
	if len(b.ops) == 0 {
		return
	}
	n.batch = batch{ops: b.ops[:0]}
	if b.modify {
		// Each is a transaction of its own, in their order.
		units := make([]*unit, len(b.ops))
		for i, o := range b.ops {
			units[i] = &unit{ops: []*op{o}}
		}
		n.server.modifier.run(units)
		for _, u := range units {
			n.out = u.appendTo(n.out)
		}
		return
	}
	n.out = n.server.carryOut(n.out, b.ops)
}

// carryOut runs ops without modify as one view or one transaction and appends their answers.
func (s *Server) carryOut(out []byte, ops []*op) []byte {
	results, err := s.evaluate(ops, nil)
	var large *kv.TooLargeError
	if errors.As(err, &large) && len(ops) > 1 { // together they are
		for i := range ops {
			out = s.carryOut(out, ops[i:i+1])
		}
		return out
	}
	for _, o := range ops {
		if err != nil {
			out = redcon.AppendError(out, oneLine(errorText(err)))
			continue
		}
		out = o.answer(out, results[:len(o.steps)])
		results = results[len(o.steps):]
	}
	return out
}

// evaluate runs the steps of ops, behind asserts, and returns the results of the ops' steps.
func (s *Server) evaluate(ops []*op, asserts []kv.Step) ([]kv.StepResult, error) {
	ctx, cancel := s.context()
	defer cancel()
	steps, writes := asserts, false
	for _, o := range ops {
		steps = append(steps, o.steps...)
		writes = writes || o.writes
	}
	if writes || len(asserts) > 0 {
		r, err := s.store.Apply(ctx, s.Commit, steps)
		if err != nil {
			return nil, err
		}
		return r[len(asserts):], nil
	}
	if len(steps) == 0 {
		return nil, nil
	}
	keys := make([]kvrpc.Key, len(steps)) // all are OpGet
	for i := range steps {
		keys[i] = kvrpc.Key{Keyspace: steps[i].Keyspace, Key: steps[i].Key}
	}
	values, err := s.store.MultiGet(ctx, keys, kvrpc.ReadOptions{})
	if err != nil {
		return nil, err
	}
	results := make([]kv.StepResult, len(steps))
	for i := range values {
		results[i] = kv.StepResult{Found: values[i].Found, Value: values[i].Value}
	}
	return results, nil
}
