// Command treediff compares two directory trees and prints a line for every
// property in which they differ. It exits with 0 if they are the same, 1 if
// they differ and 2 if it could not tell.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/treediff"
)

var errDiffer = errors.New("the trees differ")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	// A second signal ends us even if a mount hangs.
	context.AfterFunc(ctx, stop)
	err := newCommand(os.Stdout).ExecuteContext(ctx)
	switch {
	case errors.Is(err, errDiffer):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "treediff:", err)
		os.Exit(2)
	}
}

func newCommand(out io.Writer) *cobra.Command {
	var opts treediff.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "treediff [flags] TREE TREE",
		Short: "Compare two directory trees in everything that replicas must agree on",
		Long: `Compare two directory trees: names, types, modes, owners, modification times to
the nanosecond, link targets, hard links, extended attributes, ACLs, device
numbers, content and holes. Prints one line for each difference.

Exit status: 0 the same, 1 different, 2 misuse or something could not be read.`,
		Args:          cobra.ExactArgs(2),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := treediff.Compare(cmd.Context(), args[0], args[1], opts)
			if err != nil {
				return err
			}
			return print(out, found, args, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Metadata, "metadata", false, "leave content and holes out")
	flags.BoolVar(&opts.IgnoreHoles, "ignore-holes", false, "leave holes out")
	flags.IntVar(&opts.Limit, "limit", 0, "stop after `N` differences (0: find all)")
	flags.BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func print(out io.Writer, found []treediff.Difference, trees []string, asJSON bool) error {
	if asJSON {
		if found == nil {
			found = []treediff.Difference{}
		}
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	} else {
		for _, d := range found {
			if _, err := fmt.Fprintln(out, d.Format(trees[0], trees[1])); err != nil {
				return err
			}
		}
	}
	if len(found) > 0 {
		return errDiffer
	}
	return nil
}
