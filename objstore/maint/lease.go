package maint

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// ksAgent has, by the name of an agent, its agentRecord as JSON.
const ksAgent kv.Keyspace = "obj/agent"

// allNamespaces is the number under which there is a lease on what belongs to no namespace: disks.
const allNamespaces = 0

// agency shares the namespaces of one store between the agents that maintain one backend. The lease on a
// namespace is beside its manifests, so that changes of these can be fenced by it.
//
// Each agent beats: it counts up a number in its row, several times in the time that a lease lasts. An agent
// whose number another has not seen change for that long, by the other's own clock, is taken for dead; no
// clocks are compared. Among those that live, each namespace belongs to the one that rendezvous hashing says;
// whoever has the lease and should not gives it back, and who should have it takes it when it is free, or its
// holder is dead. An agent that could not beat for half that time does nothing until it could.
//
// That is for efficiency. For safety every change is fenced, see nsm.WithLease.
type agency struct {
	store kv.Store
	name  string
	life  string // of this process
	lasts time.Duration
	now   func() time.Time

	mu      sync.Mutex // guards what follows
	held    map[uint32]nsm.Lease
	renewed time.Time
	seen    map[string]sighting // other agents
	begun   bool
}

// agentRecord is what an agent says of itself.
type agentRecord struct {
	V    int    `json:"v"`
	Life string `json:"life"`
	Beat uint64 `json:"beat"`
}

// sighting is when an agent was last seen to do something, by our clock.
type sighting struct {
	agentRecord
	at time.Time
}

func newAgency(store kv.Store, name string, lasts time.Duration) *agency {
	var life [8]byte
	rand.Read(life[:]) // never fails
	return &agency{store: store, name: name, life: hex.EncodeToString(life[:]), lasts: lasts, now: time.Now,
		held: make(map[uint32]nsm.Lease), seen: make(map[string]sighting)}
}

// errSuperseded: another process has our name.
var errSuperseded = errors.New("objstore: another process maintains under this name")

// beat renews what should be held of the namespaces, takes what is free, and gives back what is another's.
func (a *agency) beat(ctx context.Context, namespaces []uint32) error {
	agents, err := a.look(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	begin := a.now()
	live := a.live(agents, begin)
	begun := a.begun
	a.mu.Unlock()
	strength := kv.Ordered
	for _, ns := range namespaces {
		if owner(ns, live) == a.name && !a.holds(ns) {
			strength = kv.Durable // a token must not be given twice, whatever is lost
		}
	}
	var held map[uint32]nsm.Lease
	err = a.store.Update(ctx, strength, func(tx kv.Txn) error {
		held = make(map[uint32]nsm.Lease)
		me, err := readAgent(tx, a.name)
		if err != nil {
			return err
		}
		if begun && me.Life != a.life {
			return errSuperseded
		}
		if err := writeAgent(tx, a.name, agentRecord{Life: a.life, Beat: me.Beat + 1}); err != nil {
			return err
		}
		for _, ns := range namespaces {
			if here, err := nsm.IsSettled(tx, ns); err != nil || !here && ns != allNamespaces {
				if err != nil {
					return err
				}
				continue // the lease moves with the namespace, and must not change meanwhile
			}
			l, err := nsm.ReadLease(tx, ns)
			if err != nil {
				return err
			}
			mine := l.Agent == a.name && l.Life == a.life
			should := owner(ns, live) == a.name
			switch {
			case mine && should:
			case mine:
				l.Agent, l.Life = "", ""
			case should && strength == kv.Durable && !alive(l, live):
				l.Token++
				l.Agent, l.Life = a.name, a.life
			default:
				continue
			}
			if err := nsm.WriteLease(tx, ns, l); err != nil {
				return err
			}
			if l.Agent == a.name {
				held[ns] = nsm.Lease{Namespace: ns, Token: l.Token, Agent: l.Agent}
			}
		}
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		if errors.Is(err, errSuperseded) {
			clear(a.held)
		}
		return fmt.Errorf("objstore: leases of agent %s: %w", a.name, err)
	}
	a.held, a.renewed, a.begun = held, begin, true
	return nil
}

// alive tells whether a lease is held by an agent that lives, in its present life.
func alive(l nsm.LeaseRecord, live map[string]string) bool {
	return l.Agent != "" && live[l.Agent] == l.Life
}

// look reads the rows of all agents.
func (a *agency) look(ctx context.Context) (agents map[string]agentRecord, err error) {
	err = a.store.View(ctx, kv.Pending, func(r kv.Reader) error {
		agents = make(map[string]agentRecord)
		var bad error
		err := r.Range(ksAgent, kv.Range{}, func(key, value []byte) bool {
			var rec agentRecord
			if bad = parseAgent(value, &rec); bad == nil {
				agents[string(key)] = rec
			}
			return bad == nil
		})
		return errors.Join(err, bad)
	})
	return agents, err
}

// live returns the lives of the agents that live, ours among them. a.mu is held.
func (a *agency) live(agents map[string]agentRecord, now time.Time) map[string]string {
	out := map[string]string{a.name: a.life}
	for name, rec := range agents {
		if name == a.name {
			continue
		}
		s, ok := a.seen[name]
		if !ok || s.agentRecord != rec {
			s = sighting{rec, now}
			a.seen[name] = s
		}
		if now.Sub(s.at) < a.lasts && rec.Life != "" {
			out[name] = rec.Life
		}
	}
	return out
}

// owner says which of the agents that live a namespace belongs to: the one whose hash with it is highest.
func owner(ns uint32, live map[string]string) string {
	best, most := "", uint64(0)
	for _, name := range slices.Sorted(maps.Keys(live)) {
		h := fnv.New64a()
		h.Write(binary.BigEndian.AppendUint32([]byte(name), ns))
		if v := scatter(h.Sum64()); best == "" || v > most {
			best, most = name, v
		}
	}
	return best
}

// scatter is the finalizer of SplitMix64: FNV leaves the last bytes in its low bits.
func scatter(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (a *agency) holds(ns uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.held[ns]
	return ok
}

// lease returns the lease on a namespace if it is held, as far as we know.
func (a *agency) lease(ns uint32) (nsm.Lease, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.held[ns]
	return l, ok && a.now().Sub(a.renewed) < a.lasts/2
}

// release gives everything back.
func (a *agency) release(ctx context.Context) error {
	a.mu.Lock()
	held := a.held
	a.held = make(map[uint32]nsm.Lease)
	a.mu.Unlock()
	return a.store.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		me, err := readAgent(tx, a.name)
		if err != nil || me.Life != a.life {
			return err
		}
		tx.Delete(ksAgent, []byte(a.name))
		for ns := range held {
			if here, err := nsm.IsSettled(tx, ns); err != nil || !here && ns != allNamespaces {
				if err != nil {
					return err
				}
				continue
			}
			l, err := nsm.ReadLease(tx, ns)
			if err != nil {
				return err
			}
			if l.Agent == a.name && l.Life == a.life {
				l.Agent, l.Life = "", ""
				if err := nsm.WriteLease(tx, ns, l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func readAgent(r kv.Reader, name string) (rec agentRecord, err error) {
	b, err := r.Get(ksAgent, []byte(name))
	if errors.Is(err, kv.ErrNotFound) {
		return rec, nil
	}
	if err == nil {
		err = parseAgent(b, &rec)
	}
	return rec, err
}

func parseAgent(b []byte, rec *agentRecord) error {
	if err := json.Unmarshal(b, rec); err != nil || rec.V != 1 {
		return &objstore.CorruptError{What: "record of an agent", Err: fmt.Errorf("%q: %w", bytes.Clone(b), err)}
	}
	return nil
}

func writeAgent(tx kv.Txn, name string, rec agentRecord) error {
	rec.V = 1
	b, err := json.Marshal(rec)
	if err == nil {
		tx.Put(ksAgent, []byte(name), b)
	}
	return err
}
