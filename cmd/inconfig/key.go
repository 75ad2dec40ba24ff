package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "print the fingerprint of this host's key",
		Long:  `key prints the fingerprint by which others know this host's key. It makes the key if there is none.`,
		Args:  positional(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			if err := ensureKey(cmd, s.Config); err != nil {
				return err
			}
			key, err := s.Config.Key()
			if err != nil {
				return err
			}
			if s.JSON {
				return printJSON(cmd, map[string]any{"fingerprint": key.Fingerprint()})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Fingerprint())
			return err
		},
	}
	config.AddOutputFlag(cmd.Flags())
	return cmd
}

// ensureKey makes the key where there is none, and tells.
func ensureKey(cmd *cobra.Command, dir config.Dir) error {
	_, err := dir.Key()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := dir.EnsureKey()
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "made a key,", key.Fingerprint())
	return nil
}
