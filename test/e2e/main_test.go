package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/presto/mount"
)

// bin is the folder of the tools under test.
var bin string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = filepath.Join(dir, "bin")
	helpers := filepath.Join(dir, "helpers")
	for _, d := range []string{bin, helpers} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return 1, err
		}
	}
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build tools: %w\n%s", err, out)
	}
	for link, tool := range map[string]string{"mount.intermezzo": "lento", "umount.fuse.intermezzo": "lento", "mkfs.intermezzo": "mkizofs"} {
		if err := os.Symlink(filepath.Join(bin, tool), filepath.Join(helpers, link)); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// host is a simulated host: a configuration, a run folder, a place for caches and
// mount points.
type host struct {
	t   *testing.T
	dir string
}

// limit bounds every command of a test.
const limit = time.Minute

// newHost makes a host that is taken away after the test, which fails if it
// leaves anything behind.
func newHost(t *testing.T) *host {
	t.Helper()
	needFUSE(t)
	dir, err := os.MkdirTemp("", "e2e-host")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir}
	for _, d := range []string{"etc", "run", "mnt"} {
		if err := os.Mkdir(h.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(h.clean)
	return h
}

func needFUSE(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting needs root")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skip("SKIPPED: no FUSE on this machine: ", err)
	}
	f.Close()
}

// clean ends what is left of the host. Having to is a fault of what was tested.
func (h *host) clean() {
	table, err := mount.Table()
	if err != nil {
		h.t.Error(err)
	}
	for _, m := range table {
		if strings.HasPrefix(m.Dir, h.dir+"/") {
			h.t.Errorf("left mounted: %s", m.Dir)
			unix.Unmount(m.Dir, unix.MNT_DETACH)
		}
	}
	pids, _ := filepath.Glob(h.path("run/*.pid"))
	for _, file := range pids {
		if pid := readPID(file); pid > 1 && runs(pid) {
			h.t.Errorf("left running: %s, process %d", filepath.Base(file), pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if h.t.Failed() {
		h.showLogs()
	}
	os.RemoveAll(h.dir)
}

func (h *host) showLogs() {
	logs, _ := filepath.Glob(h.path("run/*.log"))
	for _, file := range logs {
		text, _ := os.ReadFile(file)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		h.t.Logf("%s:\n%s", filepath.Base(file), strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func readPID(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// runs reports whether a process is there and not only waiting to be reaped.
func runs(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 0
}

// waitEnd waits until a process has ended.
func waitEnd(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds())); n != 1 {
		t.Fatalf("process %d does not end: %v", pid, err)
	}
}

// result is what a command came to.
type result struct {
	out, err string
	code     int
}

// environ is the environment of the host's commands.
func (h *host) environ() []string {
	return append(os.Environ(), "INTERMEZZO_CONFIG="+h.path("etc"), "INTERMEZZO_RUN="+h.path("run"), "PATH="+bin+":"+os.Getenv("PATH"))
}

// command makes a command of the host; a tool of ours by its name.
func (h *host) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if path := filepath.Join(bin, name); !strings.Contains(name, "/") {
		if _, err := os.Stat(path); err == nil {
			name = path
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir = h.environ(), h.dir
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a command to its end.
func (h *host) run(name string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	cmd := h.command(ctx, name, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	r := result{out: out.String(), err: complaint.String()}
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = e.ExitCode()
	} else if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		h.t.Fatalf("%s: %v", name, err)
	}
	return r
}

// must runs a command that has to succeed, and gives its output.
func (h *host) must(name string, args ...string) string {
	h.t.Helper()
	r := h.run(name, args...)
	if r.code != 0 {
		h.t.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs a command that has to fail with a status and one clear line.
func (h *host) refused(code int, says string, name string, args ...string) {
	h.t.Helper()
	r := h.run(name, args...)
	line := strings.TrimSpace(r.err)
	if r.code != code || !strings.Contains(line, says) || strings.Contains(line, "\n") || r.out != "" {
		h.t.Errorf("%s %s: exit status %d, want %d and a line with %q\n%s%s", name, strings.Join(args, " "), r.code, code, says, r.out, r.err)
	}
}

// format makes a cache on a loop file.
func (h *host) format(name string, filesets ...string) string {
	h.t.Helper()
	args := []string{"--size", "64M"}
	for _, f := range filesets {
		args = append(args, "--fileset", f)
	}
	h.must("mkizofs", append(args, h.path(name))...)
	return h.path(name)
}

// mkdir makes a folder of the host.
func (h *host) mkdir(name string) string {
	h.t.Helper()
	if err := os.MkdirAll(h.path(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

// script runs a shell script of the host in a mount namespace of its own, where
// our helpers are in /sbin and /etc/fstab has the given lines.
func (h *host) script(fstab, text string) string {
	h.t.Helper()
	if err := os.WriteFile(h.path("fstab"), []byte(fstab), 0o644); err != nil {
		h.t.Fatal(err)
	}
	setup := fmt.Sprintf(`sbin=$(readlink -f /sbin)
mount -t overlay -o lowerdir=%s:$sbin none $sbin
[ -e /etc/fstab ] || touch /etc/fstab
mount --bind %s /etc/fstab
`, filepath.Join(filepath.Dir(bin), "helpers"), h.path("fstab"))
	return h.must("unshare", "--mount", "--propagation", "private", "bash", "-euc", setup+text)
}

// freePort is a port on the loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
