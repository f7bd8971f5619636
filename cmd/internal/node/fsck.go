package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/fs/data"
	"github.com/gabionfs/gabion/fs/fsck"
	"github.com/gabionfs/gabion/objstore/maint"
)

// Fsck checks the filesystem and the objects under it, while both are in use.
func (n *Node) Fsck(ctx context.Context, q control.FsckRequest, event func(control.FsckEvent)) error {
	// What is in memory only would look as if it were missing.
	if n.session != nil {
		if err := n.session.Sync(ctx); err != nil {
			return err
		}
	}
	report, err := fsck.Run(ctx, fsck.Options{
		KV: n.kv, Repair: q.Repair,
		Layers: []fsck.Layer{
			{Name: "content", Check: n.checkContent(q.Data)},
			{Name: "objects", Check: n.checkObjects(q.Data)},
		},
		Problem: func(p fsck.Problem) {
			text := p.Text
			if p.Object != "" {
				text = p.Object + ": " + text
			}
			if p.Done != "" {
				text += "; " + p.Done
			}
			event(control.FsckEvent{Problem: &control.FsckProblem{Layer: p.Layer, Kind: p.Kind, Text: text, Repaired: p.Repaired}})
		},
		Progress: func(layer string, done, total int64) {
			event(control.FsckEvent{Progress: &control.FsckProgress{Phase: layer, Done: done, Total: total}})
		},
	})
	if err != nil {
		return err
	}
	event(control.FsckEvent{Done: &control.FsckSummary{Problems: report.Found, Repaired: report.Repaired, Checked: report.Checked}})
	return nil
}

// checkContent checks extents, blobs and packs, and with deep the content of every blob.
func (n *Node) checkContent(deep bool) func(context.Context, fsck.Pass) error {
	return func(ctx context.Context, p fsck.Pass) error {
		o := data.CheckOptions{Deep: deep, Repair: p.Repair, Progress: p.Progress}
		if n.volume != nil {
			o.Volume = n.volume.Data()
		}
		s, err := data.Check(ctx, n.kv, n.content, o, func(d data.Problem) {
			p.Report(fsck.Problem{Kind: d.Kind, Object: d.Object, Text: d.Text, Repairable: d.Repairable, Repaired: d.Repaired})
		})
		p.Count("extents", s.Extents)
		p.Count("inline writes", s.Inline)
		p.Count("blobs", s.Blobs)
		p.Count("packs", s.Packs)
		return err
	}
}

// checkObjects checks manifests and fragments, and with deep the content of every fragment.
func (n *Node) checkObjects(deep bool) func(context.Context, fsck.Pass) error {
	return func(ctx context.Context, p fsck.Pass) error {
		problems := 0
		r, err := n.objects.Check(ctx, maint.CheckOptions{Full: deep}, func(m maint.Problem) {
			if m.Severity == maint.Note {
				return // unfinished, and maintenance will finish it
			}
			problems++
			p.Report(fsck.Problem{Kind: m.Kind, Object: subject(m), Text: m.Severity.String() + ": " + m.Detail, Repairable: true})
		})
		p.Count("objects", r.Objects)
		p.Count("fragments", r.Fragments)
		if err != nil || problems == 0 || !p.Repair {
			return err
		}
		return n.objects.Repair(ctx)
	}
}

// subject says what a problem is about.
func subject(m maint.Problem) string {
	var parts []string
	if m.Disk != 0 {
		parts = append(parts, fmt.Sprintf("disk %d", m.Disk))
	}
	if m.Namespace != "" {
		parts = append(parts, fmt.Sprintf("%s/%q", m.Namespace, m.Object))
	}
	return strings.Join(parts, ", ")
}
