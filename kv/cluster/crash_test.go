package cluster_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gabionfs/gabion/kv/cluster"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
)

// TestCrashAnywhere: nodes stop and come back at any moment while stores are created, moved and deleted.
// Every change that was asked for happens exactly once, and every node ends up with the members that it
// shall have and no files of others.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if s := os.Getenv("GABION_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("replay with GABION_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := startTown(t, 3)
	client, err := cluster.Dial(bundleOf(t, c.admin(), "joe", true))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ids := []string{"a", "b", "c"}
	subset := func() []string {
		out := slices.Clone(ids)
		r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		return slices.Sorted(slices.Values(out[:1+r.IntN(3)]))
	}
	want := map[string][]string{} // voters of each store
	rounds := 8
	if os.Getenv("GABION_LONG") != "" {
		rounds = 60
	}
	for round := range rounds {
		if _, err := client.Status(within(t)); err != nil { // learns the addresses
			t.Fatal(err)
		}
		change := func() error { return nil }
		name := fmt.Sprintf("s%d", round)
		have := slices.Sorted(maps.Keys(want))
		switch k := r.IntN(4); {
		case k == 0 && len(have) > 0:
			name = have[r.IntN(len(have))]
			delete(want, name)
			change = func() error { return client.DeleteStore(within(t), name) }
		case k == 1 && len(have) > 0:
			name = have[r.IntN(len(have))]
			voters := subset()
			want[name] = voters
			change = func() error { return client.SetMembers(within(t), name, voters, nil) }
		default:
			voters := subset()
			want[name] = voters
			change = func() error {
				_, err := client.CreateStore(within(t), &clusterpb.CreateStoreRequest{Name: name, Voters: voters})
				return err
			}
		}
		done := make(chan error, 1)
		go func() { done <- change() }()
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // some point of it
		victim := ids[r.IntN(len(ids))]
		c.kill(victim)
		c.start(victim)
		if err := <-done; err != nil {
			t.Fatalf("round %d, store %s: %v", round, name, err)
		}
	}
	for name, voters := range want {
		c.members(name, voters, nil)
		c.put(name, "x", name)
		for _, id := range voters {
			c.shows(id, name, "x", name)
		}
	}
	for _, id := range ids {
		n := 1 // the directory
		for _, voters := range want {
			if slices.Contains(voters, id) {
				n++
			}
		}
		wait(t, fmt.Sprintf("%s has the files of %d members", id, n), func() bool { return len(c.stores(id)) == n })
	}
}
