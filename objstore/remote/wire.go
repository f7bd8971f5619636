package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
	"github.com/gabionfs/gabion/objstore/internal/crc"
)

// Protocol is the ALPN name of the service on a node's listener.
const Protocol = "gabion-asd/1"

const (
	helloMagic   = "GBNR"
	protoVersion = 1
	headerLen    = 16
	idLen        = len(asd.ID{})
	keyLen       = objstore.FragmentKeyLen
)

// Limits on what a peer may send.
const (
	// MaxFragment is the largest fragment in bytes.
	MaxFragment = 64 << 20
	maxRecovery = asd.MaxInfo
	maxKeys     = 4096 // in one has or delete
	maxRange    = 1000 // fragments in one answer
	maxReads    = 1024 // in one readmany
	maxText     = 4 << 10
	maxDisks    = 256
	maxPut      = keyLen + 4 + maxRecovery + 4*(MaxFragment/crc.Block)
	maxAnswer   = 2 + maxDisks*(2*idLen+25+4+2*maxText) // meta of an answer
)

type op uint8

const (
	opHello op = iota + 1
	opPut
	opRead
	opRecovery
	opHas
	opDelete
	opRange
	opStat
	opProbe
	opList
	opClaim
	opRelease
	opPrefetch
	opReadMany
)

var opNames = [...]string{"?", "hello", "put", "read", "recovery", "has", "delete", "range", "stat", "probe", "list", "claim", "release", "prefetch", "readmany"}

func (o op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// limits are the most that a request's meta and data may have; ok is false for an op that there is not.
func (o op) limits() (meta, data int, ok bool) {
	switch o {
	case opHello:
		return len(helloMagic) + 2 + 2*idLen, 0, true
	case opPut:
		return maxPut, MaxFragment, true
	case opRead, opPrefetch:
		return keyLen + 12, 0, true
	case opReadMany:
		return maxReads * spanLen, 0, true
	case opRecovery:
		return keyLen, 0, true
	case opHas, opDelete:
		return maxKeys * keyLen, 0, true
	case opRange:
		return 2*keyLen + 4, 0, true
	case opStat, opProbe, opList:
		return 0, 0, true
	case opClaim:
		return 2 * idLen, 0, true
	case opRelease:
		return 2*idLen + 1, 0, true
	}
	return 0, 0, false
}

// errProtocol matches everything that a peer must not send. The connection is over.
var errProtocol = errors.New("remote: protocol violated")

func violated(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// request is the header of one.
type request struct {
	op         op
	meta, data int
	limit      time.Duration // 0: none
}

func (r request) append(b []byte) []byte {
	b = append(b, byte(r.op), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(r.meta))
	b = binary.BigEndian.AppendUint32(b, uint32(r.data))
	ms := min((r.limit+time.Millisecond-1)/time.Millisecond, 1<<31)
	return binary.BigEndian.AppendUint32(b, uint32(ms))
}

// parseRequest refuses what is larger than its op allows.
func parseRequest(b [headerLen]byte) (request, error) {
	r := request{op: op(b[0]), limit: time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Millisecond}
	meta, data := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	mostMeta, mostData, ok := r.op.limits()
	switch {
	case !ok || b[1]|b[2]|b[3] != 0:
		return r, violated("request %x", b)
	case meta > uint32(mostMeta) || data > uint32(mostData):
		return r, violated("%v with %d and %d bytes, %d and %d are allowed", r.op, meta, data, mostMeta, mostData)
	}
	r.meta, r.data = int(meta), int(data)
	return r, nil
}

// answer is the header of one.
type answer struct {
	status     status
	meta, data int
}

func (a answer) append(b []byte) []byte {
	b = append(b, byte(a.status), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(a.meta))
	b = binary.BigEndian.AppendUint32(b, uint32(a.data))
	return append(b, 0, 0, 0, 0)
}

// parseAnswer refuses an answer whose data is not what was asked for, unless it tells of an error.
func parseAnswer(b [headerLen]byte, data int) (answer, error) {
	a := answer{status: status(b[0])}
	meta, got := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	switch {
	case b[1]|b[2]|b[3]|b[12]|b[13]|b[14]|b[15] != 0:
		return a, violated("answer %x", b)
	case int64(meta) > int64(maxAnswer) || a.status != statusOK && meta > maxText:
		return a, violated("answer with %d bytes", meta)
	case a.status != statusOK && got != 0:
		return a, violated("an error with %d bytes of data", got)
	case a.status == statusOK && int64(got) != int64(data):
		return a, violated("%d bytes of data, %d were asked for", got, data)
	}
	a.meta, a.data = int(meta), int(got)
	return a, nil
}

// hello is the first request of a connection.
type hello struct{ asd, owner asd.ID }

func (h hello) append(b []byte) []byte {
	b = append(b, helloMagic...)
	b = binary.BigEndian.AppendUint16(b, protoVersion)
	return append(append(b, h.asd[:]...), h.owner[:]...)
}

func parseHello(b []byte) (h hello, err error) {
	if len(b) != len(helloMagic)+2+2*idLen || string(b[:4]) != helloMagic {
		return h, violated("hello of %d bytes", len(b))
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != protoVersion {
		return h, violated("version %d, this program speaks %d", v, protoVersion)
	}
	return hello{asd.ID(b[6:22]), asd.ID(b[22:38])}, nil
}

// putMeta is the meta of a put.
type putMeta struct {
	key      objstore.FragmentKey
	recovery []byte
	sums     []uint32
}

func (p putMeta) append(b []byte) []byte {
	b = p.key.Append(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.recovery)))
	b = append(b, p.recovery...)
	for _, s := range p.sums {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	return b
}

func (p putMeta) len() int { return keyLen + 4 + len(p.recovery) + 4*len(p.sums) }

// parsePut reads the meta of a put of data bytes. The recovery information stays in b.
func parsePut(b []byte, data int) (p putMeta, err error) {
	if len(b) < keyLen+4 {
		return p, violated("put with %d bytes", len(b))
	}
	if p.key, err = parseKey(b); err != nil {
		return p, err
	}
	n := binary.BigEndian.Uint32(b[keyLen:])
	rest := b[keyLen+4:]
	sums := (data + crc.Block - 1) / crc.Block
	if n > maxRecovery || int(n)+4*sums != len(rest) {
		return p, violated("put of %d bytes with %d of recovery information and %d in all", data, n, len(rest))
	}
	p.recovery, rest = rest[:n:n], rest[n:]
	p.sums = make([]uint32, sums)
	for i := range p.sums {
		p.sums[i] = binary.BigEndian.Uint32(rest[4*i:])
	}
	return p, nil
}

func parseKey(b []byte) (objstore.FragmentKey, error) {
	if len(b) < keyLen {
		return objstore.FragmentKey{}, violated("a key of %d bytes", len(b))
	}
	k, err := objstore.ParseFragmentKey(b[:keyLen])
	if err != nil {
		return k, violated("%v", err)
	}
	return k, nil
}

func parseKeys(b []byte) ([]objstore.FragmentKey, error) {
	if len(b)%keyLen != 0 || len(b) > maxKeys*keyLen {
		return nil, violated("%d bytes of keys", len(b))
	}
	keys := make([]objstore.FragmentKey, len(b)/keyLen)
	for i := range keys {
		var err error
		if keys[i], err = parseKey(b[i*keyLen:]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

const spanLen = keyLen + 12

// span is the meta of a read or a prefetch, and one read of many.
type span struct {
	key objstore.FragmentKey
	off int64
	n   int
}

func (s span) append(b []byte) []byte {
	b = s.key.Append(b)
	b = binary.BigEndian.AppendUint64(b, uint64(s.off))
	return binary.BigEndian.AppendUint32(b, uint32(s.n))
}

func parseSpan(b []byte) (s span, err error) {
	if len(b) != spanLen {
		return s, violated("a read with %d bytes", len(b))
	}
	if s.key, err = parseKey(b); err != nil {
		return s, err
	}
	off, n := binary.BigEndian.Uint64(b[keyLen:]), binary.BigEndian.Uint32(b[keyLen+8:])
	if off > MaxFragment || n > MaxFragment {
		return s, violated("a read of %d bytes at %d", n, off)
	}
	s.off, s.n = int64(off), int(n)
	return s, nil
}

// parseSpans reads the meta of a readmany, and returns how many bytes it asks for in all.
func parseSpans(b []byte) (list []span, size int, err error) {
	if len(b) == 0 || len(b)%spanLen != 0 || len(b) > maxReads*spanLen {
		return nil, 0, violated("many reads with %d bytes", len(b))
	}
	list = make([]span, 0, len(b)/spanLen)
	for ; len(b) > 0; b = b[spanLen:] {
		s, err := parseSpan(b[:spanLen])
		if err != nil {
			return nil, 0, err
		}
		if size += s.n; size > MaxFragment {
			return nil, 0, violated("many reads of more than %d bytes", MaxFragment)
		}
		list = append(list, s)
	}
	return list, size, nil
}

// listing is the answer to a range.
type listing struct {
	more bool
	list []objstore.FragmentInfo
}

func (l listing) append(b []byte) []byte {
	b = append(b, flag(l.more))
	for _, f := range l.list {
		b = binary.BigEndian.AppendUint64(f.Key.Append(b), uint64(f.Size))
	}
	return b
}

func parseListing(b []byte) (l listing, err error) {
	const each = keyLen + 8
	if len(b) < 1 || (len(b)-1)%each != 0 || len(b)-1 > maxRange*each || b[0] > 1 {
		return l, violated("a listing of %d bytes", len(b))
	}
	l.more, b = b[0] == 1, b[1:]
	if l.more && len(b) == 0 {
		return l, violated("an empty listing with more to come")
	}
	for ; len(b) > 0; b = b[each:] {
		k, err := parseKey(b)
		if err != nil {
			return l, err
		}
		size := binary.BigEndian.Uint64(b[keyLen:])
		if size > 1<<62 {
			return l, violated("a fragment of %d bytes", size)
		}
		l.list = append(l.list, objstore.FragmentInfo{Key: k, Size: int64(size)})
	}
	return l, nil
}

const statLen = 6*8 + 1

func appendStat(b []byte, s objstore.DiskStat) []byte {
	for _, n := range []int64{s.Total, s.Used, s.Free, s.Own, s.Fragments, int64(s.Device)} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, flag(s.Full))
}

func parseStat(b []byte) (s objstore.DiskStat, err error) {
	if len(b) != statLen || b[48] > 1 {
		return s, violated("a stat of %d bytes", len(b))
	}
	at := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[8*i:])) }
	s = objstore.DiskStat{Total: at(0), Used: at(1), Free: at(2), Own: at(3), Fragments: at(4), Device: uint64(at(5)), Full: b[48] == 1}
	if min(s.Total, s.Used, s.Free, s.Own, s.Fragments) < 0 {
		return s, violated("a stat below zero")
	}
	return s, nil
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// Announcement is what a server says of a disk.
type Announcement struct {
	ASD   asd.ID
	Owner asd.ID // zero while nobody has claimed it
	Total int64  // bytes
	Used  int64
	Free  int64
	State DiskState
	Dir   string // at the server, for people
	Err   string // why it is down
}

// DiskState is what can be done with a disk that was announced.
type DiskState uint8

// The states of disks.
const (
	Ready     DiskState = iota // claimed, and served
	Unclaimed                  // to be claimed
	Down                       // cannot be used: see Err
)

func (s DiskState) String() string {
	return [...]string{"ready", "unclaimed", "down"}[s]
}

func (a *Announcement) append(b []byte) []byte {
	b = append(append(b, a.ASD[:]...), a.Owner[:]...)
	for _, n := range []int64{a.Total, a.Used, a.Free} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, byte(a.State))
	for _, s := range []string{a.Dir, a.Err} {
		s = s[:min(len(s), maxText)]
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	return b
}

func (a *Announcement) parse(b []byte) (rest []byte, err error) {
	if len(b) < 2*idLen+25 {
		return nil, violated("an announcement of %d bytes", len(b))
	}
	a.ASD, a.Owner, b = asd.ID(b[:16]), asd.ID(b[16:32]), b[32:]
	for _, p := range []*int64{&a.Total, &a.Used, &a.Free} {
		*p, b = int64(binary.BigEndian.Uint64(b)), b[8:]
	}
	a.State, b = DiskState(b[0]), b[1:]
	if a.State > Down || min(a.Total, a.Used, a.Free) < 0 {
		return nil, violated("a disk in state %d", a.State)
	}
	for _, p := range []*string{&a.Dir, &a.Err} {
		if len(b) < 2 {
			return nil, violated("an announcement that ends early")
		}
		n := int(binary.BigEndian.Uint16(b))
		if n > maxText || n > len(b)-2 {
			return nil, violated("a text of %d bytes", n)
		}
		*p, b = string(b[2:2+n]), b[2+n:]
	}
	return b, nil
}

func appendList(b []byte, list []Announcement) []byte {
	list = list[:min(len(list), maxDisks)]
	b = binary.BigEndian.AppendUint16(b, uint16(len(list)))
	for i := range list {
		b = list[i].append(b)
	}
	return b
}

func parseList(b []byte) ([]Announcement, error) {
	if len(b) < 2 || binary.BigEndian.Uint16(b) > maxDisks {
		return nil, violated("a list of %d bytes", len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	var out []Announcement
	for range n {
		var a Announcement
		var err error
		if b, err = a.parse(b); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	if len(b) != 0 {
		return nil, violated("%d bytes after a list", len(b))
	}
	return out, nil
}

// readFull reads n bytes to a buffer that grows with what has come, so that a length alone takes little memory.
func readFull(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	b := make([]byte, min(n, step))
	for at := 0; ; {
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return nil, err
		}
		if at = len(b); at == n {
			return b, nil
		}
		b = append(b, make([]byte, min(n-at, at))...)
	}
}
