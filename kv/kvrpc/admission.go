package kvrpc

import (
	"fmt"
	"strings"
)

// refusedAlert is how a TLS peer says that it does not accept our certificate. It arrives after our side of
// the handshake is done, as the reason for which the connection ended.
const refusedAlert = "remote error: tls: bad certificate"

// broken makes the error of a connection to addr that could not be made or that broke. It matches ErrDenied
// when waiting is of no use: since a member last admitted us, every known one was tried and none did, and more
// than one, if there are more, has refused our certificate. A single one could be of another cluster by
// now, while ours is down.
func (c *Client) broken(addr string, cause error) error {
	err := &connectionError{cause}
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(cause.Error(), refusedAlert) {
		c.shut[addr] = true
	} else if !c.shut[addr] {
		c.shut[addr] = false
	}
	refused := 0
	for _, a := range c.known {
		r, tried := c.shut[a]
		if !tried {
			return err
		}
		if r {
			refused++
		}
	}
	if refused < min(2, len(c.known)) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDenied, err)
}

// admitted notes that a member has accepted our certificate.
func (c *Client) admitted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.shut)
}
