package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/netlab"
	"github.com/intermezzofs/intermezzo/test/process"
)

// Part is one of the two processes of a host.
type Part string

const (
	Daemon Part = "daemon"
	Presto Part = "presto"
)

// ParsePart reads the name of a part.
func ParsePart(s string) (Part, error) {
	switch p := Part(s); p {
	case Daemon, Presto:
		return p, nil
	}
	return "", fmt.Errorf("%q: want daemon or presto", s)
}

// pidFile is where a part says which process it is.
func (h *Host) pidFile(p Part) string {
	if p == Daemon {
		return filepath.Join(h.Run(), "lento.pid")
	}
	return filepath.Join(h.Run(), channelN+".pid")
}

// is recognises a process of the lab.
func (l *Lab) is(pid int) bool { return slices.Contains(process.Environment(pid), l.mark()) }

// isPart recognises a part of this host, whoever started it: by its program, its
// run folder, and the verb that makes lento a presto.
func (h *Host) isPart(p Part) process.Is {
	return func(pid int) bool {
		if !slices.Contains([]string{"lento", "intersync"}, process.Executable(pid)) {
			return false
		}
		args := process.Arguments(pid)
		ours := slices.Contains(process.Environment(pid), h.runVariable()) ||
			slices.Contains(args, h.Run()) || slices.Contains(args, "--run="+h.Run())
		return ours && slices.Contains(args, "presto") == (p == Presto)
	}
}

// open takes hold of a part. process.ErrNone: it does not run.
func (h *Host) open(p Part) (*process.Process, error) {
	return process.OpenFile(h.pidFile(p), h.isPart(p))
}

// PID gives the pid of a part. ErrNo: it does not run.
func (h *Host) PID(p Part) (int, error) {
	proc, err := h.open(p)
	if errors.Is(err, process.ErrNone) {
		return 0, no("the %s of %s does not run", p, h.Name)
	}
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	return proc.PID, nil
}

func (h *Host) running(p Part) bool {
	_, err := h.PID(p)
	return err == nil
}

// Kill kills a part, and returns when it is gone. One that does not run is
// noted, and no error.
func (l *Lab) Kill(ctx context.Context, h *Host, p Part) error {
	return l.change(func() error {
		proc, err := h.open(p)
		if errors.Is(err, process.ErrNone) {
			l.note("the %s of %s was not running", p, h.Name)
			return nil
		}
		if err != nil {
			return err
		}
		defer proc.Close()
		if err := proc.Kill(ctx); err != nil {
			return fmt.Errorf("kill %s of %s: %w", p, h.Name, err)
		}
		return nil
	})
}

// stopLimit is how long a part may take to end when it is asked to.
const stopLimit = time.Minute

// Stop ends a part as an administrator does, and returns when it is gone. Stopping
// presto unmounts.
func (l *Lab) Stop(ctx context.Context, h *Host, p Part) error {
	return l.change(func() error {
		if p == Presto {
			return h.stopPresto(ctx)
		}
		return h.stopDaemon(ctx)
	})
}

func (h *Host) stopDaemon(ctx context.Context) error {
	proc, err := h.open(Daemon)
	if errors.Is(err, process.ErrNone) {
		h.lab.note("the daemon of %s was not running", h.Name)
		return nil
	}
	if err != nil {
		return err
	}
	defer proc.Close()
	if err := proc.Signal(unix.SIGTERM); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, stopLimit)
	defer stop()
	if err := proc.Wait(ctx); err != nil {
		return fmt.Errorf("stop daemon of %s: %w; see %s", h.Name, err, h.daemonLog())
	}
	return nil
}

func (h *Host) stopPresto(ctx context.Context) error {
	if !h.running(Presto) {
		h.lab.note("the presto of %s was not running", h.Name)
		return detachAll(h.Mount())
	}
	mounted, err := mountsAt(h.Mount())
	if err != nil {
		return err
	}
	if mounted == 0 {
		return fmt.Errorf("stop presto of %s: it runs, but nothing is mounted on %s", h.Name, h.Mount())
	}
	if _, err := h.tool(ctx, false, "lento", h.lentoArgs("umount", h.Mount())...); err != nil {
		return err
	}
	if h.running(Presto) {
		return fmt.Errorf("stop presto of %s: it still runs after its unmount", h.Name)
	}
	return nil
}

// Start starts a part, and returns when it answers. One that runs is noted, and
// no error.
func (l *Lab) Start(ctx context.Context, h *Host, p Part) error {
	return l.change(func() error {
		if h.running(p) {
			l.note("the %s of %s is running", p, h.Name)
			return nil
		}
		if p == Presto {
			return h.startPresto(ctx)
		}
		return h.startDaemon(ctx)
	})
}

// startPresto mounts the fileset. What a dead presto left mounted is taken away
// first, and its cache waited for.
func (h *Host) startPresto(ctx context.Context) error {
	if err := detachAll(h.Mount()); err != nil {
		return err
	}
	if err := h.waitBottom(ctx); err != nil {
		return err
	}
	options := "fileset=" + shared + ",channel=" + channelN
	if _, err := h.tool(ctx, false, "lento", h.lentoArgs("mount", h.Source(), h.Mount(), "-o", options)...); err != nil {
		return err
	}
	return h.waitUsable(ctx)
}

// readyLimit is how long a daemon may take until it answers.
const readyLimit = 30 * time.Second

// startDaemon starts the daemon in the host's network, and waits until it
// answers.
func (h *Host) startDaemon(ctx context.Context) error {
	log, err := os.OpenFile(h.daemonLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open daemon's log: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("open daemon's log: %w", err)
	}
	program := filepath.Join(h.lab.Bin, "lento")
	cmd := netlab.Command(context.WithoutCancel(ctx), h.namespace(), program, h.lentoArgs("--foreground")...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = h.Environ(), "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start daemon of %s: %w", h.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	ctx, stop := context.WithTimeout(ctx, readyLimit)
	defer stop()
	for {
		status, err := h.status(ctx)
		if err == nil && status.answers(cmd.Process.Pid) {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("start daemon of %s: it ended: %v\n%s", h.Name, err, tail(h.daemonLog(), before))
		case <-ctx.Done():
			return fmt.Errorf("start daemon of %s: it does not answer within %v (%v)\n%s", h.Name, readyLimit, err, tail(h.daemonLog(), before))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail gives what was written to a log since it was so long, at most its last
// lines.
func tail(path string, since int64) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data[min(since, int64(len(data))):])), "\n")
	const most = 15
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
