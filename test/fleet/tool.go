package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/intermezzofs/intermezzo/test/netlab"
)

// marker names the variable that every process of a lab has in its environment.
const marker = "LAB_OF_HOSTS"

// mark is what a process of this lab has in its environment.
func (l *Lab) mark() string { return marker + "=" + l.Dir }

// Environ is the environment of what runs on a host: the caller's, with the
// host's configuration in force and our tools found first.
func (h *Host) Environ() []string {
	path := h.lab.Bin
	if old := os.Getenv("PATH"); old != "" {
		path += string(os.PathListSeparator) + old
	}
	ours := []string{"INTERMEZZO_CONFIG=" + h.Config(), h.runVariable(), "PATH=" + path, h.lab.mark()}
	// A variable that is there twice has whichever value its reader likes.
	env := slices.DeleteFunc(os.Environ(), func(old string) bool {
		name, _, _ := strings.Cut(old, "=")
		return slices.ContainsFunc(ours, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	})
	return append(env, ours...)
}

func (h *Host) runVariable() string { return "INTERMEZZO_RUN=" + h.Run() }

// lentoArgs are the arguments of lento on this host.
func (h *Host) lentoArgs(args ...string) []string {
	return append([]string{"--config", h.Config(), "--run", h.Run()}, args...)
}

// toolLimit bounds what any tool may take.
const toolLimit = 2 * time.Minute

// tool runs a tool of the suite for the host and returns what it printed. Where
// netns is set it runs in the host's network.
func (h *Host) tool(ctx context.Context, netns bool, name string, args ...string) ([]byte, error) {
	ctx, stop := context.WithTimeoutCause(ctx, toolLimit, fmt.Errorf("it took more than %v", toolLimit))
	defer stop()
	program := filepath.Join(h.lab.Bin, name)
	if _, err := os.Stat(program); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %s is not built: run make build", h.Name, program)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	if netns {
		cmd = netlab.Command(ctx, h.namespace(), program, args...)
	}
	var out, complaint bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = h.Environ(), &out, &complaint
	// A process that stays in the background may keep our pipes open.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.Bytes(), &toolError{host: h.Name, command: name + " " + verb(args), said: said(out.String(), complaint.String()), err: err}
}

// verb gives what of a command line tells one command of a tool from another.
func verb(args []string) string {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--config" || args[i] == "--run":
			i++
		default:
			return strings.Join(args[i:], " ")
		}
	}
	return ""
}

func said(out, complaint string) string {
	if text := strings.TrimSpace(complaint); text != "" {
		return text
	}
	return strings.TrimSpace(out)
}

// toolError is a tool that failed.
type toolError struct {
	host, command, said string
	err                 error
}

func (e *toolError) Error() string {
	text := fmt.Sprintf("%s: %s: %v", e.host, e.command, e.err)
	if e.said != "" {
		text += "\n" + e.said
	}
	return text
}

func (e *toolError) Unwrap() error { return e.err }
