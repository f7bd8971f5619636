package main

import (
	"context"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/memkv"
)

func TestIncrement(t *testing.T) {
	s := memkv.New()
	defer s.Close()
	for _, c := range []struct{ args, want, err string }{
		{"n", "1", ""}, {"n", "2", ""}, {"n 40", "42", ""}, {"n -43", "-1", ""},
		{"", "", "want a key"}, {"a b c", "", "want a key"}, {"n x", "", "not a whole number"},
		{"big 9223372036854775807", "9223372036854775807", ""}, {"big", "", "64 bits"},
	} {
		var got []byte
		err := s.Update(context.Background(), kv.Durable, func(tx kv.Txn) (err error) {
			got, err = increment(tx, []byte(c.args))
			return err
		})
		if string(got) != c.want || (err != nil) != (c.err != "") {
			t.Errorf("increment %q: %q, %v", c.args, got, err)
		}
	}
}
