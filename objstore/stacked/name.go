package stacked

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/gabionfs/gabion/objstore"
)

// number appends v so that bytes are ordered as numbers are: below 0xf0 as itself, else 0xf0 and how many bytes
// follow, and those, big endian, without leading zeroes.
func number(b []byte, v uint64) []byte {
	if v < 0xf0 {
		return append(b, byte(v))
	}
	n := (bits.Len64(v) + 7) / 8
	b = append(b, 0xf0+byte(n))
	for n--; n >= 0; n-- {
		b = append(b, byte(v>>(8*n)))
	}
	return b
}

var errName = errors.New("not the name of a fragment")

// cut is the inverse of number.
func cut(s string) (v uint64, rest string, err error) {
	if s == "" {
		return 0, "", errName
	}
	if s[0] < 0xf0 {
		return uint64(s[0]), s[1:], nil
	}
	n := int(s[0] - 0xf0)
	if n < 1 || n > 8 || len(s) < 1+n || s[1] == 0 {
		return 0, "", errName
	}
	var b [8]byte
	copy(b[8-n:], s[1:])
	if v = binary.BigEndian.Uint64(b[:]); v < 0xf0 {
		return 0, "", errName
	}
	return v, s[1+n:], nil
}

// appendKey appends what the names of all objects of a fragment begin with, and no others do.
func appendKey(b []byte, k objstore.FragmentKey) []byte {
	b = number(b, uint64(k.Namespace))
	b = number(b, k.Object)
	b = number(b, uint64(k.Chunk))
	b = append(b, k.Fragment)
	return number(b, uint64(k.Version))
}

// nameOf returns the name of an object with so many bytes after the data.
func nameOf(k objstore.FragmentKey, tail int) string {
	return string(number(appendKey(make([]byte, 0, 32), k), uint64(tail)))
}

// maxTail is more than follows any fragment.
const maxTail = 1 << 28

// parseName is the inverse of nameOf.
func parseName(name string) (k objstore.FragmentKey, tail int, err error) {
	var v [5]uint64 // namespace, object, chunk, version, tail
	rest := name
	for i := range v {
		if i == 3 {
			if rest == "" {
				return k, 0, errName
			}
			k.Fragment, rest = rest[0], rest[1:]
		}
		if v[i], rest, err = cut(rest); err != nil {
			return k, 0, err
		}
		if i != 1 && v[i] > 1<<32-1 {
			return k, 0, errName
		}
	}
	if rest != "" || v[4] < footerLen || v[4] > maxTail {
		return k, 0, errName
	}
	k.Namespace, k.Object, k.Chunk, k.Version = uint32(v[0]), v[1], uint32(v[2]), uint32(v[3])
	return k, int(v[4]), nil
}

// object is a fragment as it lies in the namespace.
type object struct {
	key  objstore.FragmentKey
	name string
	id   uint64 // of the upload below
	size int64  // of the data
	tail int
}

func parseObject(i objstore.Info) (object, error) {
	k, tail, err := parseName(i.Name)
	if err == nil && i.Size < int64(tail) {
		err = fmt.Errorf("%d bytes, %d of them after the data", i.Size, tail)
	}
	if err != nil {
		return object{}, &objstore.CorruptError{What: fmt.Sprintf("object %q", i.Name), Err: err}
	}
	return object{key: k, name: i.Name, id: i.ID, size: i.Size - int64(tail), tail: tail}, nil
}

// later returns which of two objects of one fragment counts.
func later(a, b object) object {
	if b.id > a.id {
		return b
	}
	return a
}

// objects returns all objects of a fragment: one, but for accidents.
func (d *Disk) objects(ctx context.Context, k objstore.FragmentKey) (out []object, err error) {
	prefix := string(appendKey(nil, k))
	var bad error
	err = d.low.Namespace.List(ctx, prefix, prefix+"\xff", func(i objstore.Info) bool {
		var o object
		if o, bad = parseObject(i); bad == nil {
			out = append(out, o)
		}
		return bad == nil
	})
	return out, errors.Join(err, bad)
}

// find returns the object of a fragment that counts, or objstore.ErrNoFragment.
func (d *Disk) find(ctx context.Context, k objstore.FragmentKey) (object, error) {
	all, err := d.objects(ctx, k)
	if err != nil {
		return object{}, err
	}
	if len(all) == 0 {
		return object{}, objstore.ErrNoFragment
	}
	o := all[0]
	for _, b := range all[1:] {
		o = later(o, b)
	}
	return o, nil
}
