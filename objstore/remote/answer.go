package remote

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// answer does what a request asks for. An error that it returns ends the connection.
func (v *visit) answer(ctx context.Context, r request, meta []byte) error {
	switch r.op {
	case opHello:
		return v.open(ctx, meta)
	case opList:
		return v.reply(nil, appendList(nil, v.s.o.Host.List(ctx)), nil)
	case opClaim:
		if len(meta) != 2*idLen {
			return violated("claim with %d bytes", len(meta))
		}
		return v.reply(v.s.o.Host.Claim(ctx, asd.ID(meta[:16]), asd.ID(meta[16:])), nil, nil)
	case opRelease:
		if len(meta) != 2*idLen+1 || meta[32] > 1 {
			return violated("release with %d bytes", len(meta))
		}
		return v.reply(v.s.o.Host.Release(ctx, asd.ID(meta[:16]), asd.ID(meta[16:32]), meta[32] == 1), nil, nil)
	}
	if v.disk == nil {
		return violated("%v without a disk", r.op)
	}
	switch r.op {
	case opPut:
		return v.put(ctx, r, meta)
	case opRead:
		return v.read(ctx, meta)
	case opReadMany:
		return v.readMany(ctx, meta)
	case opPrefetch:
		return v.prefetch(ctx, meta)
	case opRecovery:
		if len(meta) != keyLen {
			return violated("recovery with %d bytes", len(meta))
		}
		key, err := parseKey(meta)
		if err != nil {
			return err
		}
		info, err := v.disk.ReadRecovery(ctx, key)
		return v.reply(err, info, nil)
	case opHas, opDelete:
		return v.keys(ctx, r.op, meta)
	case opRange:
		return v.list(ctx, meta)
	case opStat:
		st, err := v.disk.Stat(ctx)
		return v.reply(err, appendStat(nil, st), nil)
	case opProbe:
		return v.reply(v.disk.Probe(ctx), nil, nil)
	}
	return violated("%v", r.op)
}

func (v *visit) open(ctx context.Context, meta []byte) (err error) {
	if v.hello, err = parseHello(meta); err != nil {
		return err
	}
	if !v.hello.asd.IsZero() {
		v.disk, err = v.s.o.Host.Open(ctx, v.hello.asd, v.hello.owner)
	}
	v.met, v.over = true, err != nil
	return v.reply(err, nil, nil)
}

func (v *visit) put(ctx context.Context, r request, meta []byte) error {
	p, err := parsePut(meta, r.data)
	if err != nil {
		return err
	}
	buf, free, err := v.reserve(r.data)
	if err != nil {
		return err
	}
	defer free()
	if _, err := io.ReadFull(v.c, buf.B); err != nil {
		return err
	}
	return v.reply(v.disk.PutFragment(ctx, p.key, p.recovery, buf.B, p.sums), nil, nil)
}

func (v *visit) read(ctx context.Context, meta []byte) error {
	p, err := parseSpan(meta)
	if err != nil {
		return err
	}
	buf, free, err := v.reserve(p.n)
	if err != nil {
		return err
	}
	defer free()
	return v.reply(v.disk.ReadFragment(ctx, p.key, p.off, buf.B), nil, buf.B)
}

func (v *visit) prefetch(ctx context.Context, meta []byte) error {
	p, err := parseSpan(meta)
	if err != nil {
		return err
	}
	if c, ok := v.disk.(objstore.CachedDisk); ok {
		c.Prefetch(ctx, p.key, p.off, p.n)
	}
	return v.reply(nil, nil, nil)
}

func (v *visit) keys(ctx context.Context, o op, meta []byte) error {
	keys, err := parseKeys(meta)
	if err != nil {
		return err
	}
	if o == opDelete {
		return v.reply(v.disk.DeleteFragments(ctx, keys), nil, nil)
	}
	has, err := v.disk.HasFragments(ctx, keys)
	out := make([]byte, len(has))
	for i, h := range has {
		out[i] = flag(h)
	}
	return v.reply(err, nil, out)
}

func (v *visit) list(ctx context.Context, meta []byte) error {
	if len(meta) != 2*keyLen+4 {
		return violated("range with %d bytes", len(meta))
	}
	from, err := parseKey(meta)
	if err != nil {
		return err
	}
	to, err := parseKey(meta[keyLen:])
	if err != nil {
		return err
	}
	limit := int(min(binary.BigEndian.Uint32(meta[2*keyLen:]), maxRange))
	if limit == 0 {
		return violated("range of nothing")
	}
	var l listing
	err = v.disk.Range(ctx, from, to, func(f objstore.FragmentInfo) bool {
		if len(l.list) == limit {
			l.more = true
			return false
		}
		l.list = append(l.list, f)
		return true
	})
	return v.reply(err, l.append(nil), nil)
}
