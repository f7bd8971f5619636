package remote

import (
	"fmt"
	"strings"

	"github.com/gabionfs/gabion/kv/cluster/identity"
	"github.com/gabionfs/gabion/objstore/asd"
)

const scheme = "asd://"

// Address says where a disk of another process is. As a string it is asd://HOST:PORT/ID, ID being the 32
// hexadecimal digits that are written on the disk; without /ID it means all disks of the server.
type Address struct {
	Server string // host:port
	ASD    asd.ID // zero: all
}

func (a Address) String() string {
	if a.ASD.IsZero() {
		return scheme + a.Server
	}
	return scheme + a.Server + "/" + a.ASD.String()
}

// IsAddress tells an address from the path of a folder.
func IsAddress(s string) bool { return strings.HasPrefix(s, scheme) }

// ParseAddress is the inverse of String.
func ParseAddress(s string) (a Address, err error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return a, fmt.Errorf("%.100q is not the address of a disk: want asd://HOST:PORT/ID", s)
	}
	server, id, ok := strings.Cut(rest, "/")
	if err := identity.CheckAddr(server); err != nil || strings.ContainsAny(server, "/@?#") {
		return a, fmt.Errorf("%.300q is not the address of a disk: want asd://HOST:PORT/ID", s)
	}
	a.Server = server
	if ok && id != "" {
		if a.ASD, err = asd.ParseID(id); err == nil && (a.ASD.IsZero() || a.ASD.String() != id) {
			err = fmt.Errorf("%q is not an id", id)
		}
		if err != nil {
			return a, fmt.Errorf("address %s: %w", s, err)
		}
	}
	return a, nil
}
