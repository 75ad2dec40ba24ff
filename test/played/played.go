// Package played sets up two hosts on this machine with the suite's own tools,
// as an administrator would: each with a configuration folder, a key, a cache on
// a loop file, a mount and a daemon. The demo and the benchmarks use it; the
// fleet of test/lab is for what needs networks.
package played

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Fileset is the name of the one fileset that the hosts share.
const Fileset = "shared"

// Host is one of the two. Its files lie below Dir.
type Host struct {
	Name  string
	Dir   string
	Mnt   string
	tools string // folder of the binaries
	say   func(format string, args ...any)
}

// Pair is a server and a client.
type Pair struct {
	Server, Client *Host
	address        string
}

// New makes the folders of two hosts below dir. tools has the binaries. say is
// told every command before it runs.
func New(dir, tools string, say func(format string, args ...any)) (*Pair, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &Pair{address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	for _, h := range []struct {
		name string
		to   **Host
	}{{"server", &p.Server}, {"laptop", &p.Client}} {
		d := filepath.Join(dir, h.name)
		*h.to = &Host{Name: h.name, Dir: d, Mnt: filepath.Join(d, "mnt"), tools: tools, say: say}
		for _, sub := range []string{"etc", "run", "mnt"} {
			if err := os.MkdirAll(filepath.Join(d, sub), 0o755); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Image is the host's cache device.
func (h *Host) Image() string { return filepath.Join(h.Dir, "cache.img") }

func (h *Host) command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	all := args
	if tool != "mkizofs" {
		all = append([]string{"--config", filepath.Join(h.Dir, "etc"), "--run", filepath.Join(h.Dir, "run")}, args...)
	}
	h.say("%s# %s %s", h.Name, tool, strings.Join(args, " "))
	return exec.CommandContext(ctx, filepath.Join(h.tools, tool), all...)
}

// Run runs one of the suite's tools as this host and returns what it printed on
// its standard output.
func (h *Host) Run(ctx context.Context, tool string, args ...string) (string, error) {
	return output(h.command(ctx, tool, args...))
}

func (h *Host) quiet(ctx context.Context, tool string, args ...string) (string, error) {
	say := h.say
	h.say = func(string, ...any) {}
	defer func() { h.say = say }()
	return h.Run(ctx, tool, args...)
}

func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Up formats, configures, checks, mounts and starts both hosts. size is that of
// each cache, as mkizofs takes it.
func (p *Pair) Up(ctx context.Context, size string) error {
	s, c := p.Server, p.Client
	if err := s.steps(ctx, [][]string{
		{"inconfig", "init", "--name", s.Name, "--bind", p.address},
		{"inconfig", "fileset", "add", Fileset, "--server", s.Name, "--mountpoint", s.Mnt, "--device", s.Image(), "--channel", "0"},
	}); err != nil {
		return err
	}
	if err := s.cache(ctx, size); err != nil {
		return err
	}
	code, err := s.Run(ctx, "inconfig", "invite", Fileset, c.Name, "--address", p.address)
	if err != nil {
		return err
	}
	if err := c.steps(ctx, [][]string{{"inconfig", "accept", code, "--name", c.Name, "--mountpoint", c.Mnt, "--device", c.Image(), "--channel", "0"}}); err != nil {
		return err
	}
	return c.cache(ctx, size)
}

// cache formats and mounts the host's cache and starts its daemon.
func (h *Host) cache(ctx context.Context, size string) error {
	return h.steps(ctx, [][]string{
		{"mkizofs", "--quiet", "--size", size, "--fileset", Fileset, h.Image()},
		{"lento", "mount", h.Image(), h.Mnt, "-o", "fileset=" + Fileset + ",channel=0"},
		{"lento"},
	})
}

func (h *Host) steps(ctx context.Context, steps [][]string) error {
	for _, s := range steps {
		if _, err := h.Run(ctx, s[0], s[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// Status is what "lento status --json" says about the fileset.
type Status struct {
	Connected      bool   `json:"connected"`
	Own            uint64 `json:"own"`
	Confirmed      uint64 `json:"confirmed"`
	Order          uint64 `json:"order"`
	Applied        uint64 `json:"applied"`
	PendingRecords uint64 `json:"pending_records"`
	BytesIn        int64  `json:"bytes_in"`
	BytesOut       int64  `json:"bytes_out"`
	Error          string `json:"error"`
}

// Status asks the host how its fileset is.
func (h *Host) Status(ctx context.Context) (Status, error) {
	text, err := h.quiet(ctx, "lento", "status", "--json")
	if text == "" {
		return Status{}, err
	}
	var all struct {
		Filesets []Status `json:"filesets"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return Status{}, fmt.Errorf("read lento status: %w", err)
	}
	if len(all.Filesets) != 1 {
		return Status{}, fmt.Errorf("lento status of %s speaks of %d filesets, want 1", h.Name, len(all.Filesets))
	}
	return all.Filesets[0], nil
}

// InStep waits until everything that was done on either host before the call is
// applied on both.
func (p *Pair) InStep(ctx context.Context) error {
	var ends [2]uint64
	for i, h := range []*Host{p.Server, p.Client} {
		text, err := h.quiet(ctx, "lento", "barrier", Fileset)
		if err != nil {
			return err
		}
		if ends[i], err = strconv.ParseUint(text, 10, 64); err != nil {
			return err
		}
	}
	for {
		s, err := p.Server.Status(ctx)
		if err != nil {
			return err
		}
		c, err := p.Client.Status(ctx)
		if err != nil {
			return err
		}
		if c.Confirmed >= ends[1] && s.Confirmed >= ends[0] && c.Applied >= s.Order {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in step: server %+v, client %+v: %w", s, c, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Wire is how many bytes the client's daemon has sent and received.
func (p *Pair) Wire(ctx context.Context) (int64, error) {
	s, err := p.Client.Status(ctx)
	return s.BytesIn + s.BytesOut, err
}

// StopDaemon ends the host's daemon and waits for it.
func (h *Host) StopDaemon() error {
	b, err := os.ReadFile(filepath.Join(h.Dir, "run", "lento.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	h.say("%s# kill %d    (lento)", h.Name, pid)
	return endProcess(pid)
}

// Down stops the daemons and unmounts, also where only a part was set up.
func (p *Pair) Down(ctx context.Context) error {
	var errs []error
	for _, h := range []*Host{p.Client, p.Server} {
		errs = append(errs, h.StopDaemon())
		if mounted(h.Mnt) {
			_, err := h.Run(ctx, "lento", "umount", h.Mnt)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Logs copies the hosts' logs to w, for when something went wrong.
func (p *Pair) Logs(w io.Writer) {
	for _, h := range []*Host{p.Server, p.Client} {
		logs, _ := filepath.Glob(filepath.Join(h.Dir, "run", "*.log"))
		for _, name := range logs {
			if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
				fmt.Fprintf(w, "--- %s\n%s", name, b)
			}
		}
	}
}
