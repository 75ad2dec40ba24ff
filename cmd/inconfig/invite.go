package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// inviteFlags are what invite was asked for.
type inviteFlags struct {
	rights    string
	addresses []string
	valid     time.Duration
}

func newInvite() *cobra.Command {
	var f inviteFlags
	cmd := &cobra.Command{
		Use:   "invite FILESET REPLICATOR [--rights rw|ro] [--address ADDRESS]... [--valid 24h]",
		Short: "let a host in: prints a code that it accepts",
		Long: `invite prints a code, one line, that makes one host a replicator of a fileset that
this host serves. Hand it over in private: whoever has it can use it, once, until
it expires. On the other host:

    inconfig accept CODE

REPLICATOR is the name that host is to have. A new invitation for the same
replicator withdraws the one before. The daemon of this host must be running when
the code is accepted.`,
		Args: positional(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error { return runInvite(cmd, args[0], args[1], f) },
	}
	cmd.Flags().StringVar(&f.rights, "rights", string(config.ReadWrite), "rw, or ro for a host that only gets changes")
	cmd.Flags().StringArrayVar(&f.addresses, "address", nil, "where that host finds this one, repeatable (default: bind of sysid, or all interfaces)")
	cmd.Flags().DurationVar(&f.valid, "valid", config.DefaultValid, "how long the code is good")
	config.AddDryRunFlag(cmd.Flags())
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

func runInvite(cmd *cobra.Command, fileset, replicator string, f inviteFlags) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	if f.valid <= 0 || f.valid > config.MaxValid {
		return misuse(fmt.Errorf("--valid %s: use up to %s", f.valid, config.MaxValid))
	}
	addresses, err := s.Config.CheckInvite(fileset, replicator, config.Rights(f.rights), f.addresses)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	if s.DryRun {
		fmt.Fprintf(stderr, "would invite %s to fileset %s (%s) for %s; it would look for this host at %s\n", replicator, fileset, f.rights, f.valid, strings.Join(addresses, ", "))
		return nil
	}
	if err := ensureKey(cmd, s.Config); err != nil {
		return err
	}
	code, err := s.Config.Invite(fileset, replicator, config.Rights(f.rights), addresses, f.valid)
	if err != nil {
		return err
	}
	expires := time.Now().Add(f.valid)
	if s.JSON {
		return printJSON(cmd, map[string]any{"code": code, "fileset": fileset, "replicator": replicator, "rights": f.rights, "addresses": addresses, "expires": expires.Format(time.RFC3339)})
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), code); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "good once, until %s, for a host that reaches this one at %s. Run there:\n    inconfig accept %s\n",
		expires.Format("2006-01-02 15:04"), strings.Join(addresses, " or "), code)
	return nil
}
