package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore/crypt"
)

// secretFlags name the file with the secret that opens what is encrypted.
type secretFlags struct {
	keyFile, passphraseFile string
}

func (f *secretFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.keyFile, "key-file", "", "`file` that is the key of an encrypted filesystem (default $GABION_KEY_FILE)")
	cmd.Flags().StringVar(&f.passphraseFile, "passphrase-file", "", "`file` whose first line is its passphrase (default $GABION_PASSPHRASE_FILE)")
}

// read reads the secret; nil when none is given. The environment stands in for flags that are not.
func (f *secretFlags) read(e *env) (*crypt.Secret, error) {
	key, pass := f.keyFile, f.passphraseFile
	if key == "" && pass == "" {
		key, pass = e.lookup("GABION_KEY_FILE"), e.lookup("GABION_PASSPHRASE_FILE")
	}
	switch {
	case key != "" && pass != "":
		return nil, usagef("a key file and a passphrase exclude each other: give one")
	case key != "":
		return readSecret(crypt.KeyFile, key)
	case pass != "":
		return readSecret(crypt.Passphrase, pass)
	}
	return nil, nil
}

func readSecret(kind crypt.KDF, path string) (*crypt.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", kind, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, crypt.MaxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", kind, err)
	}
	if kind == crypt.Passphrase {
		raw, _, _ = bytes.Cut(raw, []byte("\n"))
		raw = bytes.TrimRight(raw, "\r")
	}
	s := &crypt.Secret{Kind: kind, Bytes: raw}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func newKey(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "The keys of an encrypted filesystem",
		Long: `A filesystem that was made with "gabion up --key-file" or "--passphrase-file" is
encrypted: what is on the disks and in the metadata says nothing about the content
of files to who has neither. Names, sizes and times are not hidden.

The file or passphrase opens a keyring; the keyring holds a key for each namespace,
and that seals a key for each object. So the secret can be changed at once, and a
namespace's key replaced without rewriting content. Disks are repaired and checked
without any key. What opens the filesystem cannot be found out again when it is
lost: keep a copy.

Commands on a filesystem that is not running take it from GABION_KEY_FILE or
GABION_PASSPHRASE_FILE where they need it.`,
		Example: `  gabion key new /root/gabion.key
  gabion up --data /srv/gabion --key-file /root/gabion.key --mount /mnt
  gabion key rotate`,
	}
	cmd.AddCommand(newKeyNew(e), newKeyShow(e), newKeyRotate(e), newKeyChange(e))
	return cmd
}

func newKeyNew(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "new FILE",
		Short:   "Make a random key file",
		Long:    `Make a file that holds 256 random bits, readable by its owner only. A file that exists is left alone.`,
		Example: "  gabion key new /root/gabion.key",
		Args:    exactArgs("one file", 1),
		RunE: func(_ *cobra.Command, args []string) error {
			var key [32]byte
			if _, err := rand.Read(key[:]); err != nil {
				return err
			}
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(f, hex.EncodeToString(key[:]))
			if err == nil {
				err = f.Sync()
			}
			if err = errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(args[0])) // a part of a key is none
			}
			return syncFolder(filepath.Dir(args[0]))
		},
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (e *env) printKeys(k control.Keys, asJSON bool) error {
	if asJSON {
		return e.printJSON(k)
	}
	if !k.Present {
		_, err := fmt.Fprintln(e.out, "nothing is encrypted")
		return err
	}
	state := "locked"
	if k.Unlocked {
		state = "unlocked"
	}
	fmt.Fprintf(e.out, "%s, opens with a %s\n", state, k.Secret)
	for _, n := range k.Namespaces {
		fmt.Fprintf(e.out, "namespace %s: key %d\n", n.Namespace, n.Version)
	}
	return nil
}

func newKeyShow(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show what is encrypted, and whether it is unlocked",
		Example: "  gabion key show\n  gabion key show --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				k, err := c.Keys(cmd.Context())
				if err != nil {
					return err
				}
				return e.printKeys(k, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newKeyRotate(e *env) *cobra.Command {
	var asJSON, resume bool
	cmd := &cobra.Command{
		Use:   "rotate [NAMESPACE]",
		Short: "Give a namespace a new key",
		Long: `Give a namespace (default: that of the filesystem, fs) a new key, and seal the keys of
all its objects with it. The content is not written again. The filesystem is used
meanwhile. When it is cut off everything can still be read; --resume does the rest.

The old key stays in the keyring, sealed: what lies beside the fragments, from which
lost metadata is rebuilt, was sealed with it.`,
		Example: "  gabion key rotate\n  gabion key rotate backups\n  gabion key rotate --resume",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.RotateRequest{Namespace: "fs", Resume: resume}
			if len(args) > 0 {
				q.Namespace = args[0]
			}
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				r, err := c.RotateKey(cmd.Context(), q)
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(r)
				}
				_, err = fmt.Fprintf(e.out, "%d objects, the keys of %d sealed anew\n", r.Objects, r.Changed)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&resume, "resume", false, "go on with a rotation that was cut off, without another key")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newKeyChange(e *env) *cobra.Command {
	var file, passphrase string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "change",
		Short: "Make another key file or passphrase the one that is needed",
		Long: `Make another key file, or another passphrase, the one that is needed from now on; the
old one is good for nothing but old copies of the metadata any more. It takes no
longer than a moment.`,
		Example: "  gabion key change --to-key-file /root/new.key\n  gabion key change --to-passphrase-file /root/passphrase",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (file == "") == (passphrase == "") {
				return usagef("give --to-key-file or --to-passphrase-file")
			}
			f := secretFlags{keyFile: file, passphraseFile: passphrase}
			s, err := f.read(e)
			if err != nil {
				return err
			}
			return e.changeSecret(cmd.Context(), s, asJSON)
		},
	}
	cmd.Flags().StringVar(&file, "to-key-file", "", "the new key `file`")
	cmd.Flags().StringVar(&passphrase, "to-passphrase-file", "", "`file` whose first line is the new passphrase")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (e *env) changeSecret(ctx context.Context, s *crypt.Secret, asJSON bool) error {
	return e.withClient(ctx, func(c *control.Client) error {
		k, err := c.ChangeSecret(ctx, control.Secret{Passphrase: s.Kind == crypt.Passphrase, Bytes: s.Bytes})
		if err != nil {
			return err
		}
		return e.printKeys(k, asJSON)
	})
}
