package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

const rootHelp = `lento reads sysid, serverdb and fsetdb, and serves and follows every fileset of
this host. Without a command it goes into the background once it is ready;
filesets that are not mounted yet are waited for.

SIGTERM stops it, SIGHUP makes it read its files again. Local work in the mounted
filesets goes on without it, and is logged.

Exit status: 0 done; 1 the answer is no, or something is wrong with what was asked
about; 2 wrong command line or configuration; 3 it could not be done. mount and
umount: those of mount(8), with 2 for a wrong command line.`

func newRoot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lento [--foreground]",
		Short: "file server and cache manager of InterMezzo",
		Long:  rootHelp,
		Args: positional(func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q", args[0])
			}
			return nil
		}),
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          runDaemon,
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misuse(fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
	})
	config.AddFlags(cmd.PersistentFlags())
	addDaemonFlags(cmd.Flags())
	cmd.AddCommand(newMount(), newUmount(), newStatus(), newBarrier(), newKML(), newPresto(), newVersion())
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "lento", version.String())
			return err
		},
	}
}

// settings reads what the flags, the environment and the settings file say.
func settings(cmd *cobra.Command) (config.Settings, error) {
	s, err := config.SettingsFrom(cmd.Flags())
	if err != nil {
		return s, misuse(err)
	}
	return s, nil
}
