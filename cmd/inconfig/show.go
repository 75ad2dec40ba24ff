package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "print the configuration that is in force",
		Args:  positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, c, err := load(cmd)
			if err != nil {
				return err
			}
			if s.JSON {
				return printJSON(cmd, c.Effective())
			}
			return show(cmd, s.Config, c)
		},
	}
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

func load(cmd *cobra.Command) (config.Settings, *config.Config, error) {
	s, err := settings(cmd)
	if err != nil {
		return s, nil, err
	}
	c, err := s.Config.Load()
	return s, c, err
}

func show(cmd *cobra.Command, dir config.Dir, c *config.Config) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "host\t%s\nuuid\t%s\nbind\t%s\nkey\t%s\n", c.Sysid.Name, c.Sysid.UUID, strings.Join(c.Sysid.Bind, " "), keyText(dir))
	for _, s := range c.Servers {
		fmt.Fprintf(w, "server %s\t%s\t%s\n", s.Name, strings.Join(s.Addresses, " "), s.Fingerprint)
	}
	for i := range c.Filesets {
		f := &c.Filesets[i]
		from := "served here"
		if c.Role(f) == config.RoleClient {
			from = "from " + f.Server
		}
		fmt.Fprintf(w, "fileset %s\t%s\t%s\n", f.Name, from, placeText(f))
		for _, r := range f.Replicators {
			fmt.Fprintf(w, "  replicator %s\t%s\t%s\n", r.Name, r.Rights, r.Fingerprint)
		}
	}
	return w.Flush()
}

func keyText(dir config.Dir) string {
	key, err := dir.Key()
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return key.Fingerprint().String()
}

func placeText(f *config.Fileset) string {
	text := fmt.Sprintf("channel %d", f.Channel)
	if f.Device != "" {
		text += ", " + f.Device
	}
	if f.Mountpoint != "" {
		text += " on " + f.Mountpoint
	}
	return text
}
