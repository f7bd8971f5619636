package kv_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gabionfs/gabion/kv"
)

// TestErrors: each typed error matches its own sentinel and no other, and says what it knows.
func TestErrors(t *testing.T) {
	sentinels := []error{kv.ErrNoQuorum, kv.ErrCompacted, kv.ErrFenced, kv.ErrConflict, kv.ErrNotFound, kv.ErrUnknownOutcome}
	for _, c := range []struct {
		err  error
		is   error
		says string
	}{
		{&kv.NoQuorumError{Missing: []string{"n1", "n2"}, Err: context.DeadlineExceeded}, kv.ErrNoQuorum, "n1, n2"},
		{&kv.NoQuorumError{}, kv.ErrNoQuorum, "quorum"},
		{&kv.CompactedError{First: 17}, kv.ErrCompacted, "17"},
		{&kv.FencedError{Holder: "mount 3"}, kv.ErrFenced, "mount 3"},
		{&kv.FencedError{}, kv.ErrFenced, "holds"},
		{&kv.ConflictError{Index: 4, Keyspace: "ks", Key: []byte("key"), Reason: "why"}, kv.ErrConflict, "step 4"},
	} {
		for _, s := range sentinels {
			if errors.Is(c.err, s) != (s == c.is) {
				t.Errorf("%v matches %v: %v", c.err, s, s != c.is)
			}
		}
		if !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%v does not say %q", c.err, c.says)
		}
	}
	if err := error(&kv.NoQuorumError{Err: context.DeadlineExceeded}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v does not match its cause", err)
	}
	var not *kv.NotLeaderError
	if err := error(&kv.NoQuorumError{Err: &kv.NotLeaderError{}}); !errors.As(err, &not) {
		t.Errorf("%v does not show its cause", err)
	}
}

// TestEmptyDigest: the digest of an empty range is the documented one.
func TestEmptyDigest(t *testing.T) {
	if sum := kv.NewDigest().Sum(); sum[0] != 0xe3 || sum[1] != 0xb0 || sum[2] != 0xc4 || sum[3] != 0x42 {
		t.Errorf("%x", sum)
	}
	if !kv.SystemKeyspace.Reserved() || kv.Keyspace("a").Reserved() || kv.Keyspace("").Reserved() {
		t.Error("the wrong keyspaces are reserved")
	}
}
