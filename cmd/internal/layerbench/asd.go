package layerbench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/gabionfs/gabion/objstore/asd"
)

// recordSizes of the records that are appended and read: small ones, and fragments.
var recordSizes = []int{4 << 10, 64 << 10, 1 << 20}

// window is by how much the content of a record is shifted for the next, so that each is another.
const window = 4096

// ASD measures durable appends and verified reads of one disk, and deletes what it has put.
func ASD(ctx context.Context, a *asd.ASD, c Config) error {
	c.defaults()
	noise := make([]byte, recordSizes[len(recordSizes)-1]+64*window)
	rand.NewChaCha8([32]byte{3}).Read(noise) // never fails
	for _, size := range recordSizes {
		for _, clients := range c.Clients {
			s := &records{a: a, size: size, noise: noise, prefix: fmt.Sprintf("bench/%d/%d/", size, clients)}
			if err := s.run(ctx, &c, clients); err != nil {
				return err
			}
		}
	}
	return nil
}

// records are those of one row.
type records struct {
	a      *asd.ASD
	size   int
	noise  []byte
	prefix string
}

func (s *records) key(i int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(s.prefix), uint64(i))
}

func (s *records) content(i int64) []byte { return s.noise[i%64*window:][:s.size] }

func (s *records) run(ctx context.Context, c *Config, clients int) error {
	what := fmt.Sprintf("%d KiB by %d", s.size>>10, clients)
	put, err := c.measure(ctx, "append "+what, clients, max(c.Bytes/int64(s.size), 1), func(_ int, i int64) error {
		var b asd.Batch
		b.Put(s.key(i), nil, s.content(i))
		_, err := s.a.Apply(ctx, &b, asd.Durable)
		return err
	})
	if err != nil {
		return err
	}
	c.Emit(put.throughput("append "+what, s.size))
	c.Emit(put.perSecond("append " + what))
	bufs := make([][]byte, clients)
	for i := range bufs {
		bufs[i] = make([]byte, s.size)
	}
	get, err := c.measure(ctx, "get "+what, clients, put.count, func(client int, i int64) error {
		p, err := s.a.Get(ctx, s.key(i), bufs[client][:0])
		if err == nil && (len(p) != s.size || !bytes.Equal(p[s.size-64:], s.content(i)[s.size-64:])) {
			err = fmt.Errorf("record %d: read something else than was written", i)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.Emit(get.throughput("get "+what, s.size))
	c.Emit(get.perSecond("get " + what))
	return s.cleanUp(ctx, put.count)
}

func (s *records) cleanUp(ctx context.Context, n int64) error {
	for i := int64(0); i < n; {
		var b asd.Batch
		for ; i < n && b.Len() < asd.MaxBatchOps; i++ {
			b.Delete(s.key(i))
		}
		if _, err := s.a.Apply(ctx, &b, asd.Written); err != nil {
			return err
		}
	}
	return nil
}
