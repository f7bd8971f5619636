package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/crypt"
	"github.com/gabionfs/gabion/objstore/frames"
	"github.com/gabionfs/gabion/objstore/manifest"
)

var _ objstore.Secretive = (*Namespace)(nil)

// SetKeys gives the namespace its keys, or newer ones; nil locks it: what is sealed can be neither read nor
// written, but deleted and healed.
func (s *Namespace) SetKeys(k *crypt.NamespaceKeys) { s.keys.Store(k) }

// Secret implements objstore.Secretive.
func (s *Namespace) Secret(purpose string) (key [32]byte, ok bool) {
	k := s.keys.Load()
	if k == nil {
		return key, false
	}
	return k.Secret(purpose), true
}

// openKeys returns the keys, or objstore.ErrLocked.
func (s *Namespace) openKeys() (*crypt.NamespaceKeys, error) {
	if k := s.keys.Load(); k != nil {
		return k, nil
	}
	return nil, objstore.ErrLocked
}

// seal prepares an upload for sealing, if its preset asks for it.
func (u *upload) seal() error {
	if u.preset.Encryption == objstore.EncryptNone {
		return nil
	}
	keys, err := u.s.openKeys()
	if err != nil {
		return err
	}
	u.sealer, u.wrapped = keys.NewObject(u.id.ID)
	return nil
}

// sealFrames seals the frames of one encoding of the chunk of size bytes at off.
func (u *upload) sealFrames(encoding uint32, off int64, size int) frames.Sealer {
	p := position(u.preset.Compression, encoding, off)
	return func(dst, content []byte, i int) []byte { return u.sealer.Seal(dst, content, p(i, size)) }
}

// position returns where the frames of a chunk belong that begins at off of the object.
func position(how objstore.Compression, encoding uint32, off int64) func(i, size int) crypt.Position {
	return func(i, size int) crypt.Position {
		return crypt.Position{Encoding: encoding, Frame: uint32(i), Offset: off + int64(i)*frames.Size,
			Len: frames.DecodedLen(size, i), Compression: how}
	}
}

// opener returns what opens the frames of an object, nil when they are not sealed.
func (s *Namespace) opener(m *manifest.Manifest) (*crypt.Object, error) {
	if m.Seal == nil {
		return nil, nil
	}
	keys, err := s.openKeys()
	if err != nil {
		return nil, err
	}
	return keys.Object(m.ID, m.Seal)
}

// openFrame decodes sealed frame i into dst, which has its length; enc is used up.
func (g *gatherer) openFrame(i int, dst, enc []byte) error {
	p := position(g.m.Compression, g.c.Encoding, g.offset)(i, g.c.Size)
	if len(enc) == len(dst)+crypt.Overhead {
		_, err := g.open.Open(dst[:0], enc, p)
		return err
	}
	plain, err := g.open.Open(enc[:0], enc, p)
	if err != nil {
		return err
	}
	return g.s.c.codec.Expand(dst, plain, g.m.Compression)
}

// Rewrapped says what Rewrap did.
type Rewrapped struct {
	Objects int64 // looked at
	Changed int64 // data keys that were sealed with the newest key
}

// Rewrap seals the data key of every object with the newest key of the namespace. What is sealed with it already
// is left alone, so one that was cut off is gone on with by another. progress, unless nil, is called now and then.
func (s *Namespace) Rewrap(ctx context.Context, progress func(Rewrapped)) (Rewrapped, error) {
	var r Rewrapped
	keys, err := s.openKeys()
	if err != nil {
		return r, err
	}
	// Uploads that began before the namespace had its newest key may still register.
	if err := s.settleUploads(ctx); err != nil {
		return r, err
	}
	var bad error
	err = s.nsm.List(ctx, "", "", func(name string, m *manifest.Manifest) bool {
		r.Objects++
		if m.Seal != nil && m.Seal.Key != keys.Newest() {
			if bad = s.rewrapOne(ctx, keys, name, m.ID); bad != nil {
				return false
			}
			r.Changed++
		}
		if progress != nil && r.Objects%256 == 0 {
			progress(r)
		}
		bad = ctx.Err()
		return bad == nil
	})
	if err = errors.Join(err, bad); err == nil {
		err = s.nsm.Sync(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("objstore: rewrap the data keys of %s: %w", s.nsm.Name(), err)
	}
	return r, nil
}

func (s *Namespace) rewrapOne(ctx context.Context, keys *crypt.NamespaceKeys, name string, id uint64) error {
	err := s.nsm.Change(ctx, name, id, func(m *manifest.Manifest) error {
		if m.Seal == nil || m.Seal.Key == keys.Newest() {
			return nil
		}
		w, err := keys.Rewrap(m.ID, m.Seal)
		if err != nil {
			return err
		}
		m.Seal = w
		return nil
	})
	return ignoreNotFound(err)
}

// settleUploads waits for the uploads that are under way.
func (s *Namespace) settleUploads(ctx context.Context) error {
	epoch, err := s.nsm.Advance(ctx)
	if err != nil {
		return err
	}
	return s.nsm.Quiesce(ctx, epoch)
}
