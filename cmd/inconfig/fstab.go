package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// fstabFlags are what fstab was asked for.
type fstabFlags struct {
	write     bool
	path      string
	cacheType string
}

func newFstab() *cobra.Command {
	var f fstabFlags
	cmd := &cobra.Command{
		Use:   "fstab FILESET [--write] [--fstab FILE] [--cache-type TYPE]",
		Short: "print the line of fstab for a fileset, or put it there",
		Long: `fstab prints the line of fstab(5) that lets mount(8) mount a fileset. With --write
it puts the line into the file, or corrects the one that is there, keeping the
options that were added to it.`,
		Args: positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return runFstab(cmd, args[0], f) },
	}
	cmd.Flags().BoolVar(&f.write, "write", false, "write it into the file")
	cmd.Flags().StringVar(&f.path, "fstab", config.DefaultFstab, "the file")
	cmd.Flags().StringVar(&f.cacheType, "cache-type", "", "file system of the cache: ext2, ext3, ext4, xfs, btrfs or tmpfs (default: what is found on the device)")
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

func runFstab(cmd *cobra.Command, name string, flags fstabFlags) error {
	s, c, err := load(cmd)
	if err != nil {
		return err
	}
	f, err := s.Config.Find(c, name)
	if err != nil {
		return err
	}
	kind := flags.cacheType
	if kind == "" {
		kind = config.CacheType(f.Device)
	}
	if !flags.write && !s.DryRun {
		line, err := config.FstabLine(*f, kind)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
		return err
	}
	do := config.WriteFstab
	if s.DryRun {
		do = config.PlanFstab
	}
	change, err := do(flags.path, *f, kind)
	if err != nil {
		return err
	}
	changes := slices.Collect(func(yield func(config.Change) bool) {
		if change != nil {
			yield(*change)
		}
	})
	return tell(cmd, s.DryRun, changes)
}
