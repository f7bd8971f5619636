package objstore

import (
	"fmt"
	"strconv"
	"strings"
)

// Policy is one way to code a chunk: K data and M parity fragments, a write is acknowledged once C
// fragments are durable, and at most X fragments of a chunk may lie on one node.
type Policy struct{ K, M, C, X int }

// Validate reports what is wrong with p: 1 <= K, 0 <= M, K <= C <= K+M <= MaxFragments, 1 <= X <= K+M.
func (p Policy) Validate() error {
	n := p.K + p.M
	switch {
	case p.K < 1:
		return fmt.Errorf("policy %v: k is %d, it must be at least 1", p, p.K)
	case p.M < 0:
		return fmt.Errorf("policy %v: m is %d, it must not be negative", p, p.M)
	case n > MaxFragments:
		return fmt.Errorf("policy %v: k+m is %d, at most %d are allowed", p, n, MaxFragments)
	case p.C < p.K || p.C > n:
		return fmt.Errorf("policy %v: c is %d, it must lie between k=%d and k+m=%d", p, p.C, p.K, n)
	case p.X < 1 || p.X > n:
		return fmt.Errorf("policy %v: x is %d, it must lie between 1 and k+m=%d", p, p.X, n)
	}
	return nil
}

// String formats p as "(k,m,c,x)".
func (p Policy) String() string { return fmt.Sprintf("(%d,%d,%d,%d)", p.K, p.M, p.C, p.X) }

// ParsePolicy parses "k,m,c,x", with or without parentheses, and validates it.
func ParsePolicy(s string) (Policy, error) {
	in := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "("), ")")
	parts := strings.Split(in, ",")
	if len(parts) != 4 {
		return Policy{}, fmt.Errorf("policy %q: want four numbers k,m,c,x such as 4,2,5,6", s)
	}
	var v [4]int
	for i, f := range parts {
		n, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil {
			return Policy{}, fmt.Errorf("policy %q: %q is not a number", s, f)
		}
		v[i] = n
	}
	p := Policy{v[0], v[1], v[2], v[3]}
	return p, p.Validate()
}

// DefaultPolicies returns the policies of a local store over n disks, best first: with six disks
// (4,2,5,6) and then smaller ones, with one disk (1,0,1,1).
func DefaultPolicies(n int) []Policy {
	all := []Policy{{8, 3, 10, 11}, {8, 2, 9, 10}, {4, 2, 5, 6}, {2, 2, 3, 4}, {2, 1, 2, 3}, {1, 1, 2, 2}, {1, 0, 1, 1}}
	var out []Policy
	for _, p := range all {
		if p.K+p.M <= n {
			out = append(out, p)
		}
	}
	return out
}
