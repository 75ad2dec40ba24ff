package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/daemon"
	"github.com/intermezzofs/intermezzo/pkg/detach"
)

// daemonName is the name of the daemon's files in the run folder.
const daemonName = "lento"

func addDaemonFlags(f *pflag.FlagSet) {
	f.Bool("foreground", false, "do not go into the background; log to standard error")
	f.BoolP("verbose", "v", false, "log everything")
	f.Int(detach.ReadyFlag, -1, "descriptor to report on")
	f.Int(detach.LifelineFlag, -1, "descriptor that closes when the starter lets go")
	f.MarkHidden(detach.ReadyFlag)
	f.MarkHidden(detach.LifelineFlag)
}

// runDaemon is lento without a verb.
func runDaemon(cmd *cobra.Command, _ []string) error {
	s, err := settings(cmd)
	if err != nil {
		return err
	}
	foreground, err := cmd.Flags().GetBool("foreground")
	if err != nil {
		return err
	}
	verbose, err := cmd.Flags().GetBool("verbose")
	if err != nil {
		return err
	}
	if !foreground {
		return intoBackground(cmd, s, verbose)
	}
	ready, err := cmd.Flags().GetInt(detach.ReadyFlag)
	if err != nil {
		return err
	}
	starting, err := detach.Inherit(ready, -1)
	if err != nil {
		return misuse(err)
	}
	err = serve(cmd, s, verbose, &starting)
	if err != nil {
		// Says nothing if it was told already that we are ready.
		starting.Report(err, exitStatus(err))
	}
	return err
}

// serve is the daemon in the foreground.
func serve(cmd *cobra.Command, s config.Settings, verbose bool, starting *detach.Starting) error {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	err := daemon.Run(cmd.Context(), daemon.Options{
		Tool: daemonName, Name: daemonName, Config: s.Config, Run: s.Run, Log: log,
		Notify: os.Getenv("NOTIFY_SOCKET"), Reload: hup,
		Ready: func() {
			log.Info("lento is ready", "pid", os.Getpid())
			if err := starting.Report(nil, 0); err != nil {
				log.Warn("the starter was not told", "error", err)
			}
		},
	})
	if errors.Is(err, daemon.ErrRunning) {
		return &statusError{exitNo, err}
	}
	if daemon.IsConfigError(err) {
		return misuse(err)
	}
	return err
}

// intoBackground starts this command again in the background, and waits until it
// is ready.
func intoBackground(cmd *cobra.Command, s config.Settings, verbose bool) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if err := os.MkdirAll(s.Run, 0o755); err != nil {
		return fmt.Errorf("make run folder: %w", err)
	}
	args := []string{daemonName, "--foreground", "--config=" + string(s.Config), "--run=" + s.Run}
	if verbose {
		args = append(args, "--verbose")
	}
	child, err := detach.Start(cmd.Context(), detach.Command{Path: exe, Args: args, Log: daemon.LogPath(s.Run, daemonName)})
	if child != nil {
		child.Release()
	}
	if e, ok := errors.AsType[*detach.StartError](err); ok && e.Code != 0 {
		return &statusError{e.Code, err}
	}
	return err
}
