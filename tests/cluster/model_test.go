package cluster

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Registers come in groups of three, which is what a sequence may touch. A group's history is checked on its
// own; clients move on to fresh groups, so that each stays short.
const perGroup = 3

// regs is the state of a group. 0 is an absent key; every write of a history has a value of its own.
type regs [perGroup]int64

type opKind uint8

const (
	opGet     opKind = iota // one key
	opGetAll                // all three, in one view
	opSet                   // value; 0 deletes
	opSwap                  // test-and-set: value if the key is expect
	opReplace               // value; returns the value before
	opMove                  // sequence: assert key is expect, delete it, set the next one to value
	opSpread                // sequence: assert key is expect, set all three to value
)

var opNames = [...]string{"get", "get-all", "set", "test-and-set", "replace", "move", "spread"}

func (k opKind) String() string { return opNames[k] }

func (k opKind) reads() bool { return k <= opGetAll }

// input of a register operation.
type input struct {
	Group  int
	Kind   opKind
	Key    int
	Value  int64
	Expect int64
}

// output of one.
type output struct {
	Saw     regs  // get-all
	Prev    int64 // get, test-and-set, replace: the value (before)
	Applied bool  // test-and-set, sequences
	Unknown bool  // a write that may have happened, at any time since
}

func step(s regs, in input, out output) (bool, regs) {
	next := s
	switch in.Kind {
	case opGet:
		return out.Prev == s[in.Key], s
	case opGetAll:
		return out.Saw == s, s
	case opSet:
		next[in.Key] = in.Value
		return true, next
	case opReplace:
		next[in.Key] = in.Value
		return out.Unknown || out.Prev == s[in.Key], next
	case opMove:
		next[in.Key] = 0
		next[(in.Key+1)%perGroup] = in.Value
	case opSpread:
		next = regs{in.Value, in.Value, in.Value}
	case opSwap:
		next[in.Key] = in.Value
		if !out.Unknown && out.Prev != s[in.Key] {
			return false, s
		}
	}
	applies := s[in.Key] == in.Expect
	if !applies {
		next = s
	}
	return out.Unknown || out.Applied == applies, next
}

var registers = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		parts := map[int][]porcupine.Operation{}
		last := 0
		for _, o := range h {
			g := o.Input.(input).Group
			parts[g] = append(parts[g], o)
			last = max(last, g)
		}
		var out [][]porcupine.Operation
		for g := range last + 1 {
			if len(parts[g]) > 0 {
				out = append(out, parts[g])
			}
		}
		return out
	},
	Init: func() any { return regs{} },
	Step: func(state, in, out any) (bool, any) { return step(state.(regs), in.(input), out.(output)) },
	DescribeOperation: func(in, out any) string {
		return describe(in.(input), out.(output))
	},
	DescribeState: func(s any) string {
		r := s.(regs)
		return fmt.Sprintf("%s %s %s", name(r[0]), name(r[1]), name(r[2]))
	},
}

// name writes a value as client.number.
func name(v int64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%d.%d", v>>32, v&(1<<32-1))
}

func describe(in input, out output) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", in.Kind)
	if in.Kind != opGetAll {
		fmt.Fprintf(&b, " %d.%c", in.Group, 'a'+in.Key)
	}
	switch in.Kind {
	case opSet, opReplace:
		fmt.Fprintf(&b, " := %s", name(in.Value))
	case opSwap, opMove, opSpread:
		fmt.Fprintf(&b, " %s -> %s", name(in.Expect), name(in.Value))
	}
	switch {
	case out.Unknown:
		b.WriteString(": unknown")
	case in.Kind == opGetAll:
		fmt.Fprintf(&b, ": %s %s %s", name(out.Saw[0]), name(out.Saw[1]), name(out.Saw[2]))
	case in.Kind == opGet, in.Kind == opReplace:
		fmt.Fprintf(&b, ": %s", name(out.Prev))
	case in.Kind == opSwap:
		fmt.Fprintf(&b, ": %s, %t", name(out.Prev), out.Applied)
	case in.Kind != opSet:
		fmt.Fprintf(&b, ": %t", out.Applied)
	}
	return b.String()
}
