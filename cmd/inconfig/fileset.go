package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newFileset() *cobra.Command {
	return group("fileset", "filesets that this host takes part in", newFilesetAdd(), newFilesetSet(), newFilesetList(), newFilesetRemove())
}

func newFilesetAdd() *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "add NAME [--server NAME] [--device DEVICE] [--mountpoint DIR] [--channel N]",
		Short: "add a fileset that this host serves, or gets from a server",
		Args:  positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := placement(cmd.Flags())
			if err != nil {
				return err
			}
			return edit(cmd, func(c *config.Config) error { return c.AddFileset(args[0], server, p) })
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "who serves it (default: this host)")
	addPlacement(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

func newFilesetSet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set NAME [--device DEVICE] [--mountpoint DIR] [--channel N]",
		Short: "change where a fileset is on this host",
		Args:  positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := placement(cmd.Flags())
			if err != nil {
				return err
			}
			if p == (config.Placement{}) {
				return misuse(errors.New("nothing to set; give --device, --mountpoint or --channel"))
			}
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			return edit(cmd, func(c *config.Config) error {
				if _, err := s.Config.Find(c, args[0]); err != nil {
					return err
				}
				return c.Place(args[0], p)
			})
		},
	}
	addPlacement(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

// filesetLine is a fileset in the JSON of list.
type filesetLine struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Server      string `json:"server"`
	UUID        string `json:"uuid,omitempty"`
	Device      string `json:"device,omitempty"`
	Mountpoint  string `json:"mountpoint,omitempty"`
	Channel     int    `json:"channel"`
	Replicators int    `json:"replicators"`
}

func newFilesetList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the filesets",
		Args:  positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := load(cmd)
			if err != nil {
				return err
			}
			lines := []filesetLine{}
			for i := range c.Filesets {
				f := &c.Filesets[i]
				line := filesetLine{Name: f.Name, Role: string(c.Role(f)), Server: f.Server, Device: f.Device, Mountpoint: f.Mountpoint, Channel: f.Channel, Replicators: len(f.Replicators)}
				if !f.UUID.IsZero() {
					line.UUID = f.UUID.String()
				}
				lines = append(lines, line)
			}
			if s.JSON {
				return printJSON(cmd, lines)
			}
			return printFilesets(cmd, lines)
		},
	}
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

func printFilesets(cmd *cobra.Command, lines []filesetLine) error {
	if len(lines) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no filesets")
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tSERVER\tCHANNEL\tDEVICE\tMOUNTPOINT\tREPLICATORS")
	for _, l := range lines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%d\n", l.Name, l.Role, l.Server, l.Channel, dash(l.Device), dash(l.Mountpoint), l.Replicators)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newFilesetRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove --force NAME",
		Short: "stop taking part in a fileset",
		Long:  `remove takes a fileset out of fsetdb, with its replicators. The cache and what is in it stay as they are.`,
		Args:  positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return edit(cmd, func(c *config.Config) error {
				if !c.RemoveFileset(args[0]) {
					return nil
				}
				return force(cmd, fmt.Sprintf("this host will no longer take part in fileset %s, and its replicators be forgotten", args[0]))
			})
		},
	}
	addForce(cmd.Flags())
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}
