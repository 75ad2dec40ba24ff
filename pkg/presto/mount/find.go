package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
)

// answerTime is how long a presto may take to say what it serves. It holds no
// lock that disk work takes while it answers, so only a broken one is late.
const answerTime = 5 * time.Second

// Presto is a process found behind a channel.
type Presto struct {
	Channel int
	Socket  string       // path of the channel's socket
	PID     int          // of the process that listens, in our own pid namespace
	Info    channel.Info // what it serves; zero if Err is set
	Err     error        // it listens, but did not answer
}

// SocketPath is the path of the socket of channel n.
func SocketPath(run string, n int) string { return filepath.Join(run, strconv.Itoa(n)) }

// PIDPath is the path of the file with the process id of the presto on channel n.
func PIDPath(run string, n int) string { return SocketPath(run, n) + ".pid" }

// LogPath is the path of the log of the presto on channel n.
func LogPath(run string, n int) string { return SocketPath(run, n) + ".log" }

// Survey asks every channel in the run folder what it serves, in order of the
// channels. A socket that nobody listens on is left out; a missing run folder
// has no channels. It blocks some seconds if a presto does not answer.
func Survey(ctx context.Context, run string) ([]Presto, error) {
	entries, err := os.ReadDir(run)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read run folder: %w", err)
	}
	var found []Presto
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n < 0 || n > config.MaxChannel || strconv.Itoa(n) != e.Name() || e.Type() != fs.ModeSocket {
			continue
		}
		if p, alive := Ask(ctx, run, n); alive {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b Presto) int { return a.Channel - b.Channel })
	return found, ctx.Err()
}

// Ask asks channel n what it serves. It reports false if nobody listens there.
func Ask(ctx context.Context, run string, n int) (Presto, bool) {
	p := Presto{Channel: n, Socket: SocketPath(run, n)}
	pid, err := listener(p.Socket)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return Presto{}, false
	}
	p.PID = pid
	if err != nil {
		p.Err = err
		return p, true
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p.Info, p.Err = askInfo(ctx, p.Socket)
	return p, true
}

func askInfo(ctx context.Context, socket string) (channel.Info, error) {
	client, err := channel.Dial(ctx, socket)
	if err != nil {
		return channel.Info{}, err
	}
	defer client.Close()
	info, err := client.Info(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return info, fmt.Errorf("channel %s: no answer within %v", socket, answerTime)
	}
	return info, err
}

// listener says which process listens on a unix socket, as the kernel knows it:
// in our pid namespace, and also where the process itself no longer answers.
func listener(socket string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	// EAGAIN: the backlog is full, so there is somebody, who does not accept.
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return 0, fmt.Errorf("connect %s: %w", socket, err)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", socket, err)
	}
	return int(cred.Pid), nil
}

// serving finds who serves source among prestos.
func serving(prestos []Presto, source string) (Presto, bool) {
	for _, p := range prestos {
		if p.Err == nil && sameSource(p.Info.Source, source) {
			return p, true
		}
	}
	return Presto{}, false
}

// sameSource reports whether two names mean one cache: the same path, device
// number, or inode.
func sameSource(a, b string) bool {
	if a == b {
		return true
	}
	var sa, sb unix.Stat_t
	if unix.Stat(a, &sa) != nil || unix.Stat(b, &sb) != nil {
		return false
	}
	if sa.Mode&unix.S_IFMT == unix.S_IFBLK {
		return sb.Mode&unix.S_IFMT == unix.S_IFBLK && sa.Rdev == sb.Rdev
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// owner finds the presto behind a mount, by the channels of the run folder and
// then by the command lines of all processes. It compares names only, because
// the source may itself lie below the mount.
func owner(ctx context.Context, run string, p Point) (Presto, bool) {
	runs := append([]string{run}, runFolders()...)
	for i, r := range runs {
		if slices.Contains(runs[:i], r) {
			continue
		}
		prestos, err := Survey(ctx, r)
		if err != nil {
			continue
		}
		for _, found := range prestos {
			if found.Err == nil && found.Info.Source == p.Source {
				return found, true
			}
		}
	}
	return Presto{}, false
}

// runFolders are the run folders of the prestos of this machine.
func runFolders() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var runs []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if run, _, ok := prestoOf(commandLine(pid)); ok {
			runs = append(runs, run)
		}
	}
	return runs
}

func commandLine(pid int) []string {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
}

// prestoOf takes run folder and channel out of the command line of a presto.
func prestoOf(args []string) (run string, number int, ok bool) {
	if len(args) < 2 || args[0] != prestoArg0 || args[1] != PrestoVerb {
		return "", 0, false
	}
	number = -1
	for _, a := range args[2:] {
		if v, ok := strings.CutPrefix(a, "--run="); ok {
			run = v
		}
		if v, ok := strings.CutPrefix(a, "--channel="); ok {
			number, _ = strconv.Atoi(v)
		}
	}
	return run, number, filepath.IsAbs(run) && number >= 0
}

// WaitEnding waits for the end of process pid if it is a presto that no longer
// serves its channel: it is writing its last, and then the cache is free. It
// reports whether it was one and has ended.
func WaitEnding(ctx context.Context, pid int) bool {
	run, number, ok := prestoOf(commandLine(pid))
	if !ok {
		return false
	}
	if _, err := listener(SocketPath(run, number)); err == nil {
		return false
	}
	return waitGone(ctx, pid, 0)
}
