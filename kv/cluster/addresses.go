package cluster

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// addressBook is where the nodes listen, as far as this one has heard: from the directory and from the
// nodes themselves. It is kept in a file, because after a start nothing of the directory may be known until
// its members have found each other. The file is
//
//	0   magic "gabionad"
//	8   version u32
//	12  clusterpb.Addresses
//	..  CRC-32C of all before u32
//
// Numbers are little endian. It is a cache: a file that is damaged is begun again.
type addressBook struct {
	path string
	self string

	mu      sync.Mutex
	entries map[string]*clusterpb.Address

	saving sync.Mutex // held while the file is written; never taken with mu held
}

const (
	addressFile    = "addresses"
	addressMagic   = "gabionad"
	addressVersion = 1
	maxAddressFile = 1 << 20
)

func parseAddresses(what string, b []byte) (*clusterpb.Addresses, error) {
	damaged := func(why string) (*clusterpb.Addresses, error) {
		return nil, &kv.CorruptError{What: what, Err: errors.New(why)}
	}
	if len(b) < 16 || len(b) > maxAddressFile || string(b[:8]) != addressMagic || binary.LittleEndian.Uint32(b[8:]) != addressVersion {
		return damaged("it does not begin like a file of addresses")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return damaged("it does not match its checksum")
	}
	m := &clusterpb.Addresses{}
	if err := proto.Unmarshal(body[12:], m); err != nil {
		return damaged(err.Error())
	}
	return m, nil
}

func encodeAddresses(m *clusterpb.Addresses) ([]byte, error) {
	b := binary.LittleEndian.AppendUint32([]byte(addressMagic), addressVersion)
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// openAddresses reads the book of the node self, which listens at address now.
func openAddresses(dir, self, address string) (*addressBook, error) {
	b := &addressBook{path: filepath.Join(dir, addressFile), self: self, entries: map[string]*clusterpb.Address{}}
	data, err := os.ReadFile(b.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if m, err := parseAddresses(b.path, data); err == nil {
		for _, a := range m.Addresses {
			b.entries[a.Id] = a
		}
	}
	if own := b.entries[self]; own.GetAddress() != address {
		b.entries[self] = &clusterpb.Address{Id: self, Address: address, Generation: own.GetGeneration() + 1}
	}
	return b, b.save()
}

// own is where this node listens.
func (b *addressBook) own() *clusterpb.Address {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[b.self]
}

// get returns the address of a node, or "".
func (b *addressBook) get(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[id].GetAddress()
}

// all returns every entry, in order.
func (b *addressBook) all() (out []*clusterpb.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(b.entries)) {
		out = append(out, b.entries[id])
	}
	return out
}

// learn notes what is newer than what the book has, and keeps it.
func (b *addressBook) learn(heard []*clusterpb.Address) error {
	changed := false
	b.mu.Lock()
	for _, a := range heard {
		was := b.entries[a.Id]
		switch {
		case a.Id == b.self:
			if a.Generation >= was.Generation && a.Address != was.Address {
				// Others know of a later address of ours: the book was lost. Ours is later still.
				b.entries[b.self] = &clusterpb.Address{Id: b.self, Address: was.Address, Generation: a.Generation + 1}
				changed = true
			}
		case identity.CheckName(a.Id) != nil, identity.CheckAddr(a.Address) != nil:
		case was == nil, a.Generation > was.Generation:
			b.entries[a.Id] = a
			changed = true
		}
	}
	b.mu.Unlock()
	if !changed {
		return nil
	}
	return b.save()
}

func (b *addressBook) save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	data, err := encodeAddresses(&clusterpb.Addresses{Addresses: b.all()})
	if err != nil {
		return err
	}
	return identity.WriteFile(b.path, data)
}

// learnAddresses notes addresses; that the file cannot be written is no reason to fail.
func (n *Node) learnAddresses(heard []*clusterpb.Address) {
	if err := n.book.learn(heard); err != nil {
		n.log.Warn("cannot keep the addresses of the nodes", "cause", err)
	}
}
