package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newInit() *cobra.Command {
	var name string
	var bind []string
	cmd := &cobra.Command{
		Use:   "init [--name HOST] [--bind ADDRESS]...",
		Short: "make sysid and the key of this host",
		Long: `init makes sysid, with a name and a uuid for this host, and its key. A client
needs no init: accept does it.

A name or key that is there already stays.`,
		Args: positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runInit(cmd, name, bind) },
	}
	cmd.Flags().StringVar(&name, "name", "", "name of this host (default: its hostname)")
	cmd.Flags().StringArrayVar(&bind, "bind", nil, "address to listen on, repeatable (default: all, port 370)")
	config.AddDryRunFlag(cmd.Flags())
	return cmd
}

func runInit(cmd *cobra.Command, name string, bind []string) error {
	err := edit(cmd, func(c *config.Config) error {
		if name == "" && c.Sysid.Name == "" {
			host, err := os.Hostname()
			if err != nil {
				return fmt.Errorf("find the name of this host: %w; give one with --name", err)
			}
			name = host
		}
		return c.Init(name, bind)
	})
	if err != nil {
		return err
	}
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	if s.DryRun {
		if _, err := s.Config.Key(); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(cmd.ErrOrStderr(), "would make a key")
		}
		return nil
	}
	return ensureKey(cmd, s.Config)
}
