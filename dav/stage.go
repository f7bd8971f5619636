package dav

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

const stageSpace kv.Keyspace = "davstage"

// stage is a name that must not outlive the request that uses it: a copy that is not whole yet, or a
// tree that was replaced. Its note in keyspace davstage:
//
//	key    parent(8, big endian) name
//	value  "gds" version(1) ino(8, big endian)
//
// ino is the inode whose name it is, so that recovery never removes anything else that has come to have
// that name; 0 means whatever has it, for names that only we make.
type stage struct {
	parent fs.Ino
	name   string
	ino    fs.Ino
}

const stageMagic = "gds\x01"

// stagePrefix begins the names of unfinished copies.
const stagePrefix = ".gabion-copy-"

func (s *stage) key() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(s.parent)), s.name...)
}

func decodeStage(k, v []byte) (s stage, ok bool) {
	if len(k) < 9 || len(k) > 8+fs.MaxName || len(v) != 12 || string(v[:4]) != stageMagic {
		return s, false
	}
	return stage{
		parent: fs.Ino(binary.BigEndian.Uint64(k)), name: string(k[8:]),
		ino: fs.Ino(binary.BigEndian.Uint64(v[4:])),
	}, true
}

// noteStage records s before the name is made. It is durable, because the name may become durable first.
func (h *Handler) noteStage(ctx context.Context, s stage) error {
	v := binary.BigEndian.AppendUint64([]byte(stageMagic), uint64(s.ino))
	return h.kv.Update(ctx, kv.Durable, func(tx kv.Txn) error {
		tx.Put(stageSpace, s.key(), v)
		return nil
	})
}

// clearStage removes what s names, if it is there, and then the note. When the removal fails the note
// stays, and the next start tries again. When the removal of the note is lost in a crash, recovery finds
// nothing to do.
func (h *Handler) clearStage(ctx context.Context, s stage) error {
	a, err := h.fs.Lookup(ctx, s.parent, s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrNotDir):
	case err != nil:
		return err
	case s.ino == 0 || s.ino == a.Ino:
		if err := firstFailure(h.removeTree(ctx, s.parent, s.name, &a, s.name)); err != nil {
			return err
		}
	}
	return h.kv.Update(ctx, kv.Ordered, func(tx kv.Txn) error {
		tx.Delete(stageSpace, s.key())
		return nil
	})
}

// recoverStages removes what requests of an earlier process left behind. What cannot be removed now stays
// for another time: garbage is no reason not to serve.
func (h *Handler) recoverStages(ctx context.Context) error {
	var left []stage
	err := h.kv.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		left = left[:0]
		return r.Range(stageSpace, kv.Range{}, func(k, v []byte) bool {
			if s, ok := decodeStage(k, v); ok {
				left = append(left, s)
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	for _, s := range left {
		h.log.InfoContext(ctx, "webdav: removing what an interrupted request left", "parent", uint64(s.parent), "name", s.name)
		if err := h.clearStage(ctx, s); err != nil {
			h.log.WarnContext(ctx, "webdav: it cannot be removed now", "name", s.name, "error", err)
		}
	}
	return ctx.Err()
}
