package objstore

import "context"

type background struct{}

// Background returns a context whose reads and writes of fragments give way to those of others, as far as the disk
// can tell them apart: for repair, scrub and whatever else nobody waits for. It still makes progress on a disk that is
// never idle.
func Background(ctx context.Context) context.Context {
	return context.WithValue(ctx, background{}, true)
}

// IsBackground reports whether a context comes from Background.
func IsBackground(ctx context.Context) bool { return ctx.Value(background{}) != nil }
