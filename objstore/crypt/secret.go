package crypt

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// KDF says how the key of a keyring follows from a secret.
type KDF uint8

const (
	KeyFile    KDF = 1 // HKDF-SHA256 (RFC 5869) over the content of a file
	Passphrase KDF = 2 // argon2id (RFC 9106) over a passphrase
)

func (k KDF) String() string {
	switch k {
	case KeyFile:
		return "key file"
	case Passphrase:
		return "passphrase"
	}
	return fmt.Sprintf("kdf %d", uint8(k))
}

// Bounds of secrets.
const (
	MinKeyFile    = 32      // bytes; it should be random
	MaxKeyFile    = 1 << 20 // bytes
	MinPassphrase = 8       // bytes
	MaxPassphrase = 4 << 10 // bytes
)

// Secret is what a person keeps.
type Secret struct {
	Kind  KDF
	Bytes []byte
}

// Check reports what is wrong with s.
func (s Secret) Check() error {
	n := len(s.Bytes)
	switch {
	case s.Kind == KeyFile && (n < MinKeyFile || n > MaxKeyFile):
		return fmt.Errorf("a key file of %d bytes, allowed are %d to %d", n, MinKeyFile, MaxKeyFile)
	case s.Kind == Passphrase && (n < MinPassphrase || n > MaxPassphrase):
		return fmt.Errorf("a passphrase of %d bytes, allowed are %d to %d", n, MinPassphrase, MaxPassphrase)
	case s.Kind != KeyFile && s.Kind != Passphrase:
		return fmt.Errorf("no such kind of secret: %v", s.Kind)
	}
	return nil
}

// cost is what deriving a key from a passphrase takes.
type cost struct {
	time, memory uint32 // passes; KiB
	lanes        uint8
}

// The second recommendation of RFC 9106, section 4: for where 2 GiB are too much.
var usualCost = cost{time: 3, memory: 64 << 10, lanes: 4}

// What a keyring from outside may ask for.
var mostCost = cost{time: 64, memory: 1 << 20, lanes: 64}

func (c cost) check(k KDF) error {
	if k == KeyFile {
		if c != (cost{}) {
			return errors.New("a cost for a key file")
		}
		return nil
	}
	if c.time < 1 || c.time > mostCost.time || c.memory < 8*uint32(c.lanes) || c.memory > mostCost.memory || c.lanes < 1 || c.lanes > mostCost.lanes {
		return fmt.Errorf("argon2id of %d passes over %d KiB in %d lanes", c.time, c.memory, c.lanes)
	}
	return nil
}

const saltLen = 16

// derive returns the key of a keyring.
func (s Secret) derive(salt []byte, c cost) (k Key, err error) {
	if s.Kind == Passphrase {
		copy(k[:], argon2.IDKey(s.Bytes, salt, c.time, c.memory, c.lanes, KeyLen))
		return k, nil
	}
	b, err := hkdf.Key(sha256.New, s.Bytes, salt, "gabion keyring", KeyLen)
	copy(k[:], b)
	return k, err
}
