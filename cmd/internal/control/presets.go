package control

import (
	"context"
	"net/http"
)

// Preset is how the objects of some namespaces are laid out.
type Preset struct {
	Name         string   `json:"name"`
	Version      uint32   `json:"version"`
	Policies     []string `json:"policies"`      // best first
	FragmentSize int      `json:"fragment_size"` // bytes
	Compression  string   `json:"compression"`   // "none", "s2" or "zstd"
	Encryption   string   `json:"encryption"`    // "none" or "aes-256-gcm"
	Checksum     string   `json:"checksum"`      // "crc32c" or "blake3"
	Disks        []uint32 `json:"disks"`         // the only ones that get new fragments; empty: all
	Namespaces   []string `json:"namespaces"`    // that use it
	Warnings     []string `json:"warnings"`      // what the present disks cannot satisfy
}

// PresetChange is a new preset, or a change of one; what is nil takes its default, or stays.
type PresetChange struct {
	Name         string    `json:"name"`
	Policies     []string  `json:"policies,omitempty"`
	FragmentSize *int      `json:"fragment_size,omitempty"`
	Compression  *string   `json:"compression,omitempty"`
	Encryption   *string   `json:"encryption,omitempty"`
	Checksum     *string   `json:"checksum,omitempty"`
	Disks        *[]uint32 `json:"disks,omitempty"`
}

// PresetAssign asks that a namespace follow a preset; one that does not exist is made.
type PresetAssign struct {
	Namespace string `json:"namespace"`
	Preset    string `json:"preset"`
}

// PresetBackend is a Backend with presets.
type PresetBackend interface {
	Presets(ctx context.Context) ([]Preset, error)
	CreatePreset(ctx context.Context, c PresetChange) (Preset, error)
	UpdatePreset(ctx context.Context, c PresetChange) (Preset, error)
	AssignPreset(ctx context.Context, a PresetAssign) (Preset, error)
}

// servePresets adds what is about presets to mux, if b has them:
//
//	GET  /v1/presets                          []Preset
//	POST /v1/presets          PresetChange    Preset
//	POST /v1/presets/update   PresetChange    Preset
//	POST /v1/presets/assign   PresetAssign    Preset
func servePresets(mux *http.ServeMux, b Backend) {
	p, ok := b.(PresetBackend)
	if !ok {
		return
	}
	mux.HandleFunc("GET /v1/presets", answer(func(r *http.Request) (any, error) { return p.Presets(r.Context()) }))
	mux.HandleFunc("POST /v1/presets", answer(posted(p.CreatePreset)))
	mux.HandleFunc("POST /v1/presets/update", answer(posted(p.UpdatePreset)))
	mux.HandleFunc("POST /v1/presets/assign", answer(posted(p.AssignPreset)))
}

// posted makes a function of a request out of one of what the request carries.
func posted[Q, A any](fn func(context.Context, Q) (A, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var q Q
		if err := decode(r, &q); err != nil {
			return nil, err
		}
		return fn(r.Context(), q)
	}
}

// Presets lists the presets by name.
func (c *Client) Presets(ctx context.Context) (p []Preset, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/presets", nil, nil, &p)
}

// CreatePreset makes a preset.
func (c *Client) CreatePreset(ctx context.Context, q PresetChange) (p Preset, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/presets", nil, q, &p)
}

// UpdatePreset makes the next version of a preset.
func (c *Client) UpdatePreset(ctx context.Context, q PresetChange) (p Preset, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/presets/update", nil, q, &p)
}

// AssignPreset makes a namespace follow a preset.
func (c *Client) AssignPreset(ctx context.Context, q PresetAssign) (p Preset, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/presets/assign", nil, q, &p)
}
