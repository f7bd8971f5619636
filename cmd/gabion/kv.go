package main

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/cmd/internal/kvaccess"
	"github.com/gabionfs/gabion/kv"
)

// kvFlags are those of every kv command.
type kvFlags struct {
	keyspace string
	hex      bool
	json     bool
	unsafe   bool
	cluster  string
	store    string
	timeout  time.Duration
}

func newKV(e *env) *cobra.Command {
	var f kvFlags
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Read and write the key-value store",
		Long: `Read and write a replicated key-value store: that of the filesystem in --data, or
with --cluster and --store one of a cluster of several machines.

--cluster takes the file that "gabion cluster client" makes, or the data directory
of a node. GABION_CLUSTER is its default, unless --data is given.

Keys and values are taken as they are typed, or as hexadecimal digits with
--hex. The keyspaces of a filesystem can be read; writing to a keyspace whose
name does not begin with "user" needs --unsafe where a filesystem is, since it
can destroy it.

Exit codes: 0 success, 1 failure (also: the key is absent, an assert does not
hold), 2 bad usage.`,
		Example: `  gabion kv set colour blue
  gabion kv get colour
  gabion kv range --prefix co
  printf 'assert colour blue\nset colour green\n' | gabion kv sequence
  gabion kv --cluster client.pem --store app set colour blue`,
	}
	fl := cmd.PersistentFlags()
	fl.StringVarP(&f.keyspace, "keyspace", "s", "user", "`name` of the keyspace")
	fl.BoolVar(&f.hex, "hex", false, "keys and values are hexadecimal digits")
	fl.BoolVar(&f.json, "json", false, "print JSON, with keys and values in base64")
	fl.BoolVar(&f.unsafe, "unsafe", false, "write to any keyspace")
	fl.StringVar(&f.cluster, "cluster", "", "`file` of a client, or directory of a node (default $GABION_CLUSTER)")
	fl.StringVar(&f.store, "store", "", "`name` of the store of the cluster")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "give up after this `time`, with the reason; not for watch, backup, restore and verify")
	cmd.AddCommand(
		newKVGet(e, &f), newKVExists(e, &f), newKVSet(e, &f), newKVDelete(e, &f), newKVTestAndSet(e, &f), newKVReplace(e, &f),
		newKVConfirm(e, &f), newKVRange(e, &f), newKVCount(e, &f), newKVDeletePrefix(e, &f), newKVSequence(e, &f),
		newKVCall(e, &f), newKVWatch(e, &f), newKVState(e, &f), newKVStats(e, &f), newKVPing(e, &f),
		newKVBackup(e, &f), newKVRestore(e, &f), newKVVerify(e, &f))
	return cmd
}

func (f *kvFlags) bytes(s string) ([]byte, error) {
	if !f.hex {
		return []byte(s), nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, usagef("%q is not hexadecimal", s)
	}
	return b, nil
}

// allBytes is bytes of each of args.
func (f *kvFlags) allBytes(args []string) ([][]byte, error) {
	out := make([][]byte, len(args))
	for i, a := range args {
		var err error
		if out[i], err = f.bytes(a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// show is the inverse of bytes; without --hex what does not print is escaped as in Go.
func (f *kvFlags) show(b []byte) string {
	if f.hex {
		return hex.EncodeToString(b)
	}
	q := strconv.Quote(string(b))
	if q[1:len(q)-1] == string(b) && !strings.ContainsAny(string(b), " \t") && len(b) > 0 {
		return string(b)
	}
	return q
}

// raw is a value for standard output: as it is, or in digits.
func (f *kvFlags) raw(b []byte) []byte {
	if f.hex {
		b = []byte(hex.EncodeToString(b))
	}
	return append(b[:len(b):len(b)], '\n')
}

// remote reports whether the command is about a store of a cluster, and checks the flags that say so.
func (f *kvFlags) remote(e *env) (bool, error) {
	if f.timeout <= 0 {
		return false, usagef("--timeout %v: it must be above 0", f.timeout)
	}
	if f.cluster == "" && e.defaultData {
		f.cluster = e.lookup("GABION_CLUSTER")
	}
	switch {
	case f.cluster != "" && !e.defaultData && e.lookup("GABION_DATA") == "":
		return false, usagef("--cluster and --data exclude each other: the store of a cluster, or that of a data directory")
	case f.cluster == "" && f.store != "":
		return false, usagef("--store %s: give the cluster as well, with --cluster", f.store)
	}
	return f.cluster != "", nil
}

// with calls fn with the store that the flags name.
func (f *kvFlags) with(e *env, ctx context.Context, fn func(context.Context, kvaccess.Store) error) error {
	remote, err := f.remote(e)
	if err != nil {
		return err
	}
	if !remote {
		return e.withClient(ctx, func(c *control.Client) error { return fn(ctx, kvaccess.Local(c)) })
	}
	c, err := e.dialCluster(ctx, f.cluster)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.store(ctx, f.store)
	if err != nil {
		return err
	}
	return errors.Join(c.explain(ctx, fn(ctx, s)), s.Close())
}

// run is with, bounded by --timeout.
func (f *kvFlags) run(e *env, cmd *cobra.Command, fn func(context.Context, kvaccess.Store) error) error {
	return f.with(e, cmd.Context(), func(ctx context.Context, s kvaccess.Store) error {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		return fn(ctx, s)
	})
}

// apply runs steps and returns what came of them. It refuses to write where a filesystem keeps its metadata.
func (f *kvFlags) apply(e *env, cmd *cobra.Command, steps []kv.Step) (a kvaccess.Applied, err error) {
	protected := !f.unsafe && !strings.HasPrefix(f.keyspace, "user")
	refusal := usagef("keyspace %q may belong to the filesystem: to write to it all the same, give --unsafe", f.keyspace)
	remote, err := f.remote(e)
	if err != nil {
		return a, err
	}
	if protected && !remote {
		return a, refusal
	}
	err = f.run(e, cmd, func(ctx context.Context, s kvaccess.Store) error {
		if protected { // most stores of clusters hold none
			if fs, err := kvaccess.HoldsFilesystem(ctx, s); err != nil {
				return err
			} else if fs {
				return refusal
			}
		}
		a, err = s.Apply(ctx, steps)
		return err
	})
	return a, err
}
