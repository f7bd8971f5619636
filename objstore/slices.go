package objstore

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// ReadEach is ReadSlices by means of ReadAt, for namespaces that know nothing better: so many at a time. The first error is
// returned, and ends the others.
func ReadEach(ctx context.Context, slices []Slice, parallel int, readAt func(ctx context.Context, name string, off int64, p []byte) error) error {
	if len(slices) == 1 {
		return readAt(ctx, slices[0].Name, slices[0].Off, slices[0].P)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(parallel, 1))
	for _, s := range slices {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return readAt(ctx, s.Name, s.Off, s.P)
		})
	}
	return g.Wait()
}
