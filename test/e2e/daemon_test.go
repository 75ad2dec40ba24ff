package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// status is the part of "lento status --json" that tests look at.
type status struct {
	Daemons  []struct{ PID int }
	Filesets []struct {
		Name, Role, Error                          string
		Connected                                  bool
		Own, Confirmed, Order, Applied, Server_end uint64
		Pending_records                            uint64
	}
}

func (h *host) status() status {
	h.t.Helper()
	r := h.run("lento", "status", "--json")
	var s status
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		h.t.Fatalf("status: %v\n%s%s", err, r.out, r.err)
	}
	return s
}

// until waits until the status is as wanted.
func (h *host) until(what string, ok func(status) bool) status {
	h.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		s := h.status()
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: not within %v: %+v", what, limit, s)
		}
	}
}

// serverOf configures the host as server of the fileset "shared" on port.
func (h *host) serverOf(port string) {
	h.t.Helper()
	h.must("inconfig", "init", "--name", "iserver", "--bind", "127.0.0.1:"+port)
	h.must("inconfig", "fileset", "add", "shared", "--server", "iserver", "--device", h.path("img"), "--mountpoint", h.path("mnt"), "--channel", "0")
}

// background runs lento in the background, and gives its process id.
func (h *host) background() int {
	h.t.Helper()
	h.must("lento")
	pid := readPID(h.path("run/lento.pid"))
	if pid <= 1 || !runs(pid) {
		h.t.Fatalf("no daemon after lento returned: pid %d", pid)
	}
	return pid
}

// end stops a process by a signal and waits for it.
func (h *host) end(pid int, sig syscall.Signal) {
	h.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		h.t.Fatal(err)
	}
	waitEnd(h.t, pid)
}

func TestLento_Background(t *testing.T) {
	h := newHost(t)
	h.serverOf(freePort(t))
	pid := h.background()
	s := h.status()
	if len(s.Daemons) != 1 || s.Daemons[0].PID != pid || len(s.Filesets) != 1 || !strings.Contains(s.Filesets[0].Error, "not mounted") {
		t.Errorf("status: %+v", s)
	}
	h.refused(1, "is running already", "lento")
	image := h.format("img", "shared")
	h.must("lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
	h.until("in service", func(s status) bool { return s.Filesets[0].Connected && s.Filesets[0].Error == "" })
	// The mount lives on while the daemon does not.
	h.end(pid, syscall.SIGTERM)
	if _, err := os.Stat(h.path("run/lento.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pid file was left: %v", err)
	}
	if err := os.WriteFile(h.path("mnt/file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	pid = h.background()
	h.until("in service again", func(s status) bool { return s.Filesets[0].Connected })
	own := strings.TrimSpace(h.must("lento", "barrier", "--wait", "shared"))
	if s := h.status(); s.Filesets[0].Own == 0 || s.Filesets[0].Confirmed < 1 || own == "0" {
		t.Errorf("own log ends at %s: %+v", own, s)
	}
	// A presto may go and come back, too.
	h.must("lento", "umount", h.path("mnt"))
	h.until("not mounted", func(s status) bool { return !s.Filesets[0].Connected })
	h.must("lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
	h.until("mounted again", func(s status) bool { return s.Filesets[0].Connected && s.Filesets[0].Error == "" })
	h.end(pid, syscall.SIGKILL)
	pid = h.background() // in spite of what the killed one left
	h.end(pid, syscall.SIGINT)
	h.must("lento", "umount", h.path("mnt"))
	h.must("e2fsck", "-fn", image)
}

func TestLento_BadConfiguration(t *testing.T) {
	h := newHost(t)
	h.refused(2, "inconfig", "lento")
	port := freePort(t)
	h.serverOf(port)
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	h.refused(3, "another program has this port", "lento")
	l.Close()
	good, err := os.ReadFile(h.path("etc/fsetdb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("etc/fsetdb"), append(good, "chanel = 3\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][]string{{"--foreground"}, nil} {
		r := h.run("lento", way...)
		if r.code != 2 || !strings.Contains(r.err, "fsetdb:") || !strings.Contains(r.err, "chanel") {
			t.Errorf("%q: exit status %d\n%s", way, r.code, r.err)
		}
	}
	// A running daemon keeps the configuration it has.
	if err := os.WriteFile(h.path("etc/fsetdb"), good, 0o644); err != nil {
		t.Fatal(err)
	}
	pid := h.background()
	if err := os.WriteFile(h.path("etc/fsetdb"), append(good, "chanel = 3\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.untilStatusSays("not in force")
	h.end(pid, syscall.SIGTERM)
}

// untilStatusSays waits until the status for people has a text.
func (h *host) untilStatusSays(text string) {
	h.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		r := h.run("lento", "status")
		if strings.Contains(r.out, text) {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("status does not say %q:\n%s", text, r.out)
		}
	}
}

func TestLento_TellsServiceManager(t *testing.T) {
	h := newHost(t)
	h.serverOf(freePort(t))
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := h.command(ctx, "lento", "--foreground")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("notify"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(limit))
		buf := make([]byte, 256)
		n, err := l.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), want) {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	expect("READY=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error("exit:", err)
	}
}

// follow runs a command in the foreground until stop is called. The log of the
// command goes to that of the test if it fails.
type following struct {
	cmd   *exec.Cmd
	lines chan string
}

// start starts a command that logs to standard error.
func (h *host) start(name string, args ...string) *following {
	h.t.Helper()
	cmd := h.command(context.WithoutCancel(h.t.Context()), name, args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	f := &following{cmd: cmd, lines: make(chan string, 1000)}
	go func() {
		defer close(f.lines)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			f.lines <- s.Text()
		}
	}()
	h.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			h.t.Errorf("left running: %s", name)
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return f
}

// waitLine waits until the command says text.
func (f *following) waitLine(t *testing.T, text string) {
	t.Helper()
	var said []string
	timeout := time.After(limit)
	for {
		select {
		case line, ok := <-f.lines:
			if !ok {
				t.Fatalf("ended before it said %q:\n%s", text, strings.Join(said, "\n"))
			}
			if said = append(said, line); strings.Contains(line, text) {
				return
			}
		case <-timeout:
			t.Fatalf("does not say %q:\n%s", text, strings.Join(said, "\n"))
		}
	}
}

// interrupt is ^C. The command has to end with status 0.
func (f *following) interrupt(t *testing.T) {
	t.Helper()
	if err := f.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var said []string
	for line := range f.lines {
		said = append(said, line)
	}
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("after ^C: %v\n%s", err, strings.Join(said, "\n"))
	}
}
