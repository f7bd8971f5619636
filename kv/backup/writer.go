package backup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/gabionfs/gabion/kv"
)

// Writer writes a backup. Not safe for concurrent use. After an error it must be given up.
type Writer struct {
	w        io.Writer
	index    uint64
	block    []byte
	keyspace kv.Keyspace
	key      []byte
	digest   *kv.Digest
}

// ErrOrder is returned for a pair that does not come after the one before it.
var ErrOrder = errors.New("backup: pairs out of order")

// NewWriter begins a backup that is as of an index of the store's log, or 0.
func NewWriter(w io.Writer, index uint64) (*Writer, error) {
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint64(b, index)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return &Writer{w: w, index: index, digest: kv.NewDigest()}, nil
}

// Add adds a pair. It keeps neither slice.
func (w *Writer) Add(ks kv.Keyspace, key, value []byte) error {
	if err := kv.CheckPut(ks, key, value); err != nil {
		return err
	}
	if ks < w.keyspace || ks == w.keyspace && string(key) <= string(w.key) {
		return fmt.Errorf("%w: %s/%.32q", ErrOrder, ks, key)
	}
	if ks != w.keyspace {
		w.keyspace = ks
		w.digest.AddKeyspace(ks)
	}
	w.digest.Add(key, value)
	w.key = append(w.key[:0], key...)
	if w.block == nil {
		w.block = make([]byte, blockHead, blockSize+4096)
	}
	w.block = append(append(w.block, byte(len(ks))), ks...)
	w.block = append(binary.LittleEndian.AppendUint32(w.block, uint32(len(key))), key...)
	w.block = append(binary.LittleEndian.AppendUint32(w.block, uint32(len(value))), value...)
	if len(w.block) >= blockSize {
		return w.flush(kindPairs)
	}
	return nil
}

func (w *Writer) flush(kind byte) error {
	binary.LittleEndian.PutUint32(w.block, uint32(len(w.block)-blockHead))
	w.block[4] = kind
	binary.LittleEndian.PutUint32(w.block[5:], blockSum(w.block))
	if _, err := w.w.Write(w.block); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	w.block = w.block[:blockHead]
	return nil
}

// blockSum is the checksum of a block, without the place where it is kept.
func blockSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:5], castagnoli), castagnoli, b[blockHead:])
}

// Close ends the backup. It does not close what it was written to.
func (w *Writer) Close() (Info, error) {
	info := Info{Index: w.index, Pairs: w.digest.Pairs, Bytes: w.digest.Bytes, Sum: w.digest.Sum()}
	if len(w.block) > blockHead {
		if err := w.flush(kindPairs); err != nil {
			return info, err
		}
	}
	w.block = append(w.block[:0], make([]byte, blockHead)...)
	w.block = binary.LittleEndian.AppendUint64(w.block, info.Pairs)
	w.block = binary.LittleEndian.AppendUint64(w.block, info.Bytes)
	w.block = append(w.block, info.Sum[:]...)
	return info, w.flush(kindEnd)
}
