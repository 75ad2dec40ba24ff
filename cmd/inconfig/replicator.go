package main

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newReplicator() *cobra.Command {
	return group("replicator", "hosts that were granted a fileset of this server", newReplicatorAdd(), newReplicatorList(), newReplicatorRemove())
}

func newReplicatorAdd() *cobra.Command {
	var fingerprint, rights string
	cmd := &cobra.Command{
		Use:   "add FILESET NAME --fingerprint FINGERPRINT [--rights rw|ro]",
		Short: "grant a fileset to a key by hand, or change its rights",
		Long: `add grants a fileset to the host whose inconfig key prints the fingerprint. For
one that is there with the same key it changes the rights. An invitation is the
easier way.`,
		Args: positional(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			fp, err := config.ParseFingerprint(fingerprint)
			if err != nil {
				return misuse(err)
			}
			r := config.Replicator{Name: args[1], Fingerprint: fp, Rights: config.Rights(rights)}
			return edit(cmd, func(c *config.Config) error { return c.AddReplicator(args[0], r) })
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "of the host's key")
	cmd.Flags().StringVar(&rights, "rights", string(config.ReadWrite), "rw, or ro for one that only gets changes")
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

// replicatorLine is a replicator, or an open invitation, in the JSON of list.
type replicatorLine struct {
	Fileset     string `json:"fileset"`
	Name        string `json:"name"`
	Rights      string `json:"rights"`
	Fingerprint string `json:"fingerprint,omitempty"`
	UUID        string `json:"uuid,omitempty"`
	Invited     string `json:"invited_until,omitempty"` // RFC 3339; only for an open invitation
}

func newReplicatorList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [FILESET]",
		Short: "list the replicators, and the invitations that are open",
		Args:  positional(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, c, err := load(cmd)
			if err != nil {
				return err
			}
			only := ""
			if len(args) > 0 {
				if _, err := s.Config.Find(c, args[0]); err != nil {
					return err
				}
				only = args[0]
			}
			open, err := s.Config.OpenInvitations()
			if err != nil {
				return err
			}
			lines := replicatorLines(c, open, only)
			if s.JSON {
				return printJSON(cmd, lines)
			}
			return printReplicators(cmd, lines)
		},
	}
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

func replicatorLines(c *config.Config, open []config.OpenInvitation, only string) []replicatorLine {
	lines := []replicatorLine{}
	for _, f := range c.Filesets {
		if only != "" && f.Name != only {
			continue
		}
		for _, r := range f.Replicators {
			line := replicatorLine{Fileset: f.Name, Name: r.Name, Rights: string(r.Rights), Fingerprint: r.Fingerprint.String()}
			if !r.UUID.IsZero() {
				line.UUID = r.UUID.String()
			}
			lines = append(lines, line)
		}
		for _, o := range open {
			if o.Fileset == f.Name {
				lines = append(lines, replicatorLine{Fileset: f.Name, Name: o.Replicator, Rights: string(o.Rights), Invited: o.Expires.Format(time.RFC3339)})
			}
		}
	}
	return lines
}

func printReplicators(cmd *cobra.Command, lines []replicatorLine) error {
	if len(lines) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no replicators")
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FILESET\tNAME\tRIGHTS\tKEY")
	for _, l := range lines {
		key := l.Fingerprint
		if l.Invited != "" {
			key = "invited until " + l.Invited
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Fileset, l.Name, l.Rights, key)
	}
	return w.Flush()
}

func newReplicatorRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove --force FILESET NAME",
		Short: "take a fileset away from a host, or withdraw its invitation",
		Args:  positional(cobra.ExactArgs(2)),
		RunE:  func(cmd *cobra.Command, args []string) error { return runReplicatorRemove(cmd, args[0], args[1]) },
	}
	addForce(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

func runReplicatorRemove(cmd *cobra.Command, fileset, name string) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	remove := func(c *config.Config) error {
		if _, err := s.Config.Find(c, fileset); err != nil {
			return err
		}
		removed, err := c.RemoveReplicator(fileset, name)
		if err != nil || !removed {
			return err
		}
		return force(cmd, fmt.Sprintf("replicator %s will be cut off from fileset %s", name, fileset))
	}
	changes, err := s.Config.Plan(remove)
	if err != nil {
		return err
	}
	invited, err := withdraw(cmd, s, fileset, name)
	if err != nil || (invited && len(changes) == 0) {
		return err
	}
	return edit(cmd, remove)
}

// withdraw makes open invitations worthless, and tells. It reports whether there
// were any.
func withdraw(cmd *cobra.Command, s config.Settings, fileset, name string) (bool, error) {
	if s.DryRun {
		open, err := s.Config.OpenInvitations()
		invited := slices.ContainsFunc(open, func(o config.OpenInvitation) bool { return o.Fileset == fileset && o.Replicator == name })
		if invited {
			fmt.Fprintf(cmd.ErrOrStderr(), "would withdraw the invitation of %s to fileset %s\n", name, fileset)
		}
		return invited, err
	}
	n, err := s.Config.Withdraw(fileset, name)
	if n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "withdrew the invitation of %s to fileset %s\n", name, fileset)
	}
	return n > 0, err
}
