package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/test/fleet"
)

// newPartVerb makes a verb that does something to a part of a host.
func newPartVerb(env fleet.Env, name, short string, do func(*fleet.Lab, context.Context, *fleet.Host, fleet.Part) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " DIR HOST daemon|presto",
		Short: short,
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			part, err := fleet.ParsePart(args[2])
			if err != nil {
				return err
			}
			lab, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			return do(lab, cmd.Context(), host, part)
		},
	}
}

func newExec(env fleet.Env) *cobra.Command {
	return &cobra.Command{
		Use:   "exec DIR HOST -- COMMAND [ARGUMENT...]",
		Short: "Run a command on a host: in its network, with its configuration",
		Long: `Run a command on a host: in its network, with its configuration in force and our
tools on PATH; mounts and current folder are the caller's. The exit status is the
command's.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 2 || len(args) < 3 {
				return errors.New("exec: want DIR HOST -- COMMAND")
			}
			lab, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			return lab.Exec(host, args[2:])
		},
	}
}

func newBytes(env fleet.Env, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "bytes DIR",
		Short: "Print a line \"HOST in N out N\" for each host: what its link has carried so far",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := fleet.Open(args[0], env)
			if err != nil {
				return err
			}
			for _, h := range lab.Hosts {
				t, err := lab.Traffic(cmd.Context(), h)
				if err != nil {
					return err
				}
				fmt.Fprintf(out, "%s in %d out %d\n", h.Name, t.In, t.Out)
			}
			return nil
		},
	}
}

func newPID(env fleet.Env, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "pid DIR HOST daemon|presto",
		Short: "Print the pid of a host's daemon or presto",
		Args:  cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			part, err := fleet.ParsePart(args[2])
			if err != nil {
				return err
			}
			_, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			pid, err := host.PID(part)
			if err != nil {
				return err
			}
			fmt.Fprintln(out, pid)
			return nil
		},
	}
}

func newDevice(env fleet.Env, out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "device DIR HOST",
		Short: "Print where a host's cache lies: a loop file, or a folder",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			_, host, err := openHost(env, args)
			if err != nil {
				return err
			}
			fmt.Fprintln(out, host.Source())
			return nil
		},
	}
}
