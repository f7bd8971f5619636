package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gabionfs/gabion/kv"
	"github.com/gabionfs/gabion/kv/cluster/clusterpb"
	"github.com/gabionfs/gabion/kv/cluster/identity"
)

// maxClients bounds the rows of clients. Those of revoked ones stay for ever.
const maxClients = 10_000

// NewClient notes a client in the directory and certifies it.
func (a adminServer) NewClient(ctx context.Context, r *clusterpb.NewClientRequest) (*clusterpb.NewClientResponse, error) {
	if err := identity.CheckName(r.Name); err != nil {
		return nil, toStatus(fmt.Errorf("%w: %w", ErrRefused, err))
	}
	n := a.n
	var ca *identity.CA
	err := n.inDirectory(ctx, func(tx kv.Txn) error {
		row, err := getClient(tx, r.Name)
		switch {
		case err != nil:
			return err
		case row.RevokedUnix != 0:
			return fmt.Errorf("%w: client %s was revoked, and its name is not given again", ErrRefused, r.Name)
		}
		row.Name, row.Admin = r.Name, row.Admin || r.Admin
		row.Issued, row.IssuedUnix = row.Issued+1, time.Now().Unix()
		if ca, err = authority(tx); err != nil {
			return err
		}
		return putClient(tx, row)
	})
	if err != nil {
		return nil, toStatus(err)
	}
	id := identity.ID{Cluster: ca.Cluster, Kind: identity.Client, Name: r.Name}
	if r.Admin {
		id.Kind = identity.Admin
	}
	creds, err := ca.New(id)
	if err != nil {
		return nil, toStatus(err)
	}
	bundle, err := (&identity.Bundle{Credentials: creds, Addrs: n.knownAddrs()}).Marshal()
	return &clusterpb.NewClientResponse{Bundle: bundle}, toStatus(err)
}

// getClient reads the row of a client, which is empty when there is none.
func getClient(r kv.Reader, name string) (*clusterpb.Client, error) {
	c := &clusterpb.Client{}
	_, err := getRow(r, ksClient, []byte(name), c)
	return c, err
}

// putClient writes the row of a client, if there may be that many.
func putClient(tx kv.Txn, c *clusterpb.Client) error {
	if _, err := tx.Get(ksClient, []byte(c.Name)); errors.Is(err, kv.ErrNotFound) {
		count := 0
		if err := tx.Range(ksClient, kv.Range{}, func(_, _ []byte) bool { count++; return true }); err != nil {
			return err
		}
		if count >= maxClients {
			return fmt.Errorf("%w: there are %d clients, more are not allowed", ErrRefused, maxClients)
		}
	}
	return putRow(tx, ksClient, []byte(c.Name), c)
}

func (a adminServer) ListClients(ctx context.Context, _ *clusterpb.ListClientsRequest) (*clusterpb.ListClientsResponse, error) {
	d, err := a.n.member(Directory)
	if err != nil {
		return nil, toStatus(a.n.redirect(Directory, err))
	}
	out := &clusterpb.ListClientsResponse{}
	err = d.View(ctx, kv.Linearizable, func(r kv.Reader) error {
		out.Clients = nil
		return eachRow(r, ksClient, func() *clusterpb.Client { return &clusterpb.Client{} }, func(_ string, c *clusterpb.Client) {
			out.Clients = append(out.Clients, c)
		})
	})
	return out, toStatus(a.n.redirect(Directory, err))
}

func (a adminServer) RevokeClient(ctx context.Context, r *clusterpb.RevokeClientRequest) (*clusterpb.RevokeClientResponse, error) {
	who, err := caller(ctx)
	if err == nil {
		err = identity.CheckName(r.Name)
	}
	switch {
	case err != nil:
		return nil, toStatus(fmt.Errorf("%w: %w", ErrRefused, err))
	case who.Kind != identity.Node && who.Name == r.Name:
		return nil, toStatus(fmt.Errorf("%w: %s cannot revoke itself: somebody else has to", ErrRefused, r.Name))
	}
	err = a.n.inDirectory(ctx, func(tx kv.Txn) error {
		row, err := getClient(tx, r.Name)
		switch {
		case err != nil:
			return err
		case row.RevokedUnix != 0:
			return nil
		case row.Name == "" && !r.Unknown:
			return fmt.Errorf("%w: %q", ErrNoClient, r.Name)
		}
		row.Name, row.RevokedUnix = r.Name, time.Now().Unix()
		return putClient(tx, row)
	})
	if err != nil {
		return nil, toStatus(err)
	}
	out := &clusterpb.RevokeClientResponse{}
	out.Unheard, err = a.n.spread(ctx, func(im *image) bool { return im.revoked[r.Name] })
	return out, toStatus(err)
}

// spread waits, for a while, until the other nodes act on what this node's directory shows when ok holds. It
// returns those that did not say so.
func (n *Node) spread(ctx context.Context, ok func(*image) bool) (unheard []string, err error) {
	im := n.image.Load()
	for changed := n.imageChanged(); !ok(im); changed = n.imageChanged() {
		if im = n.image.Load(); ok(im) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for end := time.Now().Add(askTimeout); ; {
		unheard = nil
		for id, r := range n.askAll(ctx, im) {
			if r.err != nil || r.status.DirectoryIndex < im.index {
				unheard = append(unheard, id)
			}
		}
		if len(unheard) == 0 || time.Now().After(end) || ctx.Err() != nil {
			slices.Sort(unheard)
			return unheard, nil
		}
		n.sleep(retryPause)
	}
}

// NewClient makes the bundle of a client, which may administer the cluster when admin is set. A name may be
// given several times; whoever has a bundle of it is the same client.
func (c *Client) NewClient(ctx context.Context, name string, admin bool) (bundle []byte, err error) {
	var out *clusterpb.NewClientResponse
	err = c.call(ctx, "new client "+name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.NewClient(ctx, &clusterpb.NewClientRequest{Name: name, Admin: admin})
		return err
	})
	return out.GetBundle(), err
}

// Clients lists the clients by name, revoked ones too.
func (c *Client) Clients(ctx context.Context) ([]*clusterpb.Client, error) {
	var out *clusterpb.ListClientsResponse
	err := c.call(ctx, "list clients", func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.ListClients(ctx, &clusterpb.ListClientsRequest{})
		return err
	})
	return out.GetClients(), err
}

// RevokeClient makes the cluster refuse a client, with whatever bundle of that name, for ever: each node from
// the moment when it hears of it. It returns the nodes that have not within a second or two. A name that was
// never given is ErrNoClient, unless unknown is set: clients that were made before the cluster kept a list are
// not on it.
func (c *Client) RevokeClient(ctx context.Context, name string, unknown bool) (unheard []string, err error) {
	var out *clusterpb.RevokeClientResponse
	err = c.call(ctx, "revoke client "+name, func(ctx context.Context, s clusterpb.ClusterClient, _ bool) (err error) {
		out, err = s.RevokeClient(ctx, &clusterpb.RevokeClientRequest{Name: name, Unknown: unknown})
		return err
	})
	return out.GetUnheard(), err
}
