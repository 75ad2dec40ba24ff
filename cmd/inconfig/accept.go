package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newAccept(join config.Joiner) *cobra.Command {
	var name string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "accept CODE [--name HOST] [--device DEVICE] [--mountpoint DIR] [--channel N]",
		Short: "accept an invitation: the whole set-up of a client",
		Long: `accept takes an invitation to the server that made it, and writes what it means:
sysid and a key if this host has none yet, the server with its key into serverdb,
the fileset into fsetdb. If the server can't be reached or refuses, nothing has
changed. It may be run again with the same code. With - for CODE it is read from
standard input, where it shows up in no list of processes.`,
		Args: positional(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return runAccept(ctx, cmd, join, args, name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of this host, if it has none yet (default: the one in the invitation)")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to try to reach the server")
	addPlacement(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

// invitation reads the code, which the line ends of a mail may have broken into
// several arguments.
func invitation(stdin io.Reader, args []string) (config.Invitation, error) {
	text := strings.Join(args, "")
	if text == "-" {
		data, err := io.ReadAll(io.LimitReader(stdin, maxCode))
		if err != nil {
			return config.Invitation{}, fmt.Errorf("read code: %w", err)
		}
		text = string(data)
	}
	return config.ParseInvitation(text)
}

// maxCode is more than any code has.
const maxCode = 64 << 10

func runAccept(ctx context.Context, cmd *cobra.Command, join config.Joiner, code []string, name string) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	inv, err := invitation(cmd.InOrStdin(), code)
	if err != nil {
		return err
	}
	p, err := placement(cmd.Flags())
	if err != nil {
		return err
	}
	opts := config.AcceptOptions{Name: name, Placement: p}
	if s.DryRun {
		changes, err := s.Config.PlanAccept(inv, opts)
		if err != nil {
			return err
		}
		return tell(cmd, true, changes)
	}
	changes, err := s.Config.Join(ctx, inv, opts, join)
	if err != nil {
		return err
	}
	if err := tell(cmd, false, changes); err != nil {
		return err
	}
	c, err := s.Config.Load()
	if err != nil {
		return err
	}
	f := c.Fileset(inv.Fileset)
	fmt.Fprintf(cmd.ErrOrStderr(), "this host, %s, now gets fileset %s from %s\n", c.Sysid.Name, f.Name, f.Server)
	if f.Device == "" || f.Mountpoint == "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "next: format a cache with mkizofs, and tell where it is with\n    inconfig fileset set %s --device DEVICE --mountpoint DIR\n", f.Name)
	}
	return nil
}
