package nsm

import (
	"slices"
	"sync/atomic"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/manifest"
)

// presets is the preset that manifests are held to, with the versions before it: an upload that was under way
// when the preset changed may follow any version since it began. Ids of uploads rise, so the id tells.
type presets struct {
	versions atomic.Pointer[[]presetVersion] // oldest first, at least one
	began    uint64                          // ids below may be of uploads; guarded by Manager.mu
}

type presetVersion struct {
	from   uint64 // the first upload that began under it
	preset objstore.Preset
}

// keepVersions is how many versions of a preset uploads may follow.
const keepVersions = 16

// Preset returns the preset in force.
func (n *Manager) Preset() objstore.Preset {
	v := *n.presets.versions.Load()
	return v[len(v)-1].preset
}

// SetPreset puts another version of the preset, or another preset, in force for uploads that begin from now
// on. An older version of the same preset is ignored.
func (n *Manager) SetPreset(p objstore.Preset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := *n.presets.versions.Load()
	if now := old[len(old)-1].preset; now.Name == p.Name && now.Version > p.Version {
		return
	}
	v := append(slices.Clone(old), presetVersion{from: n.presets.began, preset: p})
	v = v[max(0, len(v)-keepVersions):]
	n.presets.versions.Store(&v)
}

// rules calls fn with the versions of the preset that upload id may follow, newest first, until one passes,
// and returns the error of the newest otherwise.
func (n *Manager) rules(id uint64, fn func(objstore.Preset) error) error {
	v := *n.presets.versions.Load()
	var newest error
	for i := len(v) - 1; i >= 0; i-- {
		err := fn(v[i].preset)
		if err == nil {
			return nil
		}
		if newest == nil {
			newest = err
		}
		if v[i].from <= id {
			break // it began under this one
		}
	}
	return newest
}

// policyOf returns the policy of p with a chunk's code.
func policyOf(p objstore.Preset, c *manifest.Chunk) (objstore.Policy, bool) {
	for _, q := range p.Policies {
		if q.K == c.K && q.M == c.M {
			return q, true
		}
	}
	return objstore.Policy{}, false
}
