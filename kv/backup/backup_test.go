package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/backup"
)

type pair struct {
	ks         kv.Keyspace
	key, value string
}

func write(t testing.TB, pairs []pair) ([]byte, backup.Info) {
	t.Helper()
	var b bytes.Buffer
	w, err := backup.NewWriter(&b, 7)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if err := w.Add(p.ks, []byte(p.key), []byte(p.value)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), info
}

func read(b []byte) (pairs []pair, info backup.Info, err error) {
	info, err = backup.Read(context.Background(), bytes.NewReader(b), func(ks kv.Keyspace, key, value []byte) error {
		pairs = append(pairs, pair{ks, string(key), string(value)})
		return nil
	})
	return pairs, info, err
}

func samples() [][]pair {
	large := string(make([]byte, 300<<10))
	many := []pair{}
	for i := range 20000 {
		many = append(many, pair{"many", fmt.Sprintf("%06d", i), "value"})
	}
	return [][]pair{
		nil,
		{{"a", "k", "v"}},
		{{"a", "k", ""}, {"a", "k\x00", "x"}, {"ab", "a", "y"}, {"b", "a", "z"}},
		{{"a", "1", large}, {"a", "2", large}, {"a", "3", ""}, {"b", "1", large}},
		{{"a", string(bytes.Repeat([]byte{'k'}, kv.MaxKey)), string(make([]byte, kv.MaxValue))}},
		many,
	}
}

func TestRoundTrip(t *testing.T) {
	for i, pairs := range samples() {
		b, wrote := write(t, pairs)
		got, info, err := read(b)
		if err != nil || info != wrote || info.Index != 7 || int(info.Pairs) != len(pairs) {
			t.Errorf("sample %d: %+v, %v; wrote %+v", i, info, err, wrote)
		}
		if fmt.Sprint(got) != fmt.Sprint(pairs) {
			t.Errorf("sample %d differs", i)
		}
	}
}

// TestDamage: a changed bit, a cut, and bytes that are missing in the middle are reported.
func TestDamage(t *testing.T) {
	b, _ := write(t, samples()[3])
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		at := rng.IntN(len(b))
		if rng.IntN(2) == 0 {
			at = rng.IntN(200)
		}
		flipped := bytes.Clone(b)
		flipped[at] ^= 1 << rng.IntN(8)
		var corrupt *kv.CorruptError
		for what, c := range map[string][]byte{"flip": flipped, "cut": b[:at], "hole": append(bytes.Clone(b[:at]), b[at+1:]...)} {
			if _, _, err := read(c); !errors.As(err, &corrupt) {
				t.Errorf("%s at %d: %v", what, at, err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	mine := errors.New("mine")
	b, _ := write(t, samples()[2])
	if _, err := backup.Read(context.Background(), bytes.NewReader(b), func(kv.Keyspace, []byte, []byte) error { return mine }); err != mine {
		t.Errorf("got %v, want the function's error", err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := backup.Read(gone, bytes.NewReader(b), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w, err := backup.NewWriter(&bytes.Buffer{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add("b", []byte("k"), nil); err != nil {
		t.Fatal(err)
	}
	for _, p := range []pair{{"b", "k", ""}, {"b", "a", ""}, {"a", "z", ""}} {
		if err := w.Add(p.ks, []byte(p.key), nil); !errors.Is(err, backup.ErrOrder) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	var large *kv.TooLargeError
	if err := w.Add("c", nil, nil); !errors.As(err, &large) {
		t.Errorf("no key: %v", err)
	}
}

// FuzzRead: whatever is read without an error is a backup that writes the same bytes again, as far as it
// was cut into blocks the same way.
func FuzzRead(f *testing.F) {
	for _, pairs := range samples()[:3] {
		b, _ := write(f, pairs)
		f.Add(b)
	}
	f.Add([]byte("gabionbk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, info, err := read(b)
		if err != nil {
			return
		}
		again, wrote := write(t, pairs)
		wrote.Index = info.Index
		if wrote != info {
			t.Fatalf("%+v turns into %+v", info, wrote)
		}
		if _, _, err := read(again); err != nil {
			t.Fatal(err)
		}
	})
}
