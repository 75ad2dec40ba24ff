package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

const rootHelp = `inconfig writes the configuration of this host: who it is (sysid), the servers it
knows (serverdb), the filesets it takes part in (fsetdb), and its key. Doing
something a second time changes nothing, and says so. With --dry-run it shows
what would change as a diff.

A server and a client of the fileset "shared":

    server# inconfig init
    server# inconfig fileset add shared --device /dev/sdb1 --mountpoint /mnt/izo
    server# inconfig invite shared laptop          prints CODE
    laptop# inconfig accept CODE --device /dev/sdb1 --mountpoint /mnt/izo
    both#   inconfig fstab shared --write

Exit status: 0 done, or nothing to do; 1 refused, because of what is there or by
the server; 2 wrong command line; 3 it could not be done. Unless it is 0, nothing
has changed; only if the answer to accept got lost, a new sysid and key stay.`

// newRoot makes the command. join takes an invitation to its server.
func newRoot(join config.Joiner) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inconfig COMMAND",
		Short: "configure this host for InterMezzo",
		Long:  rootHelp,
		Args: positional(func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q%s", args[0], suggestion(cmd, args[0]))
			}
			return fmt.Errorf("a command is missing; inconfig --help lists them")
		}),
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return nil },
		Version:               version.String(),
		SilenceUsage:          true,
		SilenceErrors:         true,
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return misuse(fmt.Errorf("%w; see %s --help", err, c.CommandPath()))
	})
	config.AddFlags(cmd.PersistentFlags())
	cmd.AddCommand(newInit(), newKey(), newShow(), newServer(), newFileset(), newReplicator(), newInvite(), newAccept(join), newFstab(), newVersion())
	return cmd
}

func suggestion(cmd *cobra.Command, word string) string {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	if name := config.Nearest(word, names); name != "" {
		return fmt.Sprintf("; did you mean %q?", name)
	}
	return ""
}

// group makes a command that only has commands.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " COMMAND", Short: short, DisableFlagsInUseLine: true,
		Args: positional(func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q%s", use+" "+args[0], suggestion(cmd, args[0]))
			}
			return fmt.Errorf("a command is missing; inconfig %s --help lists them", use)
		}),
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(children...)
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "inconfig", version.String())
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
