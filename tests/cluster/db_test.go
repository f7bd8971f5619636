package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/kv/kvrpc"
	"github.com/gabionfs/gabion/kv/kvrpc/kvpb"
)

const (
	registerSpace = kv.Keyspace("registers")
	counterSpace  = kv.Keyspace("counters")
)

func registerKey(group, key int) []byte { return fmt.Appendf(nil, "%06d.%c", group, 'a'+key) }
func counterKey(n int) []byte           { return fmt.Appendf(nil, "%03d", n) }

// encode writes a value; nil is an absent key.
func encode(v int64) []byte {
	if v == 0 {
		return nil
	}
	return strconv.AppendInt(nil, v, 10)
}

func decode(b []byte) int64 {
	if len(b) == 0 {
		return 0
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return -1 // nobody wrote that
	}
	return v
}

// remote is the database that the cluster's clients use: writes and linearizable reads by the Go client, reads
// at a certain member by the same client's connections.
type remote struct {
	c      *cluster
	client *kvrpc.Client
	store  *kvrpc.Store

	mu sync.Mutex
	r  *rand.Rand
}

// dial returns a client of the cluster, on the client's host.
func (c *cluster) dial(seed uint64) (*remote, error) {
	b, err := identity.ReadBundle(c.bundle)
	if err != nil {
		return nil, err
	}
	o := kvrpc.ClientOptions{TLS: b.ClientConfig("", "h2"), Addrs: c.addrs()}
	if c.net != nil {
		dial := c.net.DialContext(clientHost)
		o.DialContext = func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }
	}
	client, err := kvrpc.Dial(context.Background(), o)
	if err != nil {
		return nil, err
	}
	return &remote{c: c, client: client, store: client.Store(storeName), r: rand.New(rand.NewPCG(seed, 3))}, nil
}

func (d *remote) close() { _ = d.client.Close() }

func (d *remote) do(ctx context.Context, in input) (output, error) {
	key := registerKey(in.Group, in.Key)
	switch in.Kind {
	case opGet:
		v, err := d.store.Get(ctx, registerSpace, key, kvrpc.ReadOptions{})
		if errors.Is(err, kv.ErrNotFound) {
			return output{}, nil
		}
		return output{Prev: decode(v)}, err
	case opGetAll:
		return d.getAll(ctx, in.Group)
	case opSet:
		if in.Value == 0 {
			return output{}, d.store.Delete(ctx, kv.Durable, registerSpace, key)
		}
		return output{}, d.store.Set(ctx, kv.Durable, registerSpace, key, encode(in.Value))
	case opReplace:
		v, err := d.store.Replace(ctx, kv.Durable, registerSpace, key, encode(in.Value))
		return output{Prev: decode(v.Value)}, err
	case opSwap:
		v, swapped, err := d.store.TestAndSet(ctx, kv.Durable, registerSpace, key, encode(in.Expect), encode(in.Value))
		return output{Prev: decode(v.Value), Applied: swapped}, err
	}
	_, err := d.store.Apply(ctx, kv.Durable, sequence(in))
	if errors.Is(err, kv.ErrConflict) {
		return output{}, nil
	}
	return output{Applied: err == nil}, err
}

// getAll reads a group in one view: a range or a multi-get, which must be the same.
func (d *remote) getAll(ctx context.Context, group int) (out output, err error) {
	d.mu.Lock()
	ranged := d.r.IntN(2) == 0
	d.mu.Unlock()
	if !ranged {
		var keys []kvrpc.Key
		for k := range perGroup {
			keys = append(keys, kvrpc.Key{Keyspace: registerSpace, Key: registerKey(group, k)})
		}
		values, err := d.store.MultiGet(ctx, keys, kvrpc.ReadOptions{})
		if err != nil {
			return out, err
		}
		for k := range perGroup {
			out.Saw[k] = decode(values[k].Value)
		}
		return out, nil
	}
	page, err := d.store.Range(ctx, registerSpace, kv.Prefix(fmt.Appendf(nil, "%06d.", group)), kvrpc.RangeOptions{})
	if err != nil {
		return out, err
	}
	for _, e := range page.Entries {
		out.Saw[int(e.Key[len(e.Key)-1]-'a')] = decode(e.Value)
	}
	return out, nil
}

func sequence(in input) []kv.Step {
	key := func(k int) []byte { return registerKey(in.Group, k%perGroup) }
	first := kv.Step{Op: kv.OpAssert, Keyspace: registerSpace, Key: key(in.Key), Value: encode(in.Expect)}
	if in.Expect == 0 {
		first = kv.Step{Op: kv.OpAssertAbsent, Keyspace: registerSpace, Key: key(in.Key)}
	}
	steps := []kv.Step{first}
	if in.Kind == opMove {
		return append(steps,
			kv.Step{Op: kv.OpDelete, Keyspace: registerSpace, Key: key(in.Key)},
			kv.Step{Op: kv.OpSet, Keyspace: registerSpace, Key: key(in.Key + 1), Value: encode(in.Value)})
	}
	for k := range perGroup {
		steps = append(steps, kv.Step{Op: kv.OpSet, Keyspace: registerSpace, Key: key(k), Value: encode(in.Value)})
	}
	return steps
}

func (d *remote) count(ctx context.Context, counter int, value int64) (uint64, error) {
	err := d.store.Set(ctx, kv.Durable, counterSpace, counterKey(counter), encode(value))
	return d.store.Index(), err
}

func (d *remote) session(ctx context.Context, counter int, min uint64) (seen, error) {
	return d.look(ctx, counter, &kvpb.ReadOptions{Level: kvpb.Level_SESSION, MinIndex: min})
}

func (d *remote) stale(ctx context.Context, counter int) (seen, error) {
	return d.look(ctx, counter, &kvpb.ReadOptions{Level: kvpb.Level_STALE})
}

func (d *remote) strong(ctx context.Context, counter int) (seen, error) {
	var info kvrpc.ReadInfo
	v, err := d.store.Get(ctx, counterSpace, counterKey(counter), kvrpc.ReadOptions{Info: &info})
	if errors.Is(err, kv.ErrNotFound) {
		err = nil
	}
	return seen{value: decode(v), index: info.Index, shown: d.store.Index(), age: info.Age, member: "the leader"}, err
}

// look reads a counter at a member drawn at random.
func (d *remote) look(ctx context.Context, counter int, o *kvpb.ReadOptions) (seen, error) {
	members := d.c.members()
	d.mu.Lock()
	n := members[d.r.IntN(len(members))]
	d.mu.Unlock()
	api, err := d.api(n)
	if err != nil {
		return seen{}, err
	}
	r, err := api.Get(ctx, &kvpb.GetRequest{Store: storeName, Read: o, Keys: []*kvpb.Key{{Keyspace: []byte(counterSpace), Key: counterKey(counter)}}})
	if err != nil {
		return seen{}, err
	}
	s := seen{index: r.Index, shown: r.Seen, age: time.Duration(min(r.AgeUs, uint64(never/time.Microsecond))) * time.Microsecond, member: n.id}
	if r.Values[0].Found {
		s.value = decode(r.Values[0].Value)
	}
	return s, nil
}

func (d *remote) api(n *node) (kvpb.KVClient, error) {
	conn, err := d.client.Conn(n.addr)
	if err != nil {
		return nil, err
	}
	return kvpb.NewKVClient(conn), nil
}

// leads says whether a member believes that it leads.
func (d *remote) leads(ctx context.Context, n *node) bool {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	api, err := d.api(n)
	if err != nil {
		return false
	}
	st, err := api.Status(ctx, &kvpb.StatusRequest{Store: storeName})
	return err == nil && st.Leads
}

// sameEverywhere compares what the members show, each for itself, when nobody writes any more.
func (d *remote) sameEverywhere(ctx context.Context) error {
	var index uint64
	err := d.insist(ctx, "read at the leader", func(ctx context.Context) error {
		s, err := d.strong(ctx, 0)
		index = s.index
		return err
	})
	if err != nil {
		return err
	}
	compared, first := 0, ""
	for _, n := range d.c.members() {
		content, member := "", true
		err := d.insist(ctx, "read everything at "+n.id, func(ctx context.Context) (err error) {
			if content, err = d.content(ctx, n, index); err == nil {
				return nil
			}
			// Of an even number of nodes one does not vote, and a store on all voters is not there.
			out, aerr := d.c.adminOut(ctx, "voters", storeName)
			if voters := strings.Fields(out); aerr == nil && len(voters) > 0 && !slices.Contains(voters, n.id) {
				member = false
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if !member {
			continue
		}
		if compared == 0 {
			first = content
		}
		if compared++; content != first {
			return fmt.Errorf("members differ at index %d: %s", index, difference(first, content))
		}
	}
	if compared < 2 {
		return fmt.Errorf("only %d members could be compared", compared)
	}
	return nil
}

// content returns all keys and values that a member shows, one a line.
func (d *remote) content(ctx context.Context, n *node, index uint64) (string, error) {
	api, err := d.api(n)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, ks := range []kv.Keyspace{registerSpace, counterSpace, powerSpace} {
		q := &kvpb.RangeRequest{Store: storeName, Keyspace: []byte(ks), Read: &kvpb.ReadOptions{Level: kvpb.Level_SESSION, MinIndex: index}}
		for more := true; more; {
			r, err := api.Range(ctx, q)
			if err != nil {
				return "", err
			}
			for _, e := range r.Entries {
				fmt.Fprintf(&b, "%s %q=%q\n", ks, e.Key, e.Value)
				q.From = append(e.Key, 0)
			}
			more = r.More
		}
	}
	return b.String(), nil
}

// difference shows where two contents begin to differ.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %s and %s", i, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d lines and %d", len(x), len(y))
}

// insist tries until ctx is over.
func (d *remote) insist(ctx context.Context, what string, fn func(ctx context.Context) error) error {
	for {
		one, cancel := context.WithTimeout(ctx, opLimit)
		err := fn(one)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: tried in vain for too long: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
