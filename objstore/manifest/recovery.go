package manifest

import (
	"encoding/binary"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Recovery is what lies beside every fragment: with it, all manifests can be rebuilt from the disks
// alone. Which disks hold the other fragments is found by looking; their sums follow from their data.
//
//	"GR" 01                magic and version
//	uvarint  name length
//	bytes    name
//	uvarint  id
//	uvarint  size          of the object
//	u8       compression
//	uvarint  chunks        of the object, 0: not known yet when this was written
//	uvarint  offset        of this chunk in the object
//	shape of this chunk    as in a manifest
//	u32      CRC32C of everything before
//
// Versions 2 and 3, as of manifests: encryption and data key come after compression. The data key is sealed with the key
// that was the namespace's when the fragment was written.
//
// Namespace, chunk, fragment and version are in the fragment's key.
type Recovery struct {
	Name        string
	ID          uint64
	Size        int64
	Compression objstore.Compression
	Seal        *crypt.Wrapped // as of a Manifest
	Chunks      int
	Offset      int64
	Chunk       Chunk // without fragments
}

const recoveryMagic = "GR"

// Manifest returns the manifest of the object as far as it follows from this: all but its sum and its chunks.
func (r *Recovery) Manifest() *Manifest {
	return &Manifest{ID: r.ID, Size: r.Size, Compression: r.Compression, Seal: r.Seal}
}

// Encode appends the recovery information's bytes to b.
func (r *Recovery) Encode(b []byte) []byte {
	start := len(b)
	v := versionOf(r.Seal, r.Chunk)
	b = append(b, recoveryMagic...)
	b = append(b, v)
	b = binary.AppendUvarint(b, uint64(len(r.Name)))
	b = append(b, r.Name...)
	b = binary.AppendUvarint(b, r.ID)
	b = binary.AppendUvarint(b, uint64(r.Size))
	b = append(b, byte(r.Compression))
	if v >= sealed {
		b = appendSeal(b, r.Seal)
	}
	b = binary.AppendUvarint(b, uint64(r.Chunks))
	b = binary.AppendUvarint(b, uint64(r.Offset))
	b = r.Chunk.encodeShape(b, false, 0, r.Seal != nil)
	return binary.LittleEndian.AppendUint32(b, crc.Sum(b[start:]))
}

// DecodeRecovery is the inverse of Encode. Damage is a *objstore.CorruptError.
func DecodeRecovery(b []byte) (*Recovery, error) {
	r, err := decodeRecovery(b)
	if err != nil {
		return nil, &objstore.CorruptError{What: "recovery information", Err: err}
	}
	return r, nil
}

func decodeRecovery(b []byte) (*Recovery, error) {
	r, err := open(b, recoveryMagic)
	if err != nil {
		return nil, err
	}
	n := r.uvarint()
	if n > objstore.MaxName || n > uint64(len(r.b)) {
		return nil, fmt.Errorf("a name of %d bytes", n)
	}
	out := &Recovery{Name: string(r.b[:n])}
	r.b = r.b[n:]
	out.ID, out.Size = r.uvarint(), int64(r.uvarint())
	out.Compression = objstore.Compression(r.u8())
	out.Seal = r.seal()
	chunks := r.uvarint()
	out.Offset = int64(r.uvarint())
	if out.Size < 0 || out.Size > objstore.MaxObject || out.Offset < 0 || out.Offset > out.Size || chunks > objstore.MaxObject {
		return nil, fmt.Errorf("size %d, offset %d, %d chunks", out.Size, out.Offset, chunks)
	}
	out.Chunks = int(chunks)
	if err := r.shape(&out.Chunk, 0, 0, 0); err != nil {
		return nil, err
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%d bytes too many", len(r.b))
	}
	if versionOf(out.Seal, out.Chunk) != r.version {
		return nil, fmt.Errorf("version %d for what needs none", r.version)
	}
	return out, nil
}
