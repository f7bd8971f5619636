package maint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/internal/crc"
	"github.com/gabionfs/gabion/objstore/manager"
)

// Where something is encrypted every disk holds a copy of the keyring, which only the secret opens, so that disks and
// secret are enough to read everything. It is a fragment of namespace 0, behind those that are labels:
//
//	"GK" 01   magic and version
//	u64       generation: of copies that differ the highest is the newest
//	...       the keyring, as package crypt has it
//	u32       CRC32C of everything before, little endian, as is the generation
const keyringMagic = "GK\x01"

var keyringKey = objstore.FragmentKey{Object: 1 << 32}

const keyringHead = len(keyringMagic) + 8

func encodeKeyring(generation uint64, ring []byte) []byte {
	b := binary.LittleEndian.AppendUint64([]byte(keyringMagic), generation)
	b = append(b, ring...)
	return binary.LittleEndian.AppendUint32(b, crc.Sum(b))
}

func decodeKeyring(b []byte) (generation uint64, ring []byte, err error) {
	bad := func(err error) (uint64, []byte, error) {
		return 0, nil, &objstore.CorruptError{What: "copy of the keyring", Err: err}
	}
	if len(b) < keyringHead+4 || string(b[:2]) != keyringMagic[:2] {
		return bad(errors.New("no magic"))
	}
	body := b[:len(b)-4]
	if got, want := crc.Sum(body), binary.LittleEndian.Uint32(b[len(body):]); got != want {
		return bad(fmt.Errorf("checksum %08x, expected %08x", got, want))
	}
	if body[2] != keyringMagic[2] {
		return bad(fmt.Errorf("version %d, this program knows %d", body[2], keyringMagic[2]))
	}
	ring = body[keyringHead:]
	if _, err := crypt.DecodeKeyring(ring); err != nil {
		return bad(err)
	}
	return binary.LittleEndian.Uint64(body[len(keyringMagic):]), ring, nil
}

// Keyring returns the newest copy of the keyring on the disks that are up, and its generation; no keyring when there is
// none. A copy that is damaged, or on a disk that fails, is passed over.
func Keyring(ctx context.Context, disks *manager.Manager) (generation uint64, ring []byte) {
	for _, d := range disks.Disks() {
		if !d.Readable() {
			continue
		}
		var g uint64
		var r []byte
		err := d.Do(ctx, func(dev objstore.Disk) error {
			b, err := readLabel(ctx, dev, keyringKey)
			if err == nil {
				g, r, err = decodeKeyring(b)
			}
			return err
		})
		var corrupt *objstore.CorruptError
		switch {
		case err == nil && (ring == nil || g > generation): // or else fn may still run
			generation, ring = g, r
		case err != nil && !errors.Is(err, objstore.ErrNoFragment) && !errors.As(err, &corrupt):
			disks.Observe(d, err)
		}
	}
	return generation, ring
}

// nextKeyring returns what is to be on the disks for a keyring: the copy that is there, or one of a higher generation.
func (m *Maint) nextKeyring(ctx context.Context, ring []byte) ([]byte, error) {
	if _, r, err := decodeKeyring(m.keyring); err == nil && string(r) == string(ring) {
		return m.keyring, nil
	}
	generation, there := Keyring(ctx, m.o.Disks)
	if string(there) != string(ring) {
		generation++
	}
	m.keyring = encodeKeyring(generation, ring)
	return m.keyring, ctx.Err()
}
