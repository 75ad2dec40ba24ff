package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// childWord is the first argument of this program when it is its own child.
const childWord = "netlab-child"

// self is this program, also after its file was replaced by a newer build.
const self = "/proc/self/exe"

// Child does the work of a child and exits, if this process is one. It must be
// the first thing that main, or TestMain, calls.
func Child() {
	if len(os.Args) < 3 || os.Args[1] != childWord {
		return
	}
	if err := child(os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(childFailed)
	}
	os.Exit(0)
}

// childFailed is the exit status of a child that could not do its work.
const childFailed = 2

func child(verb string, args []string) error {
	switch verb {
	case "hold": // a new namespace, until somebody else holds it
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "enter":
		return Exec(args[0], os.Environ(), args[1], args[2:]...)
	case "operate":
		return operate(os.Stdin, os.Stdout)
	case "relay":
		return relay(os.Stdin, os.Stdout)
	}
	return fmt.Errorf("no such work for a child: %q", verb)
}

// Exec replaces this process by a command in the network namespace that the
// file ns holds. It returns only if that is not possible. The name is looked up
// along the PATH of env.
func Exec(ns string, env []string, name string, args ...string) error {
	// execve keeps the namespaces of the thread that calls it.
	runtime.LockOSThread()
	fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", ns, err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns, err)
	}
	for _, e := range env {
		if len(e) > 5 && e[:5] == "PATH=" {
			if err := os.Setenv("PATH", e[5:]); err != nil {
				return fmt.Errorf("set PATH: %w", err)
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return err
	}
	if err := unix.Exec(path, append([]string{name}, args...), env); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

// Command prepares a command that runs in the network namespace that the file
// ns holds, with all else of the caller. Its pid is the command's own: the
// child enters the namespace and becomes the command.
func Command(ctx context.Context, ns, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, self, append([]string{childWord, "enter", ns, name}, args...)...)
}

// childCommand prepares a child of this program in the namespace ns.
func childCommand(ctx context.Context, ns, verb string) *exec.Cmd {
	return Command(ctx, ns, self, childWord, verb)
}
