package asd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var le = binary.LittleEndian

const (
	frameMagic  = "GBNFRAME"
	frameHeader = 64
	opHeader    = 48

	flagDamaged = 1

	// maxMeta bounds what a decoder believes: the largest batch of the largest keys and infos, and more.
	maxMeta = MaxBatchOps*(opHeader+MaxKey) + 64<<20
)

// frameInfo is the decoded header of a frame.
type frameInfo struct {
	epoch   uint64
	segment uint64
	lsn     uint64
	synced  int64
	page    uint32 // where it lies, in pages
	pages   uint32
	metaLen uint32
	ops     uint32
	metaCRC uint32
}

func (f *frameInfo) offset() int64 { return int64(f.page) * pageSize }
func (f *frameInfo) length() int64 { return int64(f.pages) * pageSize }
func (f *frameInfo) end() int64    { return f.offset() + f.length() }

func (f *frameInfo) encode(b []byte) {
	copy(b, frameMagic)
	le.PutUint64(b[8:], f.epoch)
	le.PutUint64(b[16:], f.segment)
	le.PutUint64(b[24:], f.lsn)
	le.PutUint64(b[32:], uint64(f.synced))
	le.PutUint32(b[40:], f.pages)
	le.PutUint32(b[44:], f.page)
	le.PutUint32(b[48:], f.metaLen)
	le.PutUint32(b[52:], f.ops)
	le.PutUint32(b[56:], f.metaCRC)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
}

// formatError is damage of something that was read. Callers turn it into the typed error that fits.
type formatError string

func (e formatError) Error() string { return string(e) }

func bad(format string, args ...any) error { return formatError(fmt.Sprintf(format, args...)) }

// decodeFrame decodes and checks the header of a frame.
func decodeFrame(b []byte) (frameInfo, error) {
	if len(b) < frameHeader {
		return frameInfo{}, bad("frame header of %d bytes", len(b))
	}
	if string(b[:8]) != frameMagic {
		return frameInfo{}, bad("no frame magic")
	}
	if crc32.Checksum(b[:60], castagnoli) != le.Uint32(b[60:]) {
		return frameInfo{}, bad("frame header fails its checksum")
	}
	f := frameInfo{
		epoch:   le.Uint64(b[8:]),
		segment: le.Uint64(b[16:]),
		lsn:     le.Uint64(b[24:]),
		synced:  int64(le.Uint64(b[32:])),
		pages:   le.Uint32(b[40:]),
		page:    le.Uint32(b[44:]),
		metaLen: le.Uint32(b[48:]),
		ops:     le.Uint32(b[52:]),
		metaCRC: le.Uint32(b[56:]),
	}
	switch {
	case f.pages == 0 || f.page == 0:
		return f, bad("frame of %d pages at page %d", f.pages, f.page)
	case f.metaLen > maxMeta || frameHeader+int64(f.metaLen) > f.length():
		return f, bad("frame of %d pages with %d bytes of ops", f.pages, f.metaLen)
	case int64(f.ops)*opHeader > int64(f.metaLen):
		return f, bad("%d ops in %d bytes", f.ops, f.metaLen)
	}
	return f, nil
}

// opView is one op of a frame as it lies in the frame's meta; its slices point into it.
type opView struct {
	kind           opKind
	damaged        bool
	ord            uint32
	key, info      []byte
	seq            uint64
	prevLo, prevHi uint64
	size           int
	off            uint32 // of the payload, from the beginning of the frame
	crcs           []byte
}

// decodeOps checks meta against the header and calls fn for each op.
func decodeOps(f *frameInfo, meta []byte, fn func(o *opView) error) error {
	if len(meta) != int(f.metaLen) || crc32.Checksum(meta, castagnoli) != f.metaCRC {
		return bad("ops of the frame fail their checksum")
	}
	for i := range f.ops {
		o := opView{ord: i}
		n, err := o.decode(f, meta)
		if err != nil {
			return err
		}
		meta = meta[n:]
		if err := fn(&o); err != nil {
			return err
		}
	}
	if len(meta) != 0 {
		return bad("%d bytes after the last op", len(meta))
	}
	return nil
}

func (o *opView) decode(f *frameInfo, b []byte) (int, error) {
	if len(b) < opHeader {
		return 0, bad("op of %d bytes", len(b))
	}
	o.kind, o.damaged = opKind(b[0]), b[1]&flagDamaged != 0
	keyLen, infoLen := int(le.Uint16(b[2:])), int(le.Uint32(b[4:]))
	o.seq, o.prevLo, o.prevHi = le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])
	size := le.Uint64(b[32:])
	o.off = le.Uint32(b[40:])
	switch {
	case o.kind != opPut && o.kind != opDelete:
		return 0, bad("op of kind %d", o.kind)
	case keyLen == 0 || keyLen > MaxKey || infoLen > MaxInfo || size > maxPayload:
		return 0, bad("op with a key of %d, info of %d, payload of %d bytes", keyLen, infoLen, size)
	case size > 0 && (int64(o.off) < frameHeader+int64(f.metaLen) || int64(o.off)+int64(size) > f.length()):
		return 0, bad("payload of %d bytes at %d in a frame of %d", size, o.off, f.length())
	}
	o.size = int(size)
	n := opHeader + keyLen + infoLen + 4*blocks(o.size)
	if n > len(b) {
		return 0, bad("op of %d bytes in %d", n, len(b))
	}
	rest := b[opHeader:n]
	o.key, rest = rest[:keyLen:keyLen], rest[keyLen:]
	o.info, o.crcs = rest[:infoLen:infoLen], rest[infoLen:]
	return n, nil
}

// metaLen is the length of the op in the meta of its frame.
func (o *op) metaLen() int64 {
	return int64(opHeader + len(o.key) + len(o.info) + 4*blocks(o.size))
}

// encode appends the op to the meta.
func (o *op) encode(b []byte, off uint32) []byte {
	var h [opHeader]byte
	h[0] = byte(o.kind)
	if o.damaged {
		h[1] |= flagDamaged
	}
	le.PutUint16(h[2:], uint16(len(o.key)))
	le.PutUint32(h[4:], uint32(len(o.info)))
	le.PutUint64(h[8:], o.seq)
	le.PutUint64(h[16:], o.prevLo)
	le.PutUint64(h[24:], o.prevHi)
	le.PutUint64(h[32:], uint64(o.size))
	le.PutUint32(h[40:], off)
	b = append(b, h[:]...)
	b = append(b, o.key...)
	b = append(b, o.info...)
	return append(b, o.crcs...)
}

// frame lays out ops for one write: first all of the meta, then the payloads that are copied, packed, and
// then the aligned ones where they are.
type frame struct {
	ops    []*op
	meta   int64 // bytes
	packed int64 // bytes
	large  int64 // bytes, each rounded up to pages
}

func (f *frame) add(o *op) {
	f.ops = append(f.ops, o)
	f.meta += o.metaLen()
	if o.aligned {
		f.large += pageCeil(int64(o.size))
	} else {
		f.packed += int64(o.size)
	}
}

// sizeWith returns the length of the frame if the ops were added to it.
func (f *frame) sizeWith(ops []op) int64 {
	g := frame{meta: f.meta, packed: f.packed, large: f.large}
	for i := range ops {
		g.meta += ops[i].metaLen()
		if ops[i].aligned {
			g.large += pageCeil(int64(ops[i].size))
		} else {
			g.packed += int64(ops[i].size)
		}
	}
	return g.size()
}

func (f *frame) size() int64 { return f.head() + f.large }

func (f *frame) head() int64 { return pageCeil(frameHeader + f.meta + f.packed) }

// build encodes the frame. offs has the offset of each payload; iov is what to write. The buffers hold
// parts of iov and are to be freed after the write.
func (f *frame) build(pool *BufferPool, info frameInfo) (offs []uint32, iov [][]byte, bufs []*Buffer) {
	offs = make([]uint32, len(f.ops))
	head := pool.Get(int(f.head()))
	bufs = append(bufs, head)
	b := head.Bytes()
	packed, large := frameHeader+f.meta, f.head()
	meta := b[frameHeader:frameHeader:len(b)]
	iov = append(iov, b)
	for i, o := range f.ops {
		if o.aligned {
			offs[i] = uint32(large)
			large += pageCeil(int64(o.size))
			iov, bufs = o.appendAligned(pool, iov, bufs)
		} else {
			offs[i] = uint32(packed)
			for _, p := range o.payload {
				packed += int64(copy(b[packed:], p))
			}
		}
		meta = o.encode(meta, offs[i])
	}
	clear(b[packed:])
	info.metaLen, info.ops = uint32(len(meta)), uint32(len(f.ops))
	info.pages = uint32(f.size() / pageSize)
	info.metaCRC = crc32.Checksum(meta, castagnoli)
	info.encode(b)
	return offs, iov, bufs
}

// appendAligned adds an aligned payload: its whole pages from where they are, its last part of a page by a copy
// that is filled up with zeroes.
func (o *op) appendAligned(pool *BufferPool, iov [][]byte, bufs []*Buffer) ([][]byte, []*Buffer) {
	for _, p := range o.payload {
		whole := len(p) &^ (pageSize - 1)
		if whole > 0 {
			iov = append(iov, p[:whole])
		}
		if whole < len(p) {
			last := pool.Get(pageSize)
			n := copy(last.Bytes(), p[whole:])
			clear(last.Bytes()[n:])
			iov, bufs = append(iov, last.Bytes()), append(bufs, last)
		}
	}
	return iov, bufs
}

// location is where the meta and the payload of a record lie.
type location struct {
	segment uint64
	page    uint32 // of the frame
	ord     uint32 // of the op in the frame
	off     uint32 // of the payload in the frame
}

// entry is what the index knows of a record.
type entry struct {
	location
	damaged        bool
	size           int
	infoLen        int
	seq            uint64
	prevLo, prevHi uint64
	crcs           []byte
}

func (e *entry) payloadOffset() int64 { return int64(e.page)*pageSize + int64(e.off) }

// cost is what the record takes in a dense segment; the rest of a segment is garbage.
func (e *entry) cost(keyLen int) int64 {
	return int64(opHeader + keyLen + e.infoLen + len(e.crcs) + e.size)
}

func deleteCost(keyLen int) int64 { return int64(opHeader + keyLen) }

func (e *entry) encode(b []byte) []byte {
	flags := uint64(0)
	if e.damaged {
		flags |= flagDamaged
	}
	for _, v := range [...]uint64{
		flags, e.segment, uint64(e.page), uint64(e.ord), uint64(e.off), uint64(e.size),
		uint64(e.infoLen), e.seq, e.prevLo, e.prevHi,
	} {
		b = binary.AppendUvarint(b, v)
	}
	return append(b, e.crcs...)
}

// decodeEntry copies what it needs of b.
func decodeEntry(b []byte) (*entry, error) {
	var v [10]uint64
	for i := range v {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, bad("index entry is cut short")
		}
		v[i], b = x, b[n:]
	}
	e := &entry{
		location: location{segment: v[1], page: uint32(v[2]), ord: uint32(v[3]), off: uint32(v[4])},
		damaged:  v[0]&flagDamaged != 0, size: int(v[5]), infoLen: int(v[6]), seq: v[7], prevLo: v[8], prevHi: v[9],
	}
	if v[5] > maxPayload || v[6] > MaxInfo || v[2] > 1<<32-1 || v[3] > 1<<32-1 || v[4] > 1<<32-1 || len(b) != 4*blocks(e.size) {
		return nil, bad("index entry makes no sense")
	}
	e.crcs = bytes.Clone(b)
	return e, nil
}

func (o *opView) entry(f *frameInfo) *entry {
	return &entry{
		location: location{segment: f.segment, page: f.page, ord: o.ord, off: o.off},
		damaged:  o.damaged, size: o.size, infoLen: len(o.info), seq: o.seq, prevLo: o.prevLo, prevHi: o.prevHi,
		crcs: bytes.Clone(o.crcs),
	}
}
