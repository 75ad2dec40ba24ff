package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/detach"
	"github.com/intermezzofs/intermezzo/pkg/presto"
	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
	"github.com/intermezzofs/intermezzo/pkg/version"
)

// prestoFlags are what pkg/presto/mount starts a presto with.
type prestoFlags struct {
	source, cacheType string
	channel           int
	readyFD, lifeline int
	verbose           bool
}

// newPresto is the process behind a mounted cache. mount starts it; nobody else
// should, so it is not in the help.
func newPresto() *cobra.Command {
	var p prestoFlags
	cmd := &cobra.Command{
		Use: mount.PrestoVerb + " --source SOURCE --channel N", Hidden: true, Args: positional(cobra.NoArgs),
		Short: "serve the cache SOURCE (started by mount)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			return p.run(cmd.Context(), s, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), p.logOptions())))
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.source, "source", "", "device, loop file or folder that holds the cache")
	f.StringVar(&p.cacheType, "cache-type", "", "type of the bottom file system; found out if not given")
	f.IntVar(&p.channel, "channel", 0, "number of the channel to serve")
	f.IntVar(&p.readyFD, detach.ReadyFlag, -1, "descriptor to report on")
	f.IntVar(&p.lifeline, detach.LifelineFlag, -1, "descriptor that closes when the starter lets go")
	f.BoolVarP(&p.verbose, "verbose", "v", false, "log everything")
	cmd.MarkFlagRequired("source")
	return cmd
}

func (p *prestoFlags) logOptions() *slog.HandlerOptions {
	if p.verbose {
		return &slog.HandlerOptions{Level: slog.LevelDebug}
	}
	return nil
}

// run serves the cache until its last mount is gone.
func (p *prestoFlags) run(ctx context.Context, s config.Settings, log *slog.Logger) error {
	starting, err := detach.Inherit(p.readyFD, p.lifeline)
	if err != nil {
		return misuse(err)
	}
	if p.channel < 0 || p.channel > config.MaxChannel {
		return misuse(fmt.Errorf("--channel %d: want 0 to %d", p.channel, config.MaxChannel))
	}
	log = log.With("channel", p.channel)
	server, err := p.start(ctx, s, log)
	if err != nil {
		return errors.Join(err, starting.Report(err, mount.ExitCode(err)))
	}
	pidFile := mount.PIDPath(s.Run, p.channel)
	if err := errors.Join(writePID(pidFile), starting.Report(nil, 0)); err != nil {
		server.Close()
		return errors.Join(err, server.Wait())
	}
	defer os.Remove(pidFile)
	log.Info("presto serves the cache", "source", p.source, "pid", os.Getpid(), "version", version.String())
	defer p.watch(ctx, server, s.Run, starting, log)()
	if err := server.Wait(); err != nil {
		return fmt.Errorf("presto of %s: %w", p.source, err)
	}
	log.Info("the last mount is gone, presto ends")
	return nil
}

// start opens the cache and its channel. A presto that is just ending may have
// the cache still; it is waited for.
func (p *prestoFlags) start(ctx context.Context, s config.Settings, log *slog.Logger) (*presto.Presto, error) {
	options := presto.Options{
		Source: p.source, CacheType: p.cacheType, Channel: p.channel, RunDir: s.Run, Logger: log, Version: version.String(),
	}
	server, err := presto.Start(ctx, options)
	if e, ok := errors.AsType[*cache.Error](err); ok && e.Kind == cache.ErrInUse && mount.WaitEnding(ctx, e.PID) {
		return presto.Start(ctx, options)
	}
	return server, err
}

// watch ends presto when it is asked to, or was started for nothing, until it is
// told to stop watching.
func (p *prestoFlags) watch(ctx context.Context, server *presto.Presto, run string, starting detach.Starting, log *slog.Logger) (stop func() bool) {
	// The kernel must not choose the process that keeps a file system alive when
	// memory is short. Without the right to ask for that, it may.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0); err != nil {
		log.Debug("ask to be spared when memory is short", "error", err)
	}
	own, _ := mount.Ask(ctx, run, p.channel)
	go func() {
		starting.WaitReleased(ctx)
		if ctx.Err() == nil {
			p.endIfUnused(ctx, server, run, log)
		}
	}()
	return context.AfterFunc(ctx, func() {
		log.Warn("asked to end while something is mounted; it is detached")
		if err := mount.Detach(own.Info.Source); err != nil {
			log.Error("detach mounts", "error", err)
		}
		server.Close()
	})
}

// writePID replaces the process id file, which a killed presto may have left.
func writePID(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".pid")
	if err != nil {
		return fmt.Errorf("write process id: %w", err)
	}
	_, err = fmt.Fprintln(tmp, os.Getpid())
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write process id: %w", err)
	}
	return nil
}

// endIfUnused ends a presto whose starter has gone without mounting anything.
func (p *prestoFlags) endIfUnused(ctx context.Context, server *presto.Presto, run string, log *slog.Logger) {
	own, ok := mount.Ask(ctx, run, p.channel)
	if !ok || own.Err != nil {
		return // it ends already
	}
	for _, f := range own.Info.Filesets {
		if f.Mountpoint != "" {
			return
		}
	}
	log.Info("nothing was mounted, presto ends")
	server.Close()
}
