package main

import (
	"bytes"
	"errors"
	"math"
	"strconv"

	"github.com/tidwall/redcon"

	"github.com/gabionfs/gabion/kv"
)

// gets returns steps that read keys.
func gets(ks kv.Keyspace, keys [][]byte) []kv.Step {
	steps := make([]kv.Step, len(keys))
	for i, k := range keys {
		steps[i] = kv.Step{Op: kv.OpGet, Keyspace: ks, Key: k}
	}
	return steps
}

func appendFound(out []byte, r kv.StepResult) []byte {
	if !r.Found {
		return redcon.AppendNull(out)
	}
	return redcon.AppendBulk(out, r.Value)
}

func appendOK(out []byte, _ []kv.StepResult) []byte { return redcon.AppendString(out, "OK") }

// appendCount answers how many of the steps found their key.
func appendCount(out []byte, r []kv.StepResult) []byte {
	n := int64(0)
	for i := range r {
		if r[i].Found {
			n++
		}
	}
	return redcon.AppendInt(out, n)
}

func appendFirst(out []byte, r []kv.StepResult) []byte { return appendFound(out, r[0]) }

func planGet(ks kv.Keyspace, args [][]byte) (*op, error) {
	return &op{steps: gets(ks, args[1:]), answer: appendFirst}, nil
}

func planMGet(ks kv.Keyspace, args [][]byte) (*op, error) {
	return &op{steps: gets(ks, args[1:]), answer: func(out []byte, r []kv.StepResult) []byte {
		out = redcon.AppendArray(out, len(r))
		for i := range r {
			out = appendFound(out, r[i])
		}
		return out
	}}, nil
}

func planExists(ks kv.Keyspace, args [][]byte) (*op, error) {
	return &op{steps: gets(ks, args[1:]), answer: appendCount}, nil
}

func planStrlen(ks kv.Keyspace, args [][]byte) (*op, error) {
	return &op{steps: gets(ks, args[1:]), answer: func(out []byte, r []kv.StepResult) []byte {
		return redcon.AppendInt(out, int64(len(r[0].Value)))
	}}, nil
}

func planType(ks kv.Keyspace, args [][]byte) (*op, error) {
	return &op{steps: gets(ks, args[1:]), answer: func(out []byte, r []kv.StepResult) []byte {
		if r[0].Found {
			return redcon.AppendString(out, "string")
		}
		return redcon.AppendString(out, "none")
	}}, nil
}

func planPing(_ kv.Keyspace, args [][]byte) (*op, error) {
	return &op{answer: func(out []byte, _ []kv.StepResult) []byte {
		if len(args) > 1 {
			return redcon.AppendBulk(out, args[1])
		}
		return redcon.AppendString(out, "PONG")
	}}, nil
}

func planEcho(_ kv.Keyspace, args [][]byte) (*op, error) {
	return &op{answer: func(out []byte, _ []kv.StepResult) []byte { return redcon.AppendBulk(out, args[1]) }}, nil
}

// setOptions of SET.
type setOptions struct{ nx, xx, get bool }

func parseSetOptions(args [][]byte) (o setOptions, err error) {
	for _, a := range args {
		switch string(bytes.ToUpper(a)) {
		case "NX":
			o.nx = true
		case "XX":
			o.xx = true
		case "GET":
			o.get = true
		case "EX", "PX", "EXAT", "PXAT", "KEEPTTL":
			return o, replyError("ERR keys do not expire in this store: " + string(bytes.ToUpper(a)) + " is not supported")
		default:
			return o, errSyntax
		}
	}
	if o.nx && o.xx {
		return o, errSyntax
	}
	return o, nil
}

func planSet(ks kv.Keyspace, args [][]byte) (*op, error) {
	so, err := parseSetOptions(args[3:])
	if err != nil {
		return nil, err
	}
	key, value := args[1], args[2]
	switch {
	case so.xx: // nothing says "if it exists, whatever it is"
		return planSetXX(ks, key, value, so.get), nil
	case so.nx:
		st := kv.Step{Op: kv.OpTestAndSet, Keyspace: ks, Key: key, Value: value, ExpectAbsent: true}
		return &op{steps: []kv.Step{st}, writes: true, answer: func(out []byte, r []kv.StepResult) []byte {
			return appendSet(out, so.get, r[0].Count > 0, r[0])
		}}, nil
	case so.get:
		return planGetSet(ks, args)
	}
	return &op{steps: []kv.Step{{Op: kv.OpSet, Keyspace: ks, Key: key, Value: value}}, writes: true, answer: appendOK}, nil
}

// appendSet answers SET: with what was there, or with whether it was done.
func appendSet(out []byte, get, done bool, before kv.StepResult) []byte {
	switch {
	case get:
		return appendFound(out, before)
	case done:
		return redcon.AppendString(out, "OK")
	}
	return redcon.AppendNull(out)
}

func planSetXX(ks kv.Keyspace, key, value []byte, get bool) *op {
	return &op{keyspace: ks, keys: [][]byte{key}, writes: true, modify: func(tx kv.Txn) (func([]byte) []byte, error) {
		before, found, err := lookup(tx, ks, key)
		if err != nil {
			return nil, err
		}
		if found {
			if err := kv.CheckPut(ks, key, value); err != nil {
				return nil, err
			}
			tx.Put(ks, key, value)
		}
		return func(out []byte) []byte { return appendSet(out, get, found, kv.StepResult{Found: found, Value: before}) }, nil
	}}
}

func planSetNX(ks kv.Keyspace, args [][]byte) (*op, error) {
	st := kv.Step{Op: kv.OpTestAndSet, Keyspace: ks, Key: args[1], Value: args[2], ExpectAbsent: true}
	return &op{steps: []kv.Step{st}, writes: true, answer: func(out []byte, r []kv.StepResult) []byte {
		return redcon.AppendInt(out, int64(r[0].Count))
	}}, nil
}

func planGetSet(ks kv.Keyspace, args [][]byte) (*op, error) {
	st := kv.Step{Op: kv.OpReplace, Keyspace: ks, Key: args[1], Value: args[2]}
	return &op{steps: []kv.Step{st}, writes: true, answer: appendFirst}, nil
}

func planGetDel(ks kv.Keyspace, args [][]byte) (*op, error) {
	st := kv.Step{Op: kv.OpReplace, Keyspace: ks, Key: args[1], Remove: true}
	return &op{steps: []kv.Step{st}, writes: true, answer: appendFirst}, nil
}

func planDel(ks kv.Keyspace, args [][]byte) (*op, error) {
	steps := make([]kv.Step, len(args)-1)
	for i, k := range args[1:] {
		steps[i] = kv.Step{Op: kv.OpReplace, Keyspace: ks, Key: k, Remove: true}
	}
	return &op{steps: steps, writes: true, answer: appendCount}, nil
}

// pairs splits keys and values; sets are the steps that set them.
func pairs(ks kv.Keyspace, name string, args [][]byte) (keys [][]byte, sets []kv.Step, err error) {
	if len(args)%2 != 0 {
		return nil, nil, replyError("ERR wrong number of arguments for '" + name + "' command")
	}
	for i := 0; i < len(args); i += 2 {
		keys = append(keys, args[i])
		sets = append(sets, kv.Step{Op: kv.OpSet, Keyspace: ks, Key: args[i], Value: args[i+1]})
	}
	return keys, sets, nil
}

func planMSet(ks kv.Keyspace, args [][]byte) (*op, error) {
	_, sets, err := pairs(ks, "mset", args[1:])
	return &op{steps: sets, writes: true, answer: appendOK}, err
}

func planMSetNX(ks kv.Keyspace, args [][]byte) (*op, error) {
	keys, sets, err := pairs(ks, "msetnx", args[1:])
	if err == nil {
		err = kv.CheckSteps(sets)
	}
	if err != nil {
		return nil, err
	}
	return &op{keyspace: ks, keys: keys, writes: true, modify: func(tx kv.Txn) (func([]byte) []byte, error) {
		done := int64(1)
		for _, k := range keys {
			_, found, err := lookup(tx, ks, k)
			if err != nil {
				return nil, err
			}
			if found {
				done = 0
			}
		}
		if done == 1 {
			if _, err := kv.Evaluate(tx, sets); err != nil {
				return nil, err
			}
		}
		return func(out []byte) []byte { return redcon.AppendInt(out, done) }, nil
	}}, nil
}

func planAppend(ks kv.Keyspace, args [][]byte) (*op, error) {
	key, tail := args[1], args[2]
	return &op{keyspace: ks, keys: args[1:2], writes: true, modify: func(tx kv.Txn) (func([]byte) []byte, error) {
		v, _, err := lookup(tx, ks, key)
		if err != nil {
			return nil, err
		}
		v = append(bytes.Clone(v), tail...)
		if err := kv.CheckPut(ks, key, v); err != nil {
			return nil, err
		}
		tx.Put(ks, key, v)
		n := int64(len(v))
		return func(out []byte) []byte { return redcon.AppendInt(out, n) }, nil
	}}, nil
}

// planCount plans INCR and its relatives; sign is +1 or -1.
func planCount(sign int64) func(kv.Keyspace, [][]byte) (*op, error) {
	return func(ks kv.Keyspace, args [][]byte) (*op, error) {
		by := int64(1)
		if len(args) > 2 {
			var err error
			if by, err = integer(args[2]); err != nil || by == math.MinInt64 && sign < 0 {
				return nil, errInteger
			}
		}
		by *= sign
		key := args[1]
		return &op{keyspace: ks, keys: args[1:2], writes: true, modify: func(tx kv.Txn) (func([]byte) []byte, error) {
			v, found, err := lookup(tx, ks, key)
			if err != nil {
				return nil, err
			}
			n := int64(0)
			if found {
				if n, err = integer(v); err != nil {
					return nil, err
				}
			}
			if by > 0 && n > math.MaxInt64-by || by < 0 && n < math.MinInt64-by {
				return nil, replyError("ERR increment or decrement would overflow")
			}
			n += by
			tx.Put(ks, key, strconv.AppendInt(nil, n, 10))
			return func(out []byte) []byte { return redcon.AppendInt(out, n) }, nil
		}}, nil
	}
}

// integer reads a number as Redis does: no leading zeros, plus signs or spaces.
func integer(b []byte) (int64, error) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != string(b) {
		return 0, errInteger
	}
	return n, nil
}

// lookup tells an absent key from an error.
func lookup(r kv.Reader, ks kv.Keyspace, key []byte) (value []byte, found bool, err error) {
	value, err = r.Get(ks, key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, false, nil
	}
	return value, err == nil, err
}
