package main

import (
	"bytes"
	"errors"

	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/kvrpc"
)

// transaction is what was said since MULTI.
type transaction struct {
	ops     []*op
	bytes   int
	spoiled bool // a command was refused
}

// watched is a key as it was when the client began to watch it.
type watched struct {
	keyspace kv.Keyspace
	key      []byte
	value    kvrpc.Value
}

// maxWatched keys of one connection.
const maxWatched = 4096

func (n *session) ok() { n.out = redcon.AppendString(n.out, "OK") }

func (n *session) fail(err error) { n.out = redcon.AppendError(n.out, oneLine(errorText(err))) }

func (n *session) multi([][]byte) {
	if n.queue != nil {
		n.fail(replyError("ERR MULTI calls can not be nested"))
		return
	}
	n.queue = new(transaction)
	n.ok()
}

func (n *session) enqueue(o *op) {
	t := n.queue
	if t.bytes += o.size(); t.bytes > kv.MaxBatch || len(t.ops) == kv.MaxSteps {
		n.refuse("ERR the transaction is over %d bytes or %d commands", kv.MaxBatch, kv.MaxSteps)
		return
	}
	t.ops = append(t.ops, o)
	n.out = redcon.AppendString(n.out, "QUEUED")
}

func (n *session) discard([][]byte) {
	if n.queue == nil {
		n.fail(replyError("ERR DISCARD without MULTI"))
		return
	}
	n.queue, n.watched = nil, nil
	n.ok()
}

func (n *session) unwatch([][]byte) {
	n.watched = nil
	n.ok()
}

func (n *session) watch(args [][]byte) {
	keys := args[1:]
	switch {
	case n.queue != nil:
		n.fail(replyError("ERR WATCH inside MULTI is not allowed"))
		return
	case len(n.watched)+len(keys) > maxWatched:
		n.fail(replyError("ERR too many watched keys"))
		return
	}
	want := make([]kvrpc.Key, len(keys))
	for i, k := range keys {
		if err := kv.CheckKey(n.keyspace(), k); err != nil {
			n.fail(err)
			return
		}
		want[i] = kvrpc.Key{Keyspace: n.keyspace(), Key: k}
	}
	ctx, cancel := n.server.context()
	defer cancel()
	values, err := n.server.store.MultiGet(ctx, want, kvrpc.ReadOptions{})
	if err != nil {
		n.fail(err)
		return
	}
	for i, v := range values {
		n.watched = append(n.watched, watched{n.keyspace(), bytes.Clone(keys[i]), v})
	}
	n.ok()
}

// exec carries the transaction out.
func (n *session) exec([][]byte) {
	t := n.queue
	if t == nil {
		n.fail(replyError("ERR EXEC without MULTI"))
		return
	}
	w := n.watched
	n.queue, n.watched = nil, nil
	if t.spoiled {
		n.fail(replyError("EXECABORT Transaction discarded because of previous errors."))
		return
	}
	for _, o := range t.ops {
		if o.modify != nil {
			n.execModify(t, w)
			return
		}
	}
	asserts := make([]kv.Step, len(w))
	for i := range w {
		asserts[i] = assertion(w[i].keyspace, w[i].key, w[i].value)
	}
	results, err := n.server.evaluate(t.ops, asserts)
	switch {
	case errors.Is(err, kv.ErrConflict):
		n.out = appendNoArray(n.out)
		return
	case err != nil:
		n.fail(err)
		return
	}
	n.out = redcon.AppendArray(n.out, len(t.ops))
	for _, o := range t.ops {
		n.out = o.answer(n.out, results[:len(o.steps)])
		results = results[len(o.steps):]
	}
}

func (n *session) execModify(t *transaction, w []watched) {
	u := &unit{ops: t.ops, watched: w}
	n.server.modifier.run([]*unit{u})
	switch {
	case u.err != nil:
		n.fail(u.err)
	case u.changed:
		n.out = appendNoArray(n.out)
	default:
		n.out = redcon.AppendArray(n.out, len(u.answers))
		for _, a := range u.answers {
			n.out = a(n.out)
		}
	}
}

// appendNoArray is how EXEC says that a watched key was changed.
func appendNoArray(out []byte) []byte { return append(out, "*-1\r\n"...) }
