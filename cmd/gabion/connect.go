package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/cmd/internal/node"
)

// withClient calls fn with a client of the process that runs on the data directory. When none runs, it
// opens the directory itself for as long as fn takes.
func (e *env) withClient(ctx context.Context, fn func(*control.Client) error) (err error) {
	c, err := control.Dial(ctx, e.data)
	if err == nil {
		return errors.Join(fn(c), c.Close())
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	d, err := datadir.Open(e.data)
	if err != nil {
		return e.explain(err)
	}
	secret, err := (&secretFlags{}).read(e)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	log := slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: slog.LevelError}))
	n, err := node.Open(ctx, d, node.Options{Logger: log, Version: buildVersion(), Quiet: true, Secret: secret})
	if err != nil {
		return errors.Join(err, d.Close())
	}
	c = control.Local(n)
	return errors.Join(fn(c), c.Close(), n.Close(), d.Close())
}

// explain adds to an error of the data directory what to do about it.
func (e *env) explain(err error) error {
	switch {
	case errors.Is(err, datadir.ErrAbsent):
		return fmt.Errorf("%w; `gabion up --data %s` makes a new one", err, e.data)
	case errors.Is(err, datadir.ErrForeign) && exists(filepath.Join(e.data, "node.pem")):
		return fmt.Errorf("%s is the directory of a node, not of a filesystem: for its cluster's stores, give --cluster %s and --store NAME to `gabion kv`", e.data, e.data)
	case errors.Is(err, datadir.ErrInUse):
		return fmt.Errorf("%w, which does not answer yet: it is starting or stopping", err)
	}
	return err
}
