package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore"
)

func newObject(e *env) *cobra.Command {
	var ns string
	cmd := &cobra.Command{
		Use:   "object",
		Short: "List, put, get and remove objects",
		Long: `Work with objects: immutable, named, erasure-coded. The filesystem keeps its
content in a namespace of its own, which can be listed and read; writing and
removing is for the other namespaces.`,
		Example: `  gabion object put backup.tar < backup.tar
  gabion object ls
  gabion object get backup.tar > copy.tar
  gabion object rm backup.tar
  gabion object serve`,
	}
	cmd.PersistentFlags().StringVarP(&ns, "namespace", "n", "user", "`name` of the namespace")
	cmd.AddCommand(newObjectLs(e, &ns), newObjectPut(e, &ns), newObjectGet(e, &ns), newObjectStat(e, &ns), newObjectRm(e, &ns), newObjectServe(e))
	return cmd
}

func newObjectLs(e *env, ns *string) *cobra.Command {
	var from, to string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List objects in order of their names",
		Long:    "List objects in order of their names: size, bytes stored on the disks, name. With --json, one object on a line.",
		Example: "  gabion object ls\n  gabion object ls --from b --to c --limit 10 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--limit %d: it must not be negative", limit)
			}
			w := bufio.NewWriter(e.out)
			err := e.withClient(cmd.Context(), func(c *control.Client) error {
				return c.ObjectList(cmd.Context(), *ns, from, to, limit, func(i objstore.Info) error {
					if asJSON {
						return writeJSONLine(w, i)
					}
					_, err := fmt.Fprintf(w, "%12d %12d  %s\n", i.Size, i.Stored, i.Name)
					return err
				})
			})
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first `name`")
	cmd.Flags().StringVar(&to, "to", "", "`name` to stop before")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most this `number` of objects")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newObjectPut(e *env, ns *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "put NAME [FILE]",
		Short:   "Store a file, or standard input, as a new object",
		Long:    "Store FILE, or standard input, as a new object. Objects never change: a name that is taken is refused.",
		Example: "  gabion object put backup.tar backup.tar\n  date | gabion object put now",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return fmt.Errorf("want a name and perhaps a file, got %d arguments", len(args))
			}
			return checkName(args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, n, done, err := e.source(args[1:])
			if err != nil {
				return err
			}
			defer done()
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				i, err := c.ObjectPut(cmd.Context(), *ns, args[0], r, n)
				if err != nil || !asJSON {
					return err
				}
				return e.printJSON(i)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// source opens what is to be stored, and finds out its size: a stream is copied to a temporary file.
func (e *env) source(args []string) (r io.Reader, n int64, done func(), err error) {
	var f *os.File
	if len(args) == 1 && args[0] != "-" {
		if f, err = os.Open(args[0]); err != nil {
			return nil, 0, nil, err
		}
	} else {
		var head bytes.Buffer
		if n, err = io.CopyN(&head, e.in, 1<<20); errors.Is(err, io.EOF) {
			return &head, n, func() {}, nil
		} else if err != nil {
			return nil, 0, nil, err
		}
		if f, err = os.CreateTemp("", "gabion-put-"); err != nil {
			return nil, 0, nil, err
		}
		os.Remove(f.Name())
		if _, err = io.Copy(f, io.MultiReader(&head, e.in)); err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
	}
	st, statErr := f.Stat()
	if err = errors.Join(err, statErr); err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, 0, nil, err
	}
	return f, st.Size(), func() { f.Close() }, nil
}

func checkName(name string) error {
	if n := len(name); n < 1 || n > objstore.MaxName {
		return fmt.Errorf("an object's name has 1 to %d bytes, not %d", objstore.MaxName, n)
	}
	return nil
}

// oneName is the check of commands that take the name of one object.
func oneName(cmd *cobra.Command, args []string) error {
	if err := exactArgs("one name", 1)(cmd, args); err != nil {
		return err
	}
	return checkName(args[0])
}

func newObjectGet(e *env, ns *string) *cobra.Command {
	return &cobra.Command{
		Use:     "get NAME",
		Short:   "Write the content of an object to standard output",
		Example: "  gabion object get backup.tar > backup.tar",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				_, err := c.ObjectGet(cmd.Context(), *ns, args[0], e.out)
				return err
			})
		},
	}
}

func newObjectStat(e *env, ns *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "stat NAME",
		Short:   "Describe an object",
		Example: "  gabion object stat backup.tar --json",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				i, err := c.ObjectStat(cmd.Context(), *ns, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return e.printJSON(i)
				}
				_, err = fmt.Fprintf(e.out, "name    %s\nid      %d\nsize    %d\nstored  %d\n", i.Name, i.ID, i.Size, i.Stored)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newObjectRm(e *env, ns *string) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Short:   "Remove an object",
		Example: "  gabion object rm backup.tar",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				return c.ObjectDelete(cmd.Context(), *ns, args[0])
			})
		},
	}
}
