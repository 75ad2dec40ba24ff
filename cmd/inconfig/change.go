package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// edit changes the databases, or shows what would change, and tells.
func edit(cmd *cobra.Command, fn func(*config.Config) error) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	do := s.Config.Edit
	if s.DryRun {
		do = s.Config.Plan
	}
	changes, err := do(fn)
	if err != nil {
		return err
	}
	return tell(cmd, s.DryRun, changes)
}

// tell says what has changed, or prints what would.
func tell(cmd *cobra.Command, dryRun bool, changes []config.Change) error {
	if len(changes) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing to change")
	}
	for _, c := range changes {
		if dryRun {
			if _, err := io.WriteString(cmd.OutOrStdout(), c.Diff()); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "wrote", c.Path)
	}
	return nil
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// addPlacement adds the flags that say where a fileset is on this host.
func addPlacement(flags *pflag.FlagSet) {
	flags.String("mountpoint", "", "folder to mount the fileset on")
	flags.String("device", "", "device, loop file or folder of its cache")
	flags.Int("channel", 0, "number of its socket in the run folder (default: that of the cache, or the first free one)")
}

// placement reads them. What was not given stays as it is.
func placement(flags *pflag.FlagSet) (config.Placement, error) {
	var p config.Placement
	if flags.Changed("mountpoint") {
		v, err := flags.GetString("mountpoint")
		if err != nil {
			return p, err
		}
		p.Mountpoint = &v
	}
	if flags.Changed("device") {
		v, err := flags.GetString("device")
		if err != nil {
			return p, err
		}
		if v != "" && !strings.Contains(v, "=") {
			if v, err = filepath.Abs(v); err != nil {
				return p, err
			}
		}
		p.Device = &v
	}
	if flags.Changed("channel") {
		v, err := flags.GetInt("channel")
		if err != nil {
			return p, err
		}
		p.Channel = &v
	}
	return p, nil
}

// addForce adds --force, without which force refuses.
func addForce(flags *pflag.FlagSet) {
	flags.Bool("force", false, "do it without asking for this flag")
}

// force refuses to do what is said to happen, unless the flag is set. A dry run
// needs none.
func force(cmd *cobra.Command, consequence string) error {
	s, err := settings(cmd)
	if err != nil || s.DryRun {
		return err
	}
	if forced, err := cmd.Flags().GetBool("force"); err != nil || forced {
		return err
	}
	return misuse(fmt.Errorf("%s; say --force to do it", consequence))
}
