package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newServer() *cobra.Command {
	return group("server", "servers that this host connects to", newServerAdd(), newServerRemove())
}

func newServerAdd() *cobra.Command {
	var fingerprint string
	cmd := &cobra.Command{
		Use:   "add NAME ADDRESS... --fingerprint FINGERPRINT",
		Short: "add a server, or addresses to one",
		Long: `add adds a server to serverdb. Its fingerprint is what inconfig key prints on it;
it is pinned, and no other key is accepted. An invitation does all this by itself.`,
		Args: positional(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := config.Server{Name: args[0], Addresses: args[1:]}
			if fingerprint != "" {
				var err error
				if s.Fingerprint, err = config.ParseFingerprint(fingerprint); err != nil {
					return misuse(err)
				}
			}
			return edit(cmd, func(c *config.Config) error { return c.AddServer(s) })
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "of its key")
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

func newServerRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove --force NAME",
		Short: "forget a server and its key",
		Args:  positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return edit(cmd, func(c *config.Config) error {
				removed, err := c.RemoveServer(args[0])
				if err != nil || !removed {
					return err
				}
				return force(cmd, fmt.Sprintf("the addresses and the pinned key of server %s will be forgotten", args[0]))
			})
		},
	}
	addForce(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}
