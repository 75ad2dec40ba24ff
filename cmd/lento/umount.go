package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

type umountFlags struct {
	force, lazy, readOnly, fake, verbose bool
}

func (u *umountFlags) add(f *pflag.FlagSet) {
	f.BoolVarP(&u.force, "force", "f", false, "fail what is under way; for a presto that hangs")
	f.BoolVarP(&u.lazy, "lazy", "l", false, "take it out of the tree at once, end it when nobody uses it")
	f.BoolVarP(&u.readOnly, "read-only", "r", false, "if it is busy, make it read-only instead")
	f.BoolVar(&u.fake, "fake", false, "check, but unmount nothing")
	f.BoolVarP(&u.verbose, "verbose", "v", false, "say what is done")
}

func (u *umountFlags) run(cmd *cobra.Command, args []string) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	return mount.Umount(cmd.Context(), mount.UmountOptions{
		Target: args[0], Run: s.Run, Lazy: u.lazy, Force: u.force, ReadOnly: u.readOnly, Fake: u.fake,
		Log: talker(cmd.ErrOrStderr(), cmd.Root().Name(), u.verbose),
	})
}

func newUmount() *cobra.Command {
	var u umountFlags
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "unmount a fileset",
		Long: `umount takes a fileset's mount away, also that of a presto that died. If it was the
last of its cache, it returns when the device is free and clean.`,
		Args: positional(cobra.ExactArgs(1)),
		RunE: u.run,
	}
	u.add(cmd.Flags())
	return cmd
}

// newUmountHelper is what umount(8) calls, by the contract of util-linux.
func newUmountHelper() *cobra.Command {
	var u umountFlags
	cmd := helper(umountHelper+" DIR [-flnrv] [-t TYPE]", "unmount a fileset; called by umount")
	cmd.Args = positional(cobra.ExactArgs(1))
	cmd.RunE = u.run
	u.add(cmd.Flags())
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolP("no-mtab", "n", false, "accepted; there is no mtab")
	cmd.Flags().StringP("types", "t", "", "accepted; the mount table says the type")
	return cmd
}
