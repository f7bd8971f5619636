package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster"
)

// procedures are those that every node of this program has.
func procedures() map[string]cluster.Procedure {
	return map[string]cluster.Procedure{"increment": increment}
}

// increment adds to a decimal number in keyspace "user": args is KEY or KEY BY, and the result the sum.
func increment(tx kv.Txn, args []byte) ([]byte, error) {
	const ks = "user"
	words := strings.Fields(string(args))
	by := int64(1)
	if len(words) == 2 {
		var err error
		if by, err = strconv.ParseInt(words[1], 10, 64); err != nil {
			return nil, fmt.Errorf("increment: %q is not a whole number", words[1])
		}
	} else if len(words) != 1 {
		return nil, errors.New("increment: want a key, and perhaps a number to add")
	}
	key := []byte(words[0])
	if err := kv.CheckKey(ks, key); err != nil {
		return nil, err
	}
	var n int64
	switch v, err := tx.Get(ks, key); {
	case errors.Is(err, kv.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if n, err = strconv.ParseInt(string(v), 10, 64); err != nil {
			return nil, fmt.Errorf("increment: the value of %q is not a whole number", words[0])
		}
	}
	if by > 0 && n > math.MaxInt64-by || by < 0 && n < math.MinInt64-by {
		return nil, fmt.Errorf("increment: %d and %d are more than 64 bits hold", n, by)
	}
	sum := strconv.AppendInt(nil, n+by, 10)
	tx.Put(ks, key, sum)
	return sum, nil
}
