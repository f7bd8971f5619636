// Package kvtest is the suite that every kv.Store passes. An implementation calls Run from its tests;
// the suite knows nothing about it but the contract in package kv.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv"
)

// patience bounds a single wait of the suite. It is only reached when something hangs.
const patience = 5 * time.Minute

// Run checks the contract against the stores that open returns. Each call of open must return a new,
// empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) kv.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"Basics", testBasics},
		{"OwnWrites", testOwnWrites},
		{"Abort", testAbort},
		{"Panic", testPanic},
		{"Reput", testReput},
		{"Keyspaces", testKeyspaces},
		{"Range", testRange},
		{"RangeOwnWrites", testRangeOwnWrites},
		{"Limits", testLimits},
		{"LargeValues", testLargeValues},
		{"LongKeys", testLongKeys},
		{"LongModel", testLongModel},
		{"Levels", testLevels},
		{"Snapshot", testSnapshot},
		{"Context", testContext},
		{"Sequence", testSequence},
		{"Steps", testSteps},
		{"DeletePrefix", testDeletePrefix},
		{"StepLimits", testStepLimits},
		{"Counter", testCounter},
		{"Transfers", testTransfers},
		{"Monotonic", testMonotonic},
		{"Close", testClose},
		{"CloseOvertakes", testCloseOvertakes},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, open)
			c.test(t, f)
		})
	}
}

// fixture is a store under test and the shorthands of the suite.
type fixture struct {
	kv.Store
	t    *testing.T
	ctx  context.Context
	open func(t *testing.T) kv.Store
}

func newFixture(t *testing.T, open func(t *testing.T) kv.Store) *fixture {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s := open(t)
	t.Cleanup(func() {
		cancel()
		if err := s.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return &fixture{Store: s, t: t, ctx: ctx, open: open}
}

func (f *fixture) put(c kv.Commit, ks kv.Keyspace, key, value string) {
	f.t.Helper()
	f.must(f.Update(f.ctx, c, func(tx kv.Txn) error {
		tx.Put(ks, []byte(key), []byte(value))
		return nil
	}))
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// get returns the value, or "<none>" when the key is absent.
func get(r kv.Reader, ks kv.Keyspace, key string) (string, error) {
	v, err := r.Get(ks, []byte(key))
	if errors.Is(err, kv.ErrNotFound) {
		return "<none>", nil
	}
	return string(v), err
}

func (f *fixture) want(l kv.Level, ks kv.Keyspace, key, value string) {
	f.t.Helper()
	f.must(f.View(f.ctx, l, func(r kv.Reader) error {
		got, err := get(r, ks, key)
		if err == nil && got != value {
			err = fmt.Errorf("level %d: %s/%q is %q, want %q", l, ks, key, got, value)
		}
		return err
	}))
}

// list returns "k=v k=v ..." of a range.
func list(r kv.Reader, ks kv.Keyspace, g kv.Range) (string, error) {
	var b bytes.Buffer
	err := r.Range(ks, g, func(k, v []byte) bool {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", k, v)
		return true
	})
	return b.String(), err
}
