package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gabionfs/gabion/cmd/internal/control"
	"github.com/gabionfs/gabion/objstore"
)

func newPreset(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preset",
		Short: "Say how objects are laid out: policies, compression, encryption, disks",
		Long: `A preset says how the objects of the namespaces that use it are laid out. It has
versions: an update is the next one, which new objects follow at once, in running
processes too, while those that are there stay as they were written.

The filesystem uses the preset "default", which "gabion up" makes. A preset that
makes no sense is refused; one that the present disks cannot satisfy is not, but
a warning says so.`,
		Example: `  gabion preset list
  gabion preset create archive --policy 8,3,10,11 --policy 4,2,5,6 --compression zstd
  gabion preset use archive backups
  gabion preset update default --compression none`,
	}
	cmd.AddCommand(newPresetList(e), newPresetShow(e), newPresetCreate(e), newPresetUpdate(e), newPresetUse(e))
	return cmd
}

func newPresetList(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the presets",
		Example: "  gabion preset list\n  gabion preset list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				all, err := c.Presets(cmd.Context())
				if err != nil {
					return err
				}
				return e.printTable(asJSON, all, "NAME\tVERSION\tPOLICIES\tFRAGMENT\tCOMPRESSION\tENCRYPTION\tUSED BY", func(w io.Writer) {
					for _, p := range all {
						fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Version, strings.Join(p.Policies, " "), size(int64(p.FragmentSize)),
							p.Compression, p.Encryption, orDash(strings.Join(p.Namespaces, ",")))
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newPresetShow(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a preset",
		Example: "  gabion preset show default\n  gabion preset show default --json",
		Args:    exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				all, err := c.Presets(cmd.Context())
				if err != nil {
					return err
				}
				i := slices.IndexFunc(all, func(p control.Preset) bool { return p.Name == args[0] })
				if i < 0 {
					return fmt.Errorf("preset %q: %w", args[0], objstore.ErrNotFound)
				}
				return e.printPreset(all[i], asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printPreset shows a preset, and warns of what the disks cannot satisfy.
func (e *env) printPreset(p control.Preset, asJSON bool) error {
	for _, w := range p.Warnings {
		fmt.Fprintf(e.err, "gabion: warning: preset %s: %s\n", p.Name, w)
	}
	if asJSON {
		return e.printJSON(p)
	}
	disks := "all"
	if len(p.Disks) > 0 {
		disks = strings.Trim(fmt.Sprint(p.Disks), "[]")
	}
	_, err := fmt.Fprintf(e.out, "name         %s\nversion      %d\npolicies     %s\nfragment     %s\ncompression  %s\nencryption   %s\nchecksum     %s\ndisks        %s\nused by      %s\n",
		p.Name, p.Version, strings.Join(p.Policies, " "), size(int64(p.FragmentSize)), p.Compression, p.Encryption, p.Checksum, disks,
		orDash(strings.Join(p.Namespaces, ", ")))
	return err
}

// presetFlags are what can be said about a preset.
type presetFlags struct {
	policies    []string
	fragment    string
	compression string
	encryption  string
	checksum    string
	disks       string
	asJSON      bool
}

func (f *presetFlags) add(cmd *cobra.Command, encryption bool) {
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringArrayVar(&f.policies, "policy", nil, "`k,m,c,x`; repeat it, best first")
	fl.StringVar(&f.fragment, "fragment", "", "most user data in a fragment, a `size` from 4KiB to 32MiB")
	fl.StringVar(&f.compression, "compression", "", "none, s2 or zstd")
	if encryption {
		fl.StringVar(&f.encryption, "encryption", "", "none or aes-256-gcm")
	}
	fl.StringVar(&f.checksum, "checksum", "", "crc32c, or blake3 for one of every chunk besides")
	fl.StringVar(&f.disks, "disks", "", "`numbers` of the only disks to use, such as 1,2,5; or all")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// change turns the flags that were given into a change of preset name.
func (f *presetFlags) change(cmd *cobra.Command, name string) (c control.PresetChange, err error) {
	c.Name = name
	given := cmd.Flags().Changed
	for _, s := range f.policies {
		if _, err := objstore.ParsePolicy(s); err != nil {
			return c, usagef("--policy: %w", err)
		}
		c.Policies = append(c.Policies, s)
	}
	if given("fragment") {
		n, err := parseSize(f.fragment)
		if err != nil || n < 4<<10 || n > 32<<20 {
			return c, usagef("--fragment %q: want a size from 4KiB to 32MiB", f.fragment)
		}
		size := int(n)
		c.FragmentSize = &size
	}
	if given("compression") {
		c.Compression = &f.compression
		if _, err := objstore.ParseCompression(f.compression); err != nil {
			return c, usagef("--compression: %w", err)
		}
	}
	if given("encryption") {
		c.Encryption = &f.encryption
		if _, err := objstore.ParseEncryption(f.encryption); err != nil {
			return c, usagef("--encryption: %w", err)
		}
	}
	if given("checksum") {
		c.Checksum = &f.checksum
		if _, err := objstore.ParseChecksum(f.checksum); err != nil {
			return c, usagef("--checksum: %w", err)
		}
	}
	if given("disks") {
		disks, err := parseDisks(f.disks)
		if err != nil {
			return c, usagef("--disks: %w", err)
		}
		c.Disks = &disks
	}
	return c, nil
}

// parseDisks reads "1,2,5", or "all", which is none.
func parseDisks(s string) ([]uint32, error) {
	disks := []uint32{}
	if s == "all" {
		return disks, nil
	}
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(f), 10, 32)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%q is not the number of a disk: `gabion asd list` shows them", f)
		}
		disks = append(disks, uint32(n))
	}
	return disks, nil
}

func newPresetCreate(e *env) *cobra.Command {
	var f presetFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a preset",
		Long: `Make a preset. What is not said is as in the preset of a new filesystem: policies
by the number of disks, fragments of at most 4 MiB, compression s2, no encryption,
checksum crc32c, all disks.

A policy is k,m,c,x: k data and m parity fragments, a write is acknowledged once c
are durable, at most x on one node. A write takes the first that the disks can meet.`,
		Example: `  gabion preset create fast --policy 1,1,2,2 --compression none --disks 1,2
  gabion preset create archive --policy 8,3,10,11 --policy 4,2,5,6 --compression zstd
  gabion preset create secret --encryption aes-256-gcm`,
		Args: exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changePreset(cmd, &f, args[0], (*control.Client).CreatePreset)
		},
	}
	f.add(cmd, true)
	return cmd
}

func newPresetUpdate(e *env) *cobra.Command {
	var f presetFlags
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Make the next version of a preset",
		Long: `Make the next version of a preset. What is not said stays as it is. Encryption never
changes: make another preset.`,
		Example: "  gabion preset update default --compression zstd\n  gabion preset update default --policy 4,2,5,6 --policy 2,1,2,3 --disks all",
		Args:    exactArgs("one name", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.changePreset(cmd, &f, args[0], (*control.Client).UpdatePreset)
		},
	}
	f.add(cmd, false)
	return cmd
}

func (e *env) changePreset(cmd *cobra.Command, f *presetFlags, name string, do func(*control.Client, context.Context, control.PresetChange) (control.Preset, error)) error {
	change, err := f.change(cmd, name)
	if err != nil {
		return err
	}
	return e.withClient(cmd.Context(), func(c *control.Client) error {
		p, err := do(c, cmd.Context(), change)
		if err != nil {
			return err
		}
		return e.printPreset(p, f.asJSON)
	})
}

func newPresetUse(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "use NAME NAMESPACE",
		Short: "Make a namespace follow a preset",
		Long: `Make new objects of a namespace follow a preset. A namespace that does not exist is
made. One that exists keeps its encryption: only a preset with the same will do.
The filesystem's own namespace is "fs".`,
		Example: "  gabion preset use archive backups",
		Args:    exactArgs("a preset and a namespace", 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.withClient(cmd.Context(), func(c *control.Client) error {
				p, err := c.AssignPreset(cmd.Context(), control.PresetAssign{Preset: args[0], Namespace: args[1]})
				if err != nil {
					return err
				}
				return e.printPreset(p, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
