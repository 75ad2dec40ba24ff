package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/test/netlab"
	"github.com/intermezzofs/intermezzo/test/process"
)

// suite is the folder with the tools and the lab as they are now, which are built
// by the first test that needs them.
type suite struct {
	dir  string
	once sync.Once
	err  error
}

var built suite

func (s *suite) build() (string, error) {
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "suite"); s.err != nil {
			return
		}
		for _, what := range [][]string{{s.dir + "/", "../../../cmd/..."}, {s.dir + "/lab", "."}} {
			cmd := exec.Command("go", "build", "-trimpath", "-o", what[0], what[1])
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				s.err = fmt.Errorf("build %s: %w\n%s", what[1], err, out)
				return
			}
		}
	})
	return s.dir, s.err
}

func TestMain(m *testing.M) {
	netlab.Child()
	status := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// fleetOf is a lab that a test drives from outside.
type fleetOf struct {
	t   *testing.T
	lab string // the program
	dir string
}

// newFleet prepares a lab, and makes sure that nothing of it is left.
func newFleet(t *testing.T) *fleetOf {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes mounts and network namespaces: needs root")
	}
	bin, err := built.build()
	if err != nil {
		t.Fatal(err)
	}
	f := &fleetOf{t: t, lab: filepath.Join(bin, "lab"), dir: filepath.Join(t.TempDir(), "lab")}
	t.Cleanup(func() {
		f.want(0, "down", f.dir)
		f.want(0, "down", f.dir)
		f.nothingLeft()
	})
	return f
}

// run runs a verb and returns what it printed and its exit status.
func (f *fleetOf) run(args ...string) (out, notes string, status int) {
	f.t.Helper()
	var o, n bytes.Buffer
	cmd := exec.Command(f.lab, args...)
	cmd.Stdout, cmd.Stderr = &o, &n
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return o.String(), n.String(), exit.ExitCode()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return o.String(), n.String(), 0
}

// want runs a verb that must end with a status.
func (f *fleetOf) want(status int, args ...string) string {
	f.t.Helper()
	out, notes, got := f.run(args...)
	if got != status {
		f.t.Fatalf("lab %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, status, out, notes)
	}
	return out
}

// inStep waits until all connected hosts are in step, and compares some.
func (f *fleetOf) inStep(hosts ...string) {
	f.t.Helper()
	f.want(0, "wait", f.dir)
	f.want(0, append([]string{"same", f.dir}, hosts...)...)
}

func (f *fleetOf) path(host, name string) string { return filepath.Join(f.dir, host, "mnt", name) }

func (f *fleetOf) write(host, name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path(host, name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleetOf) read(host, name, want string) {
	f.t.Helper()
	got, err := os.ReadFile(f.path(host, name))
	if err != nil || string(got) != want {
		f.t.Errorf("%s has %q in %s (%v), want %q", host, got, name, err, want)
	}
}

func (f *fleetOf) nothingLeft() {
	f.t.Helper()
	if _, err := os.Lstat(f.dir); !errors.Is(err, os.ErrNotExist) {
		f.t.Errorf("the folder is still there: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(f.dir)) {
		f.t.Errorf("mounts of the lab are left (%v)", err)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		f.t.Error(err)
	}
	for _, path := range loops {
		if file, err := os.ReadFile(path); err == nil && bytes.HasPrefix(file, []byte(f.dir)) {
			f.t.Errorf("%s still has %s", path, file)
		}
	}
	left, err := process.All(func(pid int) bool {
		return slices.ContainsFunc(process.Environment(pid), func(v string) bool { return strings.HasSuffix(v, "="+f.dir) }) ||
			slices.ContainsFunc(process.Arguments(pid), func(a string) bool { return strings.Contains(a, f.dir) })
	})
	if err != nil || len(left) > 0 {
		f.t.Errorf("processes of the lab are left: %v, %v", left, err)
	}
}

func TestLab_TwoHostsThroughEverything(t *testing.T) {
	f := newFleet(t)
	begin := time.Now()
	f.want(0, "up", f.dir)
	t.Logf("up took %v", time.Since(begin))
	f.want(2, "up", f.dir)
	f.write("host1", "one", "from host1")
	f.write("host2", "two", "from host2")
	f.inStep()
	f.read("host2", "one", "from host1")
	f.read("host1", "two", "from host2")

	t.Run("open file", f.openFile)
	t.Run("cut", f.cut)
	t.Run("kill and stop", f.killAndStop)
	t.Run("link", f.link)
	t.Run("exec", f.exec)
	t.Run("two at once", f.another)
}

// openFile: the content of a file that is open for write counts as done.
func (f *fleetOf) openFile(t *testing.T) {
	file, err := os.Create(f.path("host2", "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("so far"); err != nil {
		t.Fatal(err)
	}
	f.want(0, "wait", f.dir)
	f.read("host1", "open", "so far")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	f.inStep()
}

func (f *fleetOf) cut(t *testing.T) {
	f.want(0, "cut", f.dir, "host2")
	f.write("host1", "while cut 1", "x")
	f.write("host2", "while cut 2", "y")
	if _, notes, status := f.run("wait", f.dir); status != 0 || !strings.Contains(notes, "host2 is left out: it is cut") {
		t.Errorf("wait: status %d, notes %q", status, notes)
	}
	out := f.want(1, "same", f.dir)
	for _, name := range []string{"while cut 1: presence", "while cut 2: presence"} {
		if !strings.Contains(out, name) {
			t.Errorf("same does not print %q: %q", name, out)
		}
	}
	f.want(0, "heal", f.dir, "host2")
	f.inStep()
}

func (f *fleetOf) killAndStop(t *testing.T) {
	for _, host := range []string{"host1", "host2"} {
		for _, part := range []string{"daemon", "presto"} {
			for _, verb := range []string{"kill", "stop"} {
				pid := f.want(0, "pid", f.dir, host, part)
				f.want(0, verb, f.dir, host, part)
				f.want(1, "pid", f.dir, host, part)
				if part == "daemon" {
					f.write(host, verb+" "+host, "local work goes on")
				} else if verb == "stop" {
					f.checkBottom(t, host)
				}
				f.write(map[string]string{"host1": "host2", "host2": "host1"}[host], part+verb, "the other works, too")
				f.want(0, "start", f.dir, host, part)
				if again := f.want(0, "pid", f.dir, host, part); again == pid {
					t.Errorf("%s of %s has pid %s after %s and start", part, host, again, verb)
				}
				f.inStep()
			}
		}
	}
}

// checkBottom: an unmounted cache is clean.
func (f *fleetOf) checkBottom(t *testing.T, host string) {
	device := strings.TrimSpace(f.want(0, "device", f.dir, host))
	e2fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Logf("not checked: %v", err)
		return
	}
	if out, err := exec.Command(e2fsck, "-fn", device).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn %s: %v\n%s", device, err, out)
	}
}

func (f *fleetOf) link(t *testing.T) {
	f.want(0, "link", f.dir, "host2", "--delay", "20ms", "--rate", "10M", "--loss", "1")
	before := f.bytes(t)
	f.write("host1", "slow", strings.Repeat("0123456789abcdef", 1<<14))
	f.inStep()
	f.want(0, "link", f.dir, "host2")
	f.write("host1", "fast", "again")
	f.inStep()
	after := f.bytes(t)
	if after["host2"][0] <= before["host2"][0] || after["host1"][1] <= before["host1"][1] {
		t.Errorf("bytes before %v, after %v", before, after)
	}
}

// bytes gives what the links carried: in and out for each host.
func (f *fleetOf) bytes(t *testing.T) map[string][2]int64 {
	out := make(map[string][2]int64)
	for line := range strings.Lines(f.want(0, "bytes", f.dir)) {
		var host string
		var n [2]int64
		if _, err := fmt.Sscanf(line, "%s in %d out %d\n", &host, &n[0], &n[1]); err != nil {
			t.Fatalf("bytes printed %q: %v", line, err)
		}
		out[host] = n
	}
	if len(out) != 2 {
		t.Errorf("bytes of %v", out)
	}
	return out
}

func (f *fleetOf) exec(t *testing.T) {
	f.want(37, "exec", f.dir, "host2", "--", "sh", "-c", "exit 37")
	f.want(2, "exec", f.dir, "host2", "--", "no-such-command")
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got := f.want(0, "exec", f.dir, "host2", "--", "pwd"); got != wd+"\n" {
		t.Errorf("current folder %q, want %q", got, wd)
	}
	if got := f.want(0, "exec", f.dir, "host2", "--", "lento", "status"); !strings.Contains(got, "shared") {
		t.Errorf("lento status on host2: %q", got)
	}
	f.want(0, "exec", f.dir, "host1", "--", "touch", f.path("host2", "the caller's mounts"))
}

// another: a second lab beside this one, with other names for all there is, and
// what is left running in it goes with it.
func (f *fleetOf) another(t *testing.T) {
	g := newFleet(t)
	g.want(0, "up", g.dir, "--hosts", "3", "--ipv6", "--size", "64M")
	sleeper := exec.Command(g.lab, "exec", g.dir, "host3", "--", "sh", "-c", "trap '' TERM; cd \"$0\" && echo ready && while :; do sleep 1; done", g.path("host3", ""))
	ready, err := sleeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	g.write("host3", "there", "only")
	g.inStep()
	f.inStep()
	g.want(0, "kill", g.dir, "host1", "presto")
	g.want(0, "kill", g.dir, "host2", "daemon")
	g.want(0, "down", g.dir)
	if err := sleeper.Wait(); err == nil {
		t.Error("what was left running ended by itself")
	}
	g.nothingLeft()
	f.inStep()
}

func TestLab_FiveHosts(t *testing.T) {
	f := newFleet(t)
	begin := time.Now()
	f.want(0, "up", f.dir, "--hosts", "5", "--size", "256M")
	t.Logf("up took %v", time.Since(begin))
	for i := range 5 {
		f.write("host"+strconv.Itoa(i+1), "from"+strconv.Itoa(i+1), "x")
	}
	f.inStep()
	f.want(0, "cut", f.dir, "host4")
	f.want(0, "kill", f.dir, "host2", "daemon")
	f.write("host2", "pending", "x")
	f.write("host4", "pending too", "x")
	f.inStep("host1", "host3", "host5")
	f.want(1, "same", f.dir)
	f.want(0, "heal", f.dir, "host4")
	f.want(0, "start", f.dir, "host2", "daemon")
	f.inStep()
	begin = time.Now()
	f.want(0, "down", f.dir)
	t.Logf("down took %v", time.Since(begin))
	f.nothingLeft()
}

func TestLab_EveryBottom(t *testing.T) {
	for _, bottom := range []string{"xfs", "btrfs", "dir"} {
		t.Run(bottom, func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + bottom); err != nil && bottom != "dir" {
				t.Skip(err)
			}
			f := newFleet(t)
			f.want(0, "up", f.dir, "--bottom", bottom)
			f.write("host1", "file", "content")
			if err := unix.Lsetxattr(f.path("host1", "file"), "user.colour", []byte("blue"), 0); err != nil {
				t.Error(err)
			}
			f.inStep()
			if st, err := os.Stat(strings.TrimSpace(f.want(0, "device", f.dir, "host2"))); err != nil || !st.IsDir() {
				t.Errorf("device: %v, %v; want a folder", st, err)
			}
		})
	}
}
