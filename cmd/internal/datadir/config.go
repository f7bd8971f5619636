package datadir

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/gabionfs/gabion/objstore"
	"github.com/gabionfs/gabion/objstore/remote"
)

const (
	formatName  = "format"
	bundleName  = "cluster.pem"
	idName      = "identity.pem"
	keyringName = "keyring"
	placesName  = "disks"
	magic       = "gabion-data "
	version     = 2       // 1 has no Remote, and is what is written without one
	maxFormat   = 1 << 20 // bytes of a format file
)

// MaxASDs is the largest number of disks of one data directory.
const MaxASDs = 64

// State of a data directory.
type State string

const (
	Creating State = "creating" // nothing has been stored yet
	Ready    State = "ready"
)

// Config is what the format file keeps: how the directory was made. Which disks there are today is in
// the key-value store, which Remote names when it is not in the directory.
type Config struct {
	State    State             `json:"state"`
	Cluster  string            `json:"cluster"` // 32 hex digits, chosen at random
	Created  time.Time         `json:"created"`
	ASDs     []string          `json:"asds"` // folders of the first disks, relative to the directory when inside it, or their addresses
	Policies []objstore.Policy `json:"policies"`
	// Recovering: the key-value store is a new one in the place of one that was lost, and not all is in it yet that is to
	// be recovered from the disks.
	Recovering bool    `json:"recovering,omitempty"`
	Remote     *Remote `json:"remote,omitempty"`
}

// Remote is the store of a cluster that holds the metadata of a data directory's filesystem.
type Remote struct {
	Cluster string `json:"cluster"` // id of the cluster, 32 hex digits; not that of the disks
	Store   string `json:"store"`
	Owner   string `json:"owner"` // the name under which the store is used exclusively; never changes
}

// NewConfig returns the configuration of a new cluster, without disks and policies.
func NewConfig() Config {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return Config{Cluster: hex.EncodeToString(id[:]), Created: time.Now().UTC().Truncate(time.Second)}
}

// ASDName names the folder of the i-th disk, from 0, that is made inside a data directory.
func ASDName(i int) string { return fmt.Sprintf("asd-%02d", i+1) }

var clusterID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (c *Config) validate() error {
	if c.State != "" && c.State != Creating && c.State != Ready {
		return fmt.Errorf("unknown state %q", c.State)
	}
	if !clusterID.MatchString(c.Cluster) {
		return fmt.Errorf("cluster id %q is not 32 hex digits", c.Cluster)
	}
	if n := len(c.ASDs); n < 1 || n > MaxASDs {
		return fmt.Errorf("%d disks, 1 to %d are allowed", n, MaxASDs)
	}
	seen := make(map[string]bool)
	for _, a := range c.ASDs {
		if remote.IsAddress(a) {
			if at, err := remote.ParseAddress(a); err != nil || at.ASD.IsZero() {
				return fmt.Errorf("bad address of a disk %q", a)
			}
		} else if a == "" || filepath.Clean(a) != a || !(filepath.IsAbs(a) || filepath.IsLocal(a)) {
			return fmt.Errorf("bad disk folder %q", a)
		}
		if seen[a] {
			return fmt.Errorf("disk folder %s is given twice", a)
		}
		seen[a] = true
	}
	if len(c.Policies) == 0 {
		return errors.New("no policy")
	}
	for _, p := range c.Policies {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	if c.Remote != nil {
		return c.Remote.validate()
	}
	return nil
}

const (
	maxStore = 128 // bytes of a store's name; what is allowed in it is the cluster's business
	maxOwner = 256
)

func (r *Remote) validate() error {
	switch {
	case !clusterID.MatchString(r.Cluster):
		return fmt.Errorf("cluster id %q of the store is not 32 hex digits", r.Cluster)
	case len(r.Store) < 1 || len(r.Store) > maxStore:
		return fmt.Errorf("the store's name has %d bytes, 1 to %d are allowed", len(r.Store), maxStore)
	case len(r.Owner) < 1 || len(r.Owner) > maxOwner:
		return fmt.Errorf("the owner's name has %d bytes, 1 to %d are allowed", len(r.Owner), maxOwner)
	}
	return nil
}

func (c *Config) clone() Config {
	n := *c
	if c.Remote != nil {
		r := *c.Remote
		n.Remote = &r
	}
	n.ASDs = append([]string(nil), c.ASDs...)
	n.Policies = append([]objstore.Policy(nil), c.Policies...)
	return n
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(c Config) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	v := version
	if c.Remote == nil {
		v = 1
	}
	fmt.Fprintf(&b, "%s%d\n%s\n", magic, v, body)
	fmt.Fprintf(&b, "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes(), nil
}

// decode reads a format file. A version that is newer is ErrNewer, whatever follows it.
func decode(raw []byte) (Config, error) {
	var c Config
	if len(raw) > maxFormat {
		return c, fmt.Errorf("%w: %d bytes", ErrDamaged, len(raw))
	}
	head, rest, _ := bytes.Cut(raw, []byte("\n"))
	num, ok := bytes.CutPrefix(head, []byte(magic))
	if !ok {
		return c, fmt.Errorf("%w: no magic", ErrDamaged)
	}
	v, err := strconv.ParseUint(string(num), 10, 32)
	if err != nil || v == 0 {
		return c, fmt.Errorf("%w: version %q", ErrDamaged, num)
	}
	if v > version {
		return c, fmt.Errorf("%w: its format is %d, this program knows up to %d; use the newer program", ErrNewer, v, version)
	}
	body, sum, _ := bytes.Cut(rest, []byte("\n"))
	covered := raw[:min(len(head)+1+len(body)+1, len(raw))]
	if string(sum) != fmt.Sprintf("crc32c %08x\n", crc32.Checksum(covered, castagnoli)) {
		return c, fmt.Errorf("%w: the checksum does not match", ErrDamaged)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return Config{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return c, nil
}

// write replaces the format file durably.
func (d *Dir) write() error {
	raw, err := encode(d.Config)
	if err != nil {
		return err
	}
	return d.replace(formatName, raw)
}

// replace makes raw the content of the file of that name, durably: a crash leaves the old content or the
// new.
func (d *Dir) replace(name string, raw []byte) error {
	path := filepath.Join(d.Path, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return d.lock.Sync() // the directory itself
}
