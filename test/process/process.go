// Package process ends processes that somebody else started and that are known
// by a pid only. A pid may be used again by a stranger at any time, so a process
// is held by a pidfd first, then recognised, and only then signalled.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone means that there is no such process, or that it is another one.
var ErrNone = errors.New("no such process")

// Process is a running process, held so that its pid can't be used again
// unnoticed. Close lets go of it.
type Process struct {
	PID int
	fd  int
}

// Is tells whether a pid is the process that is meant. It is asked while the
// process is held.
type Is func(pid int) bool

// Open takes hold of a process if it is the one that is meant. One that is dead
// and only waits to be reaped is none.
func Open(pid int, is Is) (*Process, error) {
	if pid <= 1 {
		return nil, ErrNone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	p := &Process{PID: pid, fd: fd}
	if p.ended(0) || !is(pid) || p.ended(0) {
		p.Close()
		return nil, ErrNone
	}
	return p, nil
}

// OpenFile is Open for the pid that a file holds. No file, or one without a pid
// in it, is no process.
func OpenFile(path string, is Is) (*Process, error) {
	pid, err := ReadPID(path)
	if err != nil {
		return nil, err
	}
	return Open(pid, is)
}

// ReadPID reads a pid file. ErrNone: there is none, or there is no pid in it.
func ReadPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrNone
	}
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, ErrNone
	}
	return pid, nil
}

// Close lets go of the process. It does not end it.
func (p *Process) Close() { unix.Close(p.fd) }

// Signal sends a signal. A process that has ended meanwhile is no error.
func (p *Process) Signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// ended waits for the end of the process, at most so long.
func (p *Process) ended(limit time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	return err == nil && n > 0
}

// Wait blocks until the process has ended or ctx does.
func (p *Process) Wait(ctx context.Context) error {
	for !p.ended(50 * time.Millisecond) {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the end of process %d: %w", p.PID, context.Cause(ctx))
		}
	}
	return nil
}

// End asks the process to end, gives it so long, then kills it. It reports
// whether the process ended by itself.
func (p *Process) End(ctx context.Context, grace time.Duration) (byItself bool, err error) {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return false, err
	}
	limited, stop := context.WithTimeout(ctx, grace)
	defer stop()
	if p.Wait(limited) == nil {
		return true, nil
	}
	return false, p.Kill(ctx)
}

// Kill sends SIGKILL and waits until the process is gone.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.Wait(ctx)
}

// Arguments gives a process's command line, nil if it can't be read.
func Arguments(pid int) []string { return list(pid, "cmdline") }

// Environment gives the environment a process was started with, nil if it can't
// be read.
func Environment(pid int) []string { return list(pid, "environ") }

func list(pid int, file string) []string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
}

// Executable gives the base name of the program a process runs, "" if it can't
// be read.
func Executable(pid int) string {
	path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSuffix(path, " (deleted)"))
}

// All gives the pids of the processes that is tells to be meant.
func All(is Is) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && is(pid) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Ancestors gives this process and those it descends from.
func Ancestors() map[int]bool {
	out := make(map[int]bool)
	for pid := os.Getpid(); pid > 0 && !out[pid]; pid = parent(pid) {
		out[pid] = true
	}
	return out
}

func parent(pid int) int {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// The second field is the program's name in brackets, and may hold any bytes.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return ppid
}
