package control

import (
	"context"
	"net/http"
)

// Keys says how things are with encryption.
type Keys struct {
	Present    bool           `json:"present"` // something is, or can be, encrypted
	Unlocked   bool           `json:"unlocked"`
	Secret     string         `json:"secret"` // what opens it: "key file", "passphrase" or ""
	Namespaces []NamespaceKey `json:"namespaces"`
}

// NamespaceKey is the newest key of a namespace that is encrypted.
type NamespaceKey struct {
	Namespace string `json:"namespace"`
	Version   uint32 `json:"version"`
}

// Secret is a key file's content, or a passphrase.
type Secret struct {
	Passphrase bool   `json:"passphrase"`
	Bytes      []byte `json:"bytes"`
}

// RotateRequest asks for a new key of a namespace, or, with Resume, to finish what was begun.
type RotateRequest struct {
	Namespace string `json:"namespace"`
	Resume    bool   `json:"resume"`
}

// Rotated says what a rotation did.
type Rotated struct {
	Objects int64 `json:"objects"` // looked at
	Changed int64 `json:"changed"` // whose data key was sealed anew
}

// KeyBackend is a Backend with encryption.
type KeyBackend interface {
	Keys(ctx context.Context) (Keys, error)
	RotateKey(ctx context.Context, r RotateRequest) (Rotated, error)
	// ChangeSecret makes another secret the one that is needed from now on.
	ChangeSecret(ctx context.Context, s Secret) (Keys, error)
}

// serveKeys adds what is about keys to mux, if b has them:
//
//	GET  /v1/keys                           Keys
//	POST /v1/keys/rotate   RotateRequest    Rotated
//	POST /v1/keys/secret   Secret           Keys
func serveKeys(mux *http.ServeMux, b Backend) {
	k, ok := b.(KeyBackend)
	if !ok {
		return
	}
	mux.HandleFunc("GET /v1/keys", answer(func(r *http.Request) (any, error) { return k.Keys(r.Context()) }))
	mux.HandleFunc("POST /v1/keys/rotate", answer(posted(k.RotateKey)))
	mux.HandleFunc("POST /v1/keys/secret", answer(posted(k.ChangeSecret)))
}

// Keys tells how things are with encryption.
func (c *Client) Keys(ctx context.Context) (k Keys, err error) {
	return k, c.call(ctx, http.MethodGet, "/v1/keys", nil, nil, &k)
}

// RotateKey gives a namespace a new key.
func (c *Client) RotateKey(ctx context.Context, q RotateRequest) (r Rotated, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/keys/rotate", nil, q, &r)
}

// ChangeSecret makes another secret the one that is needed.
func (c *Client) ChangeSecret(ctx context.Context, s Secret) (k Keys, err error) {
	return k, c.call(ctx, http.MethodPost, "/v1/keys/secret", nil, s, &k)
}
