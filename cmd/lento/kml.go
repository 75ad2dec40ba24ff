package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func newKML() *cobra.Command {
	cmd := &cobra.Command{
		Use: "kml", Short: "look at logs",
		Args: positional(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("say what to do")
			}
			return fmt.Errorf("unknown command %q", args[0])
		}),
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newKMLDump())
	return cmd
}

func newKMLDump() *cobra.Command {
	var o kml.DumpOptions
	cmd := &cobra.Command{
		Use:   "dump FILE",
		Short: "print the records of a log file",
		Long: `dump prints the records of a log: the kml or order file in the control folder of a
fileset, or with --gen2 a log of the original InterMezzo. The file is only read. A
damaged one is printed up to the damage, which is then told, with exit status 1.`,
		Args: positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			o.JSON = s.JSON
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("open log: %w", err)
			}
			defer f.Close()
			w := bufio.NewWriter(cmd.OutOrStdout())
			err = kml.Dump(w, f, o)
			if flushErr := w.Flush(); err == nil && flushErr != nil {
				return fmt.Errorf("print records: %w", flushErr)
			}
			if err != nil {
				return &statusError{exitNo, fmt.Errorf("%s: %w", args[0], err)}
			}
			return nil
		},
	}
	config.AddOutputFlag(cmd.Flags())
	cmd.Flags().Uint64Var(&o.From, "from", 0, "begin with this record")
	cmd.Flags().BoolVar(&o.Gen2, "gen2", false, "the file is a log of the original InterMezzo")
	return cmd
}
