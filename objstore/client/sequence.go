package client

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
	"github.com/gabionfs/gabion/objstore/nsm"
)

// Step is one operation of a sequence of a namespace. See nsm.Step for what the operations mean; Create
// takes the object's content instead of its manifest.
type Step struct {
	Op   nsm.Op
	Name string
	ID   uint64 // of AssertID

	Content io.Reader // of Create
	Size    int64
}

// sequenceParallel is how many objects of one sequence are written at a time.
const sequenceParallel = 4

// ApplySequence runs steps in order as one transaction, all or nothing: the content of new objects is
// written first, then all manifests change at once. It returns what was created, by step. As after Put,
// the outcome is sequenced, and durable after the store's next sync. Errors are as those of
// nsm.Manager.ApplySequence and of Put.
func (s *Namespace) ApplySequence(ctx context.Context, steps []Step) ([]objstore.Info, error) {
	uploads := make([]*upload, len(steps))
	todo := make([]nsm.Step, len(steps))
	for i, st := range steps {
		todo[i] = nsm.Step{Op: st.Op, Name: st.Name, ID: st.ID}
		if st.Op != nsm.Create {
			continue
		}
		if st.Content == nil || st.Size < 0 || st.Size > objstore.MaxObject {
			return nil, s.wrap("put", st.Name, errors.Join(nsm.ErrSequence, errors.New("no content, or of an impossible size")))
		}
		todo[i].Manifest = &manifest.Manifest{} // for the check; the content comes later
	}
	if err := checkShape(todo); err != nil {
		return nil, err
	}
	var err error
	for i, st := range steps {
		if st.Op != nsm.Create || err != nil {
			continue
		}
		var id nsm.Upload
		if id, err = s.nsm.Begin(ctx); err == nil {
			defer s.nsm.End(id)
			uploads[i] = s.newUpload(id, st.Name, st.Size)
		}
	}
	if err == nil {
		err = writeUploads(ctx, uploads, steps)
	}
	if err == nil {
		for i, u := range uploads {
			if u != nil {
				todo[i].Upload, todo[i].Manifest = u.id, u.manifest()
			}
		}
		err = s.nsm.ApplySequence(ctx, todo)
	}
	infos := make([]objstore.Info, len(steps))
	for i, u := range uploads {
		if u != nil {
			u.settle(todo[i].Manifest, err)
			infos[i] = todo[i].Manifest.Info(u.name)
		}
	}
	if err != nil {
		return nil, err
	}
	s.c.o.Trouble.Obsolete(s.nsm)
	return infos, nil
}

// checkShape is nsm.CheckSequence before there are ids.
func checkShape(steps []nsm.Step) error {
	probe := make([]nsm.Step, len(steps))
	for i, st := range steps {
		if probe[i] = st; st.Op == nsm.Create {
			probe[i].Upload.ID = uint64(i + 1)
			probe[i].Manifest = &manifest.Manifest{ID: uint64(i + 1)}
		}
	}
	return nsm.CheckSequence(probe)
}

func writeUploads(ctx context.Context, uploads []*upload, steps []Step) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sequenceParallel)
	for i, u := range uploads {
		if u != nil {
			g.Go(func() error {
				if err := u.writeAll(ctx, &source{r: steps[i].Content}); err != nil {
					return u.s.wrap("put", u.name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}
