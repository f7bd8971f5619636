package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/daemon"
	"github.com/gabionfs/gabion/cmd/internal/datadir"
	"github.com/gabionfs/gabion/dav"
	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore"
)

type upFlags struct {
	mount        string
	dav          string
	davUser      string
	davPassword  string
	asds         int
	asdDirs      []string
	identity     string
	policies     []string
	memory       string
	pprof        string
	level        string
	allowOther   bool
	noAllowOther bool
	cluster      string
	store        string
	steal        bool
	secret       secretFlags
	cache        cacheFlags
	compaction   compactionFlags
}

func newUp(e *env) *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the filesystem: mount it and serve WebDAV, until interrupted",
		Long: `Run the filesystem in the foreground: open the data directory, or create it when
it is missing or empty, mount it, serve it over WebDAV, and print one line when
everything is ready:

  ready: mount=/path dav=http://127.0.0.1:8080/ data=/path

A part that is off is shown as "-". SIGINT or SIGTERM writes everything out,
unmounts and exits 0; a second one exits at once, losing only what was not
fsynced. Messages go to standard error.

Without --mount it serves WebDAV only. Without /dev/fuse it says so and does the
same.

The number of disks and the policies are chosen when the data directory is
created, and kept. Later, --asd adds a disk, or claims an empty folder as a new
disk in the place of one that was lost; a disk that is missing or damaged is
reported and never prevents the start.

A disk that another process serves, see "gabion asd serve", is given by its address:
--asd asd://HOST:PORT/ID, or without /ID all disks of that process that are free.
They are claimed for this filesystem. With --identity the first time, it is known who
asks.

The metadata is kept in the data directory, or with --cluster and --store in a store
of a cluster of several machines, which survives the loss of some of them; the disks
and the mount stay on this machine. The data directory remembers the store. One
process at a time uses a store in this way; after a crash the same data directory
takes it again at once. --steal takes it from another one that is gone for good.

With --key-file or --passphrase-file a new filesystem is encrypted, for ever: the
content of files, never their names. The same is needed at every start; without it
the content cannot be read by anyone. "gabion key new FILE" makes a key file.

With --cache what is read or written of disks that are slow or far is kept in a folder on a
fast one as well, up to --cache-size, and serves again after a restart. Of disks of other
processes something is kept in memory without it. It is only a copy: it may be lost or
damaged, and the folder may be removed while nothing runs.

What was deleted takes space on a disk until that is compacted: whenever it pays, or
with --compaction scheduled between two times of the day, or with manual only by "gabion
asd compact". A disk that is full is compacted all the same.

A policy is k,m,c,x: k data and m parity fragments, a write is acknowledged once
c are durable, at most x on one node. Repeat --policy for fallbacks, best first.`,
		Example: `  gabion up --mount /mnt/gabion
  gabion up --data /srv/gabion --asds 4 --policy 2,2,3,4 --dav off --mount /mnt/gabion
  gabion up --data /srv/gabion --asd /disk1/asd --asd /disk2/asd --asd /disk3/asd
  gabion up --data /srv/gabion --asd asd://10.0.0.1:7100 --asd asd://10.0.0.2:7100 --identity home.pem
  gabion up --data /srv/gabion --asd asd://10.0.0.1:7100 --cache /nvme/gabion-cache --cache-size 100GiB
  gabion up --data /srv/gabion --cluster home.pem --store home --mount /home
  gabion up --data /srv/gabion --key-file /root/gabion.key --mount /mnt/gabion
  gabion up --dav 0.0.0.0:8080 --dav-user anna --dav-password-file /etc/gabion/password`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(e, cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), o)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.mount, "mount", "", "`directory` to mount the filesystem on")
	fl.StringVar(&f.dav, "dav", "127.0.0.1:8080", "`address` to serve WebDAV on, or off")
	fl.StringVar(&f.davUser, "dav-user", "", "user `name` that WebDAV clients must give")
	fl.StringVar(&f.davPassword, "dav-password-file", "", "`file` whose first line is that user's password, or a bcrypt hash of it")
	fl.IntVar(&f.asds, "asds", 0, "`number` of disks to make inside a new data directory, 1 to 64 (default 6)")
	fl.StringArrayVar(&f.asdDirs, "asd", nil, "`folder` to use as a disk, or address of a disk of another process; repeat it")
	fl.StringVar(&f.identity, "identity", "", "`file` of a client or node to show to those processes (default: the one from before, or --cluster)")
	fl.StringArrayVar(&f.policies, "policy", nil, "`k,m,c,x`; repeat it, best first (default: by the number of disks)")
	fl.StringVar(&f.cluster, "cluster", "", "`file` that \"gabion cluster client\" made: keep the metadata on that cluster")
	fl.StringVar(&f.store, "store", "", "`name` of the store of the cluster")
	fl.BoolVar(&f.steal, "steal", false, "take the store from whoever holds it, who loses what was not fsynced")
	f.secret.add(cmd)
	f.cache.add(cmd)
	f.compaction.add(cmd)
	fl.BoolVar(&f.allowOther, "allow-other", false, "let other users use the mount (as root the default)")
	fl.BoolVar(&f.noAllowOther, "no-allow-other", false, "keep other users out of the mount")
	fl.StringVar(&f.memory, "memory", "400MiB", "soft `limit` of the process's heap")
	fl.StringVar(&f.pprof, "pprof", "", "loopback `address` to serve net/http/pprof on")
	fl.StringVar(&f.level, "log-level", "warn", "debug, info, warn or error")
	cmd.MarkFlagsMutuallyExclusive("allow-other", "no-allow-other")
	return cmd
}

// options turns the flags into the daemon's options, or says what is wrong with them.
func (f *upFlags) options(e *env, changed func(string) bool) (daemon.Options, error) {
	o := daemon.Options{
		Data: e.data, Mount: f.mount, DAVUser: f.davUser, Version: buildVersion(), Out: e.out, Err: e.err,
		AllowOther: f.allowOther || os.Getuid() == 0 && !f.noAllowOther,
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return o, usagef("--log-level %q: it is one of debug, info, warn, error", f.level)
	}
	o.Logger = slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: level}))

	if changed("asds") {
		if f.asds < 1 || f.asds > datadir.MaxASDs {
			return o, usagef("--asds %d: it must lie between 1 and %d", f.asds, datadir.MaxASDs)
		}
		if len(f.asdDirs) > 0 {
			return o, usagef("--asds and --asd exclude each other: give a number, or the folders")
		}
		o.ASDs = f.asds
	}
	if len(f.asdDirs) > datadir.MaxASDs {
		return o, usagef("%d folders with --asd: at most %d are allowed", len(f.asdDirs), datadir.MaxASDs)
	}
	seen := make(map[string]bool)
	for _, dir := range f.asdDirs {
		abs, err := diskPlace(dir)
		if err != nil {
			return o, usagef("--asd %q: %w", dir, err)
		}
		if seen[abs] {
			return o, usagef("--asd %s is given twice", dir)
		}
		seen[abs] = true
		o.ASDDirs = append(o.ASDDirs, abs)
	}
	o.Identity = f.identity
	for _, s := range f.policies {
		p, err := objstore.ParsePolicy(s)
		if err != nil {
			return o, usagef("--policy: %w", err)
		}
		o.Policies = append(o.Policies, p)
	}
	if err := f.storeOptions(&o); err != nil {
		return o, err
	}
	secret, err := f.secret.read(e)
	if err != nil {
		return o, err
	}
	o.Secret = secret
	if o.Cache, err = f.cache.options(changed); err != nil {
		return o, err
	}
	if o.Compaction, err = f.compaction.options(changed); err != nil {
		return o, err
	}
	if changed("mount") && f.mount == "" {
		return o, usagef("--mount is empty")
	}
	if err := f.davOptions(&o); err != nil {
		return o, err
	}
	if f.pprof != "" {
		if !loopback(f.pprof) {
			return o, usagef("--pprof %s: only loopback addresses are allowed, such as 127.0.0.1:6060", f.pprof)
		}
		o.PProf = f.pprof
	}
	limit, err := parseSize(f.memory)
	if err != nil || limit < 64<<20 {
		return o, usagef("--memory %q: want a size of at least 64MiB, such as 400MiB or 1GiB", f.memory)
	}
	o.Memory = limit
	if o.Mount == "" && o.DAV == "" {
		return o, usagef("nothing to serve: give --mount DIR, or leave --dav on")
	}
	return o, nil
}

// storeOptions are about where the metadata is kept.
func (f *upFlags) storeOptions(o *daemon.Options) error {
	c, probed := datadir.Probe(o.Data)
	remembered := probed == nil && c.Remote != nil
	switch {
	case f.store != "" && f.cluster == "" && !remembered:
		return usagef("--store %s: give the cluster as well, with --cluster", f.store)
	case f.cluster != "" && f.store == "" && !remembered:
		return usagef("--cluster: give the store as well, with --store; `gabion cluster store create` makes one")
	case f.steal && f.cluster == "" && !remembered:
		return usagef("--steal makes no sense without --cluster and --store")
	}
	if f.store != "" {
		if err := identity.CheckName(f.store); err != nil {
			return usagef("--store: %w", err)
		}
	}
	o.Cluster, o.Store, o.Steal = f.cluster, f.store, f.steal
	return nil
}

func (f *upFlags) davOptions(o *daemon.Options) error {
	if f.dav == "off" {
		if f.davUser != "" || f.davPassword != "" {
			return usagef("--dav-user and --dav-password-file make no sense with --dav off")
		}
		return nil
	}
	host, port, err := net.SplitHostPort(f.dav)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return usagef("--dav %q: want an address such as 127.0.0.1:8080 or :8080, or off", f.dav)
	}
	if (f.davUser == "") != (f.davPassword == "") {
		return usagef("--dav-user and --dav-password-file belong together")
	}
	if f.davPassword == "" && !loopback(f.dav) {
		return usagef("--dav %s would serve everyone who can reach it: give --dav-user and --dav-password-file, or a loopback address", f.dav)
	}
	if f.davPassword != "" {
		if o.DAVPassword, err = dav.ReadPasswordFile(f.davPassword); err != nil {
			return fmt.Errorf("--dav-password-file: %w", err)
		}
	}
	o.DAV = net.JoinHostPort(host, port)
	return nil
}

// loopback reports whether an address can only be reached from this machine.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// parseSize reads bytes with an optional unit: 400MiB, 1GiB, 65536; k, M, G mean the binary units too.
func parseSize(s string) (int64, error) {
	num := strings.TrimRight(s, "KMGTiBkb")
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	shift, ok := map[string]uint{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30, "t": 40, "tib": 40, "tb": 40}[strings.ToLower(s[len(num):])]
	if !ok || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return n << shift, nil
}
