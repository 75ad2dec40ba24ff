package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/daemon"
)

func newBarrier() *cobra.Command {
	var limit time.Duration
	var wait bool
	cmd := &cobra.Command{
		Use:   "barrier FILESET",
		Short: "log what is being written, and print the end of the log",
		Long: `barrier logs the present content of every file of FILESET that is being written,
and prints the number of the last record of this host's log: everything done here
before is in the log up to there. With --wait it returns when that is part of the
fileset's order, which on a client means that the server has it.

Exit status: 0 done; 1 not within --timeout; 3 the fileset is not mounted here.`,
		Args: positional(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), limit, errors.New("not within "+limit.String()))
			defer cancel()
			own, err := daemon.Barrier(ctx, s.Config, s.Run, args[0], wait)
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					return &statusError{exitNo, fmt.Errorf("barrier: %w", context.Cause(ctx))}
				}
				if e, ok := errors.AsType[*channel.Error](err); ok && e.Code == channel.ErrNoFileset {
					return misuse(err)
				}
				return err
			}
			if s.JSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]uint64{"own": own.Seq})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), own.Seq)
			return err
		},
	}
	config.AddOutputFlag(cmd.Flags())
	cmd.Flags().DurationVar(&limit, "timeout", time.Minute, "how long to try")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when it is confirmed")
	return cmd
}
