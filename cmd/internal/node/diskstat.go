package node

import (
	"context"
	"fmt"
	"strconv"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/asd"
)

// diskID reads the number of a disk.
func diskID(s string) (objstore.DiskID, error) {
	num, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is not the number of a disk: `gabion asd list` shows them", control.ErrBadRequest, s)
	}
	return objstore.DiskID(num), nil
}

// DiskStat implements control.DetailBackend.
func (n *Node) DiskStat(_ context.Context, q control.DiskRequest) (control.DiskStat, error) {
	id, err := diskID(q.ID)
	if err != nil {
		return control.DiskStat{}, err
	}
	st, err := n.objects.DiskDetail(id)
	if err != nil {
		return control.DiskStat{}, err
	}
	return n.diskStat(id, st), nil
}

func (n *Node) diskStat(id objstore.DiskID, st asd.Stat) control.DiskStat {
	out := control.NewDiskStat("", st)
	if d, err := n.disk(id); err == nil {
		out.ID, out.ASD, out.Cluster = d.ID, d.ASD, n.dir.Config.Cluster
	}
	return out
}

// CompactDisk implements control.DetailBackend.
func (n *Node) CompactDisk(ctx context.Context, q control.DiskRequest) (control.Compacted, error) {
	id, err := diskID(q.ID)
	if err != nil {
		return control.Compacted{}, err
	}
	before, after, err := n.objects.CompactDisk(ctx, id)
	return control.Compacted{Before: n.diskStat(id, before), After: n.diskStat(id, after)}, err
}
