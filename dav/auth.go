package dav

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// User is somebody who may use the server.
type User struct {
	Name string
	// ReadOnly users may read, and change nothing.
	ReadOnly bool

	hash  []byte // bcrypt, or nil
	plain string
}

// NewUser returns a user with a password, or with its bcrypt hash: what begins with "$2a$", "$2b$" or
// "$2y$" is taken for a hash.
func NewUser(name, secret string, readOnly bool) (User, error) {
	switch {
	case name == "" || strings.ContainsAny(name, ":\x00\r\n"):
		return User{}, fmt.Errorf("dav: %q cannot be a user's name", name)
	case secret == "":
		return User{}, fmt.Errorf("dav: the password of %q is empty", name)
	}
	u := User{Name: name, ReadOnly: readOnly}
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$"} {
		if strings.HasPrefix(secret, prefix) {
			if _, err := bcrypt.Cost([]byte(secret)); err != nil {
				return User{}, fmt.Errorf("dav: the password of %q looks like a bcrypt hash but is none: %w", name, err)
			}
			u.hash = []byte(secret)
			return u, nil
		}
	}
	u.plain = secret
	return u, nil
}

// maxPasswordFile bounds what ReadPasswordFile reads.
const maxPasswordFile = 4 << 10

// ReadPasswordFile returns the first line of a file: a password or a bcrypt hash.
func ReadPasswordFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("dav: password file: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPasswordFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("dav: password file: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(b) > maxPasswordFile {
		return "", fmt.Errorf("dav: password file %s: its first line must hold a password or a bcrypt hash, and it must not exceed %d bytes",
			name, maxPasswordFile)
	}
	return string(line), nil
}

// authenticator checks passwords. What a bcrypt hash has accepted once is remembered, under a random
// key and in memory only, because bcrypt is slow by design and clients send the password each time.
type authenticator struct {
	users map[string]*User
	salt  [32]byte
	slots chan struct{} // bounds how much of the machine guessing can take
	dummy []byte        // is compared for names that nobody has, to take as long

	mu    sync.Mutex
	known map[[32]byte]bool
}

const (
	bcryptSlots   = 2
	maxKnown      = 1024
	maxCredential = 1024 // bytes of name and of password
)

var errUnauthorized = fail(http.StatusUnauthorized, "a user name and password are required")

func newAuthenticator(users []User) (*authenticator, error) {
	a := &authenticator{users: map[string]*User{}, known: map[[32]byte]bool{}, slots: make(chan struct{}, bcryptSlots)}
	rand.Read(a.salt[:]) // never fails
	cost := 0
	for _, u := range users {
		if u.plain == "" && u.hash == nil {
			return nil, fmt.Errorf("dav: user %q has no password; see NewUser", u.Name)
		}
		if a.users[u.Name] != nil {
			return nil, fmt.Errorf("dav: there are two users %q", u.Name)
		}
		a.users[u.Name] = &u
		if c, err := bcrypt.Cost(u.hash); err == nil {
			cost = max(cost, c)
		}
	}
	if cost > 0 {
		var err error
		if a.dummy, err = bcrypt.GenerateFromPassword([]byte(rand.Text()), cost); err != nil {
			return nil, fmt.Errorf("dav: bcrypt: %w", err)
		}
	}
	return a, nil
}

// check returns who sent r.
func (a *authenticator) check(r *http.Request) (*User, error) {
	if len(a.users) == 0 {
		return &User{}, nil
	}
	name, password, ok := r.BasicAuth()
	if !ok || len(name) > maxCredential || len(password) > maxCredential {
		return nil, errUnauthorized
	}
	u := a.users[name]
	switch {
	case u == nil:
		ok = false
		if a.dummy != nil {
			_, err := a.compare(r, a.dummy, password)
			if err != nil {
				return nil, err
			}
		}
	case u.hash == nil:
		want, got := a.digest(name, u.plain), a.digest(name, password)
		ok = subtle.ConstantTimeCompare(want[:], got[:]) == 1
	default:
		var err error
		if ok, err = a.checkHash(r, u, password); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errUnauthorized
	}
	return u, nil
}

func (a *authenticator) checkHash(r *http.Request, u *User, password string) (bool, error) {
	key := a.digest(u.Name, password)
	a.mu.Lock()
	known := a.known[key]
	a.mu.Unlock()
	if known {
		return true, nil
	}
	ok, err := a.compare(r, u.hash, password)
	if ok {
		a.mu.Lock()
		if len(a.known) >= maxKnown {
			clear(a.known)
		}
		a.known[key] = true
		a.mu.Unlock()
	}
	return ok, err
}

func (a *authenticator) compare(r *http.Request, hash []byte, password string) (bool, error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-r.Context().Done():
		return false, r.Context().Err()
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	if err == nil || errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) || errors.Is(err, bcrypt.ErrPasswordTooLong) {
		return err == nil, nil
	}
	return false, err
}

func (a *authenticator) digest(name, password string) [32]byte {
	b := append(a.salt[:len(a.salt):len(a.salt)], name...)
	b = append(append(b, 0), password...)
	return sha256.Sum256(b)
}
