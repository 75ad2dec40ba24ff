package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/daemon"
	"github.com/intermezzofs/intermezzo/pkg/detach"
)

// maxHoardList bounds the file that --hoard names.
const maxHoardList = 64 << 20

// task is a command line that was understood.
type task struct {
	options
	run     string
	cache   daemon.Cache
	docroot daemon.Docroot
	name    string // of the files in the run folder
	log     *slog.Logger
	hoarded []byte // the list of --hoard
}

// run looks after the cache mounted on dir.
func (o *options) run(cmd *cobra.Command, dir string) error {
	if err := o.check(cmd.Flags()); err != nil {
		return err
	}
	starting, err := detach.Inherit(o.readyFD, o.lifelineFD)
	if err != nil {
		return misuse("%w", err)
	}
	t, err := o.understand(cmd, dir)
	if err == nil {
		err = t.prepare(cmd)
	}
	if err == nil && o.daemon && o.readyFD < 0 {
		return t.intoBackground(cmd, dir)
	}
	if err == nil {
		err = t.serve(cmd.Context(), &starting)
	}
	if err != nil {
		status := exitFailed
		if e, ok := errors.AsType[*statusError](err); ok {
			status = e.status
		}
		// Says nothing if it was told already that we are ready.
		return errors.Join(err, starting.Report(err, status))
	}
	return nil
}

// understand finds the cache and the docroot.
func (o *options) understand(cmd *cobra.Command, dir string) (*task, error) {
	s, err := config.SettingsFrom(cmd.Flags())
	if err != nil {
		return nil, misuse("%w", err)
	}
	level := slog.LevelInfo
	if n, err := strconv.ParseUint(o.debug, 0, 64); err == nil && n != 0 {
		level = slog.LevelDebug
	}
	t := &task{options: *o, run: s.Run, log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))}
	if t.cache, err = daemon.FindCache(cmd.Context(), s.Run, dir); err != nil {
		return nil, misuse("%w", err)
	}
	if o.fset != "" && o.fset != t.cache.Fileset {
		return nil, misuse("--fset %s: the fileset mounted on %s is %s", o.fset, dir, t.cache.Fileset)
	}
	docroot := o.docroot
	if docroot == "" {
		docroot = fmt.Sprintf("/var/intermezzo-%d", t.cache.Channel)
	}
	if docroot, err = filepath.Abs(docroot); err != nil {
		return nil, misuse("--docroot: %w", err)
	}
	t.docroot = daemon.Docroot{Dir: config.Dir(docroot), Cache: t.cache, Name: o.clientID}
	t.name = fmt.Sprintf("intersync-%d-%s", t.cache.Channel, t.cache.Fileset)
	if o.hoard != "" {
		if t.hoarded, err = readHoardList(o.hoard); err != nil {
			return nil, misuse("--hoard: %w", err)
		}
	}
	return t, nil
}

func readHoardList(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := io.ReadAll(io.LimitReader(f, maxHoardList+1))
	if err == nil && len(list) > maxHoardList {
		err = fmt.Errorf("%s is larger than %d MiB", path, maxHoardList>>20)
	}
	return list, err
}

// prepare makes the docroot ready, taking an invitation if there is one.
func (t *task) prepare(cmd *cobra.Command) error {
	if t.server == "" {
		if err := t.docroot.PrepareServer(t.bind(cmd.Flags())); err != nil {
			return misuse("%w", err)
		}
		return nil
	}
	if cmd.Flags().Changed("local-port") && t.readyFD < 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "intersync: --local-port is not used: a client does not listen")
	}
	// In the background it was taken before, in the foreground.
	if t.invite != "" && t.readyFD < 0 {
		code, err := t.invitation(cmd.InOrStdin())
		if err != nil {
			return err
		}
		if err := t.docroot.Accept(cmd.Context(), code); err != nil {
			return fmt.Errorf("invitation: %w", err)
		}
	}
	address, err := t.serverAddress()
	if err != nil {
		return misuse("--server: %w", err)
	}
	if _, err := t.docroot.PrepareClient(address); err != nil {
		return misuse("%w", err)
	}
	return nil
}

// invitation is the code of --invite. On standard input it shows up in no list
// of processes.
func (t *task) invitation(stdin io.Reader) (string, error) {
	if t.invite != "-" {
		return t.invite, nil
	}
	const most = 16 << 10 // far more than any code
	text, err := io.ReadAll(io.LimitReader(stdin, most))
	if err != nil {
		return "", fmt.Errorf("read invitation: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// serve is intersync in the foreground.
func (t *task) serve(ctx context.Context, starting *detach.Starting) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := daemon.Options{
		Tool: "intersync", Name: t.name, Config: t.docroot.Dir, Run: t.run, Log: t.log, Only: t.cache.Fileset,
		Once: t.reint, Notify: os.Getenv("NOTIFY_SOCKET"),
		Ready: func() {
			t.log.Info("intersync is ready", "fileset", t.cache.Fileset, "docroot", t.docroot.Dir)
			if t.server == "" {
				t.log.Info("this host is the server; a client is invited by: inconfig --config " + string(t.docroot.Dir) + " invite " + t.cache.Fileset + " NAME")
			}
			if err := starting.Report(nil, 0); err != nil {
				t.log.Warn("the starter was not told", "error", err)
			}
		},
		InStep: func() {
			t.log.Info("in step", "fileset", t.cache.Fileset)
			if err := t.checkHoarded(); err != nil {
				cancel(&finished{err})
			}
		},
	}
	if t.server != "" {
		address, err := t.serverAddress()
		if err != nil {
			return misuse("--server: %w", err)
		}
		o.Addresses = []string{address}
		if t.localIP != "" {
			if o.LocalIP, err = netip.ParseAddr(t.localIP); err != nil {
				return misuse("--local-ip: %w", err)
			}
		}
	}
	err := daemon.Run(ctx, o)
	switch {
	case errors.Is(err, daemon.ErrRunning):
		return &statusError{exitNo, err}
	case err != nil && daemon.IsConfigError(err):
		return misuse("%w", err)
	case err != nil:
		return err
	}
	if f, ok := errors.AsType[*finished](context.Cause(ctx)); ok {
		return f.err
	}
	return nil
}

// finished is why intersync ended by itself.
type finished struct{ err error }

func (f *finished) Error() string { return "finished" }

// checkHoarded looks whether all files of --hoard are here. A replica in step has
// the content of every file it has, so nothing needs to be fetched.
func (t *task) checkHoarded() error {
	if t.hoard == "" {
		return nil
	}
	missing, found, err := t.cache.MissingFiles(t.hoarded)
	if err != nil {
		return misuse("--hoard %s: %w", t.hoard, err)
	}
	if len(missing) > 0 {
		return &statusError{exitNo, fmt.Errorf("--hoard %s: not in the fileset: %s", t.hoard, strings.Join(missing, ", "))}
	}
	t.log.Info("all files to be hoarded are here; this is a full replica, so nothing had to be fetched", "files", found)
	return nil
}

// intoBackground starts this command again in the background, and waits until it
// is ready.
func (t *task) intoBackground(cmd *cobra.Command, dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	absolute := func(path string) string {
		if full, err := filepath.Abs(path); err == nil {
			return full
		}
		return path
	}
	args := []string{"intersync", "--run=" + t.run, "--docroot=" + string(t.docroot.Dir)}
	for _, f := range []struct{ name, value string }{
		{"local-ip", t.localIP}, {"server", t.server}, {"clientid", t.clientID}, {"fset", t.fset}, {"debug", t.debug},
	} {
		if f.value != "" {
			args = append(args, "--"+f.name+"="+f.value)
		}
	}
	if t.hoard != "" {
		args = append(args, "--hoard="+absolute(t.hoard))
	}
	if t.reint {
		args = append(args, "--reint")
	}
	for _, name := range []string{"local-port", "server-port"} {
		if f := cmd.Flags().Lookup(name); f.Changed {
			args = append(args, "--"+name+"="+f.Value.String())
		}
	}
	child, err := detach.Start(cmd.Context(), detach.Command{
		Path: exe, Args: append(args, absolute(dir)), Log: daemon.LogPath(t.run, t.name),
	})
	if child != nil {
		child.Release()
	}
	if e, ok := errors.AsType[*detach.StartError](err); ok && e.Code != 0 {
		return &statusError{e.Code, err}
	}
	return err
}
