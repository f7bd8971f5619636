package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// Names in a node's directory.
const (
	nodeFile   = "node.pem"
	membersDir = "members"
	storesDir  = "stores"
	newSuffix  = ".new" // of a file that is being written
)

// mark notes, outside a member's own folder, that this node has the member. Without it a node that lost
// the folder would begin again with an empty log, forgetting what it had voted for and acknowledged.
//
//	0   magic "gabionmk"
//	8   version u32
//	12  state u8: 1 being created, 2 created
//	13  index of the directory that has the store for certain u64
//	21  length of the store's name u8
//	22  store's name
//	..  CRC-32C of all before u32
//
// Numbers are little endian.
type mark struct {
	created bool
	index   uint64
	store   string
}

const (
	markMagic   = "gabionmk"
	markVersion = 1
	markFixed   = 22
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m mark) encode() []byte {
	b := binary.LittleEndian.AppendUint32([]byte(markMagic), markVersion)
	state := byte(1)
	if m.created {
		state = 2
	}
	b = append(b, state)
	b = binary.LittleEndian.AppendUint64(b, m.index)
	b = append(b, byte(len(m.store)))
	b = append(b, m.store...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func parseMark(what string, b []byte) (mark, error) {
	damaged := func(why string) (mark, error) {
		return mark{}, &kv.CorruptError{What: what, Err: errors.New(why)}
	}
	if len(b) < markFixed+4 || string(b[:8]) != markMagic {
		return damaged("it does not begin like the mark of a member")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return damaged("it does not match its checksum")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != markVersion {
		return damaged(fmt.Sprintf("it has version %d, this release knows %d", v, markVersion))
	}
	if s := body[12]; s != 1 && s != 2 || len(body) != markFixed+int(body[21]) {
		return damaged("it is of the wrong length, or has an unknown state")
	}
	return mark{created: body[12] == 2, index: binary.LittleEndian.Uint64(body[13:]), store: string(body[markFixed:])}, nil
}

func (n *Node) markPath(raftID string) string { return filepath.Join(n.opts.Dir, membersDir, raftID) }
func (n *Node) storePath(raftID string) string {
	return filepath.Join(n.opts.Dir, storesDir, raftID)
}

// readMark returns the mark of a member; found is false when the node never had it.
func (n *Node) readMark(raftID string) (m mark, found bool, err error) {
	b, err := os.ReadFile(n.markPath(raftID))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return m, false, nil
	case err != nil:
		return m, false, err
	}
	m, err = parseMark(n.markPath(raftID), b)
	return m, err == nil, err
}

func writeMark(dir, raftID string, m mark) error {
	return identity.WriteFile(filepath.Join(dir, membersDir, raftID), m.encode())
}

// marks lists the members that this node has begun.
func (n *Node) marks() (raftIDs []string, err error) {
	entries, err := os.ReadDir(filepath.Join(n.opts.Dir, membersDir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != newSuffix {
			raftIDs = append(raftIDs, e.Name())
		}
	}
	return raftIDs, nil
}

// removeMember removes the files of a member, and its mark last, so that a crash in between leaves
// something that is removed again.
func (n *Node) removeFiles(raftID string) error {
	if err := os.RemoveAll(n.storePath(raftID)); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(n.opts.Dir, storesDir)); err != nil {
		return err
	}
	if err := os.Remove(n.markPath(raftID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Join(n.opts.Dir, membersDir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Unfinished reports whether an entry of a directory is of those that Init and Join leave when they are cut off
// or refused. Both may be repeated there.
func Unfinished(name string) bool {
	key := strings.HasPrefix(name, joinKeyPrefix) && strings.HasSuffix(strings.TrimSuffix(name, ".new"), joinKeySuffix)
	return key || name == membersDir || name == storesDir
}

// prepareDir creates a node's directory, which may hold the rest of an attempt that was cut off.
func prepareDir(dir string) error {
	if dir == "" {
		return errors.New("cluster: the node's directory is not named")
	}
	if _, err := os.Stat(filepath.Join(dir, nodeFile)); err == nil {
		return fmt.Errorf("cluster: %s holds a node already: %w", dir, ErrExists)
	}
	for _, d := range []string{dir, filepath.Join(dir, membersDir), filepath.Join(dir, storesDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return syncDir(dir)
}
