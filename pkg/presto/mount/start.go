package mount

import (
	"context"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/detach"
)

// PrestoVerb is the hidden verb of lento that is a presto.
const PrestoVerb = "presto"

// prestoArg0 is what a presto is called in the process list. systemd does not
// kill what begins with @ at shutdown, which unmounts first.
const prestoArg0 = "@lento"

// start runs a presto for the request on channel n and waits until it serves the
// channel. If it ends as long as we hold on to it, nothing was mounted.
func start(ctx context.Context, r request, n int) (*detach.Child, error) {
	c, err := detach.Start(ctx, detach.Command{Path: r.Executable, Args: prestoArgs(r, n), Log: LogPath(r.Run, n)})
	if err == nil {
		return c, nil
	}
	abandon(c)
	if e, ok := errors.AsType[*detach.StartError](err); ok {
		class := Failed
		if e.Code != 0 {
			class = Class(e.Code)
		}
		return nil, &Failure{Class: class, Err: err}
	}
	if ctx.Err() != nil {
		return nil, failure(Interrupted, "start presto: %w", err)
	}
	return nil, failure(System, "start presto: %w", err)
}

func prestoArgs(r request, n int) []string {
	args := []string{prestoArg0, PrestoVerb, "--run=" + r.Run, "--source=" + r.Source, "--channel=" + strconv.Itoa(n)}
	if r.Want.CacheType != "" {
		args = append(args, "--cache-type="+r.Want.CacheType)
	}
	return args
}

// abandon ends a presto that has nothing mounted, and waits for it, so that the
// cache is free again when the error is printed.
func abandon(c *detach.Child) {
	if c == nil {
		return
	}
	c.Release()
	// It has no work to make durable, so it is quick; if not, it is not ours to kill.
	waitGone(context.Background(), c.PID, answerTime)
}

// waitGone waits until process pid has ended, at most limit (0: no limit). It
// reports whether it has.
func waitGone(ctx context.Context, pid int, limit time.Duration) bool {
	if pid <= 0 {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	return waitPidfd(ctx, fd, limit)
}

func waitPidfd(ctx context.Context, fd int, limit time.Duration) bool {
	begin := time.Now()
	for ctx.Err() == nil && (limit == 0 || time.Since(begin) < limit) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		// Short, only so that a cancelled context is seen.
		n, err := unix.Poll(fds, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n > 0 {
			return true
		}
	}
	return false
}
