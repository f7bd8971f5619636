package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/gabionfs/gabion/kv"
)

// Vote is what raft must never forget: its term and whom it voted for. It implements raft.StableStore.
//
// The file has two copies of one block. A change is written and synced to the first copy, then to the
// second. So whichever copy a crash or a damaged byte spoils, the other one is right: when both can be
// read the first one is the newer.
//
//	0   magic "gabionvt"
//	8   version u32
//	12  CRC-32C of the block with this field zero u32
//	16  number of changes u64
//	24  number of pairs u32, then each: length of the key u16, key, length of the value u16, value
type Vote struct {
	mu      sync.Mutex
	file    *os.File
	path    string
	changes uint64
	values  map[string][]byte
}

const (
	voteFile    = "vote"
	voteMagic   = "gabionvt"
	voteVersion = 1
)

// errNotFound has the text by which raft recognises it.
var errNotFound = errors.New("not found")

func openVote(path string, create bool) (*Vote, error) {
	v := &Vote{path: path, values: map[string][]byte{}}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) && create {
		if err := v.create(); err != nil {
			return nil, fmt.Errorf("raftlog: %w", err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, v.corrupt(err)
	}
	v.file = f
	if err := v.load(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return v, nil
}

func (v *Vote) create() error {
	b, err := v.block()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(v.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(append(b, b...))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(v.path+".new", v.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(v.path))
}

func (v *Vote) corrupt(err error) error { return &kv.CorruptError{What: v.path, Err: err} }

func (v *Vote) load() error {
	b := make([]byte, 2*blockSize)
	if _, err := io.ReadFull(io.NewSectionReader(v.file, 0, 2*blockSize), b); err != nil {
		return v.corrupt(err)
	}
	n, values, err := parseVote(b[:blockSize])
	m, second, err2 := parseVote(b[blockSize:])
	switch {
	case err != nil && err2 != nil:
		return v.corrupt(fmt.Errorf("both copies: %w", err))
	case err != nil:
		n, values = m, second
	}
	v.changes, v.values = n, values
	if err != nil || err2 != nil || m != n { // make the copies equal again
		return v.store()
	}
	return nil
}

func (v *Vote) block() ([]byte, error) {
	b := make([]byte, 28, blockSize)
	copy(b, voteMagic)
	binary.LittleEndian.PutUint32(b[8:], voteVersion)
	binary.LittleEndian.PutUint64(b[16:], v.changes)
	binary.LittleEndian.PutUint32(b[24:], uint32(len(v.values)))
	for _, k := range slices.Sorted(maps.Keys(v.values)) {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(v.values[k])))
		b = append(b, v.values[k]...)
	}
	if len(b) > blockSize {
		return nil, fmt.Errorf("raftlog: the vote takes %d bytes, allowed are %d", len(b), blockSize)
	}
	b = b[:blockSize]
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b, castagnoli))
	return b, nil
}

func parseVote(b []byte) (changes uint64, values map[string][]byte, err error) {
	if len(b) < blockSize || string(b[:8]) != voteMagic {
		return 0, nil, errors.New("it does not begin like a vote")
	}
	b = append([]byte(nil), b[:blockSize]...)
	want := binary.LittleEndian.Uint32(b[12:])
	clear(b[12:16])
	if crc32.Checksum(b, castagnoli) != want {
		return 0, nil, errors.New("it does not match its checksum")
	}
	if ver := binary.LittleEndian.Uint32(b[8:]); ver != voteVersion {
		return 0, nil, fmt.Errorf("it has version %d, known is %d", ver, voteVersion)
	}
	changes = binary.LittleEndian.Uint64(b[16:])
	n := binary.LittleEndian.Uint32(b[24:])
	b = b[28:]
	next := func() (p []byte, ok bool) {
		if len(b) < 2 {
			return nil, false
		}
		size := int(binary.LittleEndian.Uint16(b))
		if b = b[2:]; len(b) < size {
			return nil, false
		}
		p, b = b[:size:size], b[size:]
		return p, true
	}
	values = map[string][]byte{}
	for range n {
		k, ok := next()
		val, ok2 := next()
		if !ok || !ok2 {
			return 0, nil, errors.New("a pair is longer than the block")
		}
		values[string(k)] = val
	}
	return changes, values, nil
}

// store writes both copies, one after the other.
func (v *Vote) store() error {
	b, err := v.block()
	if err != nil {
		return err
	}
	for at := int64(0); at <= blockSize; at += blockSize {
		if _, err := v.file.WriteAt(b, at); err != nil {
			return fmt.Errorf("raftlog: %w", err)
		}
		if err := v.file.Sync(); err != nil {
			return fmt.Errorf("raftlog: %w", err)
		}
	}
	return nil
}

func (v *Vote) used() bool { return v.changes > 0 }

// Set implements raft.StableStore.
func (v *Vote) Set(key, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, had := v.values[string(key)]
	v.values[string(key)] = append([]byte(nil), value...)
	v.changes++
	err := v.store()
	if err != nil { // raft may read it again
		if delete(v.values, string(key)); had {
			v.values[string(key)] = old
		}
	}
	return err
}

// Get implements raft.StableStore.
func (v *Vote) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b, ok := v.values[string(key)]; ok {
		return append([]byte(nil), b...), nil
	}
	return nil, errNotFound
}

// SetUint64 implements raft.StableStore.
func (v *Vote) SetUint64(key []byte, n uint64) error {
	return v.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

// GetUint64 implements raft.StableStore.
func (v *Vote) GetUint64(key []byte) (uint64, error) {
	b, err := v.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, v.corrupt(fmt.Errorf("%s has %d bytes", key, len(b)))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (v *Vote) close() error { return v.file.Close() }
