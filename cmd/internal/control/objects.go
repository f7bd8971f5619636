package control

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/gabionfs/gabion/objstore"
)

// objectsPath is where a handler serves objects as package objhttp does.
const objectsPath = "/v1/http"

// objectStore is an objhttp.Store.
type objectStore struct{ b Backend }

func (o objectStore) Namespace(ctx context.Context, name string, write bool) (objstore.Namespace, error) {
	return o.b.Namespace(ctx, name, write)
}

func (o objectStore) Sync(ctx context.Context) error { return o.b.KV().Sync(ctx) }

// Objects is a handler that serves the objects of the data directory over HTTP, as package objhttp does.
func (c *Client) Objects() http.Handler {
	return &httputil.ReverseProxy{
		Transport: c.http.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "gabion", Path: objectsPath})
		},
	}
}
