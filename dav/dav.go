// Package dav serves a filesystem over WebDAV (RFC 4918, classes 1 and 2) and to browsers.
//
// It is golang.org/x/net/webdav with what that package lacks in front of it. x/net/webdav reads and
// writes the XML of properties and serves content with ranges, over a FileSystem, a LockSystem, dead
// properties and entity tags of ours; a new, small webdav.Handler is made for each request. Everything
// that changes the tree, and everything about locks and preconditions, is decided here.
//
// What a client may rely on:
//
//   - An answer of success means durable: the change survives power loss (unless Options.Relaxed).
//   - PUT replaces a file in one transaction, after its whole body has arrived. A connection that is
//     cut, a full disk or a failed precondition leaves the old content, always. A GET that runs meanwhile
//     delivers the old content or the new, never a mixture.
//   - MOVE is one transaction. COPY shares content by reference and appears whole or not at all.
//   - Preconditions (If, If-Match, If-None-Match, If-Unmodified-Since) hold at the moment of the change,
//     not only when the request arrived.
//   - Locks live in the store, so that they survive a restart. No change passes a lock whose token was
//     not submitted, neither on the resource nor above it nor, for whole trees, below it.
//
// Of the layers below it assumes the contracts of packages fs and kv, and that locks and files may live
// in different stores: what needs both is written so that a crash in between leaves garbage that the
// next start removes, never a wrong name.
//
// Names: a path is a sequence of names below the root; "..", NUL and names over 255 bytes are refused.
// Symbolic links are followed as long as they stay in the tree and do not lead back to a directory on
// the path to them; others, and special files, are not shown.
package dav

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/gabionfs/gabion/fs"
	"github.com/gabionfs/gabion/kv"
)

// Limits of what a client may send, and their defaults.
const (
	maxPath      = 4096    // bytes of a decoded path
	maxXML       = 1 << 20 // bytes of an XML body
	maxXMLDepth  = 64      // elements inside each other
	maxOwner     = 16 << 10
	maxIfLists   = 256 // lists in an If header
	bufferSize   = 256 << 10
	defaultLocks = 1 << 16

	defaultLockTimeout = time.Hour
)

// Options says what to serve and how.
type Options struct {
	// FS is the tree, KV the store in which locks and unfinished copies are kept. Both are required.
	FS fs.FS
	KV kv.Store
	// Logger takes one record per request at level debug, and failures of the layers below at level
	// error. Nil discards.
	Logger *slog.Logger
	// Prefix is the path under which the tree appears, as in "/dav". Empty means the root.
	Prefix string
	// Users may use the server. None: everybody may, without a password, and Listen binds only to
	// loopback addresses.
	Users []User
	// Owner owns what is created. Nil means the user and group of this process.
	Owner *fs.Cred
	// Hosts are names, other than localhost, by which clients without a password may call the server. A
	// request for another name is refused, because a web page could make a browser send it.
	Hosts []string
	// MaxLockTimeout caps how long a lock lives without being refreshed. 0 means one hour.
	MaxLockTimeout time.Duration
	// MaxLocks is how many locks there may be. 0 means 65536.
	MaxLocks int
	// Relaxed answers before a change is durable. It becomes so within the store's batching window, in
	// order.
	Relaxed bool
}

// Handler is the http.Handler. Safe for concurrent use.
type Handler struct {
	fs      fs.FS
	kv      kv.Store
	log     *slog.Logger
	prefix  string
	owner   fs.Cred
	hosts   []string
	relaxed bool
	auth    *authenticator
	locks   *lockTable
	claims  claims
	readers readers
	now     func() time.Time
}

// New returns a handler over o.FS, after finishing what an earlier process left unfinished.
func New(ctx context.Context, o Options) (*Handler, error) {
	if o.FS == nil || o.KV == nil {
		return nil, errors.New("dav: Options.FS and Options.KV are required")
	}
	if p := o.Prefix; p != "" && (p[0] != '/' || strings.HasSuffix(p, "/") || strings.Contains(p, "//")) {
		return nil, fmt.Errorf("dav: prefix %q must begin with a slash and must not end with one", p)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Owner == nil {
		o.Owner = &fs.Cred{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	}
	if o.MaxLockTimeout <= 0 {
		o.MaxLockTimeout = defaultLockTimeout
	}
	if o.MaxLocks <= 0 {
		o.MaxLocks = defaultLocks
	}
	auth, err := newAuthenticator(o.Users)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		fs: o.FS, kv: o.KV, log: o.Logger, prefix: o.Prefix, owner: *o.Owner, hosts: o.Hosts,
		relaxed: o.Relaxed, auth: auth, now: time.Now,
	}
	h.readers.fs = o.FS
	h.locks = &lockTable{kv: o.KV, max: o.MaxLocks, maxTimeout: o.MaxLockTimeout}
	if err := h.locks.open(ctx, h.now()); err != nil {
		return nil, fmt.Errorf("dav: reading locks: %w", err)
	}
	if err := h.recoverStages(ctx); err != nil {
		return nil, fmt.Errorf("dav: removing unfinished copies: %w", err)
	}
	return h, nil
}

// HasUsers reports whether a password is required.
func (h *Handler) HasUsers() bool { return len(h.auth.users) > 0 }
