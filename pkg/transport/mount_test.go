package transport

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// childEnv makes the test binary a server: a process must never use the mount that
// it serves.
const childEnv = "TRANSPORT_TEST_SERVE"

// serveConfig is what a server is told.
type serveConfig struct {
	Root        string
	GoFuse      bool // go-fuse's own server
	Force       string
	MaxWrite    int
	Cache       time.Duration
	Locks       bool
	Passthrough bool
	First       int
	Threads     int
	Inline      int
	Spoil       bool
	env         []string
}

// served is what it tells.
type served struct {
	Link, Why, Error     string
	Stats                Stats
	Waiting, Interrupted int64
	Forgets, Reads       int64
	Status               int32
	PeakKB               int64
}

func TestMain(m *testing.M) {
	if c := os.Getenv(childEnv); c != "" {
		os.Exit(serveChild(c))
	}
	if os.Getenv("INTERMEZZO_TEST_TRANSPORT") == "" {
		fmt.Println("SKIPPED: the transports are not in use yet; set INTERMEZZO_TEST_TRANSPORT to test them")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveChild(config string) int {
	unix.Umask(0)
	var c serveConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		log.Print(err)
		return 1
	}
	fs, err := newBottomFS(c.Root)
	if err != nil {
		log.Print(err)
		return 1
	}
	fs.cache = c.Cache
	o := Options{Force: c.Force, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Mount:  fuse.MountOptions{MaxWrite: c.MaxWrite, MaxBackground: 64, EnableLocks: c.Locks, ExplicitDataCacheControl: true, DisableSplice: true, EnableAcl: true},
		limits: limits{first: c.First, threads: c.Threads, inline: c.Inline, spoil: c.Spoil}}
	if !c.Passthrough {
		o.Mount.DisabledCapabilities = fuse.CAP_PASSTHROUGH
	}
	if c.GoFuse {
		return serveGoFuse(fs, &o.Mount)
	}
	s, err := New(fs, os.NewFile(3, "/dev/fuse"), o)
	if err != nil {
		say(served{Error: err.Error()})
		return 1
	}
	if c.Passthrough {
		fs.backing = func(fd int) (int32, syscall.Errno) { return s.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)}) }
	}
	say(served{Link: s.Link(), Why: s.Why()})
	go obey(s, fs)
	if err := s.Serve(); err != nil {
		log.Print(err)
		return 1
	}
	return 0
}

func serveGoFuse(fs *bottomFS, o *fuse.MountOptions) int {
	s, err := fuse.NewServer(fs, "/dev/fd/3", o)
	if err != nil {
		say(served{Error: err.Error()})
		return 1
	}
	say(served{Link: "go-fuse"})
	s.Serve()
	return 0
}

func say(v served) {
	b, _ := json.Marshal(v)
	fmt.Printf("%s\n", b)
}

// obey does what the test says on standard input, and replies.
func obey(s *Server, fs *bottomFS) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		var status fuse.Status
		switch verb {
		case "open":
			fs.gates.open()
		case "mark":
			fs.mark(arg)
		case "entry":
			status = s.EntryNotify(fuse.FUSE_ROOT_ID, arg)
		case "inode":
			status = s.InodeNotify(fs.nodeOf(arg), 0, 0)
		case "delete":
			status = s.DeleteNotify(fuse.FUSE_ROOT_ID, fs.nodeOf(arg), arg)
		}
		g := &fs.gates
		var ru unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &ru)
		say(served{Link: s.Link(), Why: s.Why(), Stats: s.Stats(), Waiting: g.waiting.Load(), Interrupted: g.interrupted.Load(),
			Forgets: g.forgets.Load(), Reads: g.reads.Load(), Status: int32(status), PeakKB: ru.Maxrss})
	}
}

// mounted is a mount that a child serves.
type mounted struct {
	t      testing.TB
	dir    string // the mount
	root   string // what is under it
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	mu     sync.Mutex
	told   served
	goFuse bool          // obeys nothing
	gone   chan struct{} // closed when the child has ended
	err    error
}

func needFUSE(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no FUSE here: ", err)
	}
}

// newMount mounts, has a child serve, and unmounts at the end of the test.
func newMount(t testing.TB, c serveConfig) *mounted {
	t.Helper()
	needFUSE(t)
	m, err := tryMount(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryMount(t testing.TB, c serveConfig) (*mounted, error) {
	t.Helper()
	if c.MaxWrite == 0 {
		c.MaxWrite = 1 << 20
	}
	base := t.TempDir()
	m := &mounted{t: t, dir: filepath.Join(base, "mnt"), root: filepath.Join(base, "root"), gone: make(chan struct{})}
	if c.Root == "" {
		c.Root = m.root
	}
	m.root, m.goFuse = c.Root, c.GoFuse
	for _, d := range []string{m.dir, m.root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other,max_read=%d", dev, c.MaxWrite)
	if err := unix.Mount("transport-test", m.dir, "fuse.transporttest", 0, opts); err != nil {
		unix.Close(dev)
		return nil, err
	}
	t.Cleanup(m.cleanup)
	watchdog := time.AfterFunc(time.Minute, func() { // whatever hangs ends with the server
		if m.cmd != nil && m.cmd.Process != nil {
			m.cmd.Process.Signal(syscall.SIGQUIT)
		}
	})
	t.Cleanup(func() { watchdog.Stop() })
	return m, m.startChild(c, dev)
}

func (m *mounted) startChild(c serveConfig, dev int) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(append(os.Environ(), childEnv+"="+string(b)), c.env...)
	m.cmd.Stderr = os.Stderr
	f := os.NewFile(uintptr(dev), "/dev/fuse")
	m.cmd.ExtraFiles = []*os.File{f}
	m.in, _ = m.cmd.StdinPipe()
	out, _ := m.cmd.StdoutPipe()
	m.out = bufio.NewScanner(out)
	err = m.cmd.Start()
	f.Close()
	if err != nil {
		close(m.gone)
		return err
	}
	hello := m.reply()
	go func() {
		m.err = m.cmd.Wait()
		close(m.gone)
	}()
	if hello.Error != "" {
		return errors.New(hello.Error)
	}
	m.told = hello
	return nil
}

func (m *mounted) reply() served {
	var v served
	if !m.out.Scan() || json.Unmarshal(m.out.Bytes(), &v) != nil {
		return served{Error: "the server said nothing"}
	}
	return v
}

// do has the server obey.
func (m *mounted) do(command string) served {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintln(m.in, command)
	return m.reply()
}

// until waits for something that the server tells.
func (m *mounted) until(what string, ok func(served) bool) served {
	m.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		v := m.do("stats")
		if ok(v) {
			return v
		}
		if time.Now().After(end) || v.Error != "" {
			m.t.Fatalf("waited for %s: %+v", what, v)
		}
	}
}

// unmount ends the mount, and expects the server to end without a fault.
func (m *mounted) unmount() {
	m.t.Helper()
	if err := unix.Unmount(m.dir, 0); err != nil {
		m.t.Fatal("unmount: ", err)
	}
	m.expectEnd()
}

func (m *mounted) expectEnd() {
	m.t.Helper()
	select {
	case <-m.gone:
		if m.err != nil {
			m.t.Fatal("server: ", m.err)
		}
	case <-time.After(20 * time.Second):
		m.cmd.Process.Signal(syscall.SIGQUIT)
		m.t.Fatal("the server did not end")
	}
}

// cleanup leaves nothing behind, whatever happened.
func (m *mounted) cleanup() {
	if m.told.Link != "" && !m.goFuse {
		m.do("open")
	}
	unix.Unmount(m.dir, unix.MNT_DETACH)
	if m.cmd == nil || m.cmd.Process == nil {
		return
	}
	select {
	case <-m.gone:
	case <-time.After(10 * time.Second):
		m.cmd.Process.Kill()
		<-m.gone
		m.t.Error("the server had to be killed")
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), m.dir) {
		m.t.Error("the mount is still there")
	}
}

// allowURing switches FUSE over io_uring on for the test.
func allowURing(t testing.TB) {
	t.Helper()
	needFUSE(t)
	before, err := os.ReadFile(enableParameter)
	if err != nil {
		t.Skip("this kernel has no FUSE over io_uring: ", err)
	}
	if strings.HasPrefix(string(before), "Y") {
		return
	}
	if err := os.WriteFile(enableParameter, []byte("Y"), 0); err != nil {
		t.Skip("FUSE over io_uring cannot be switched on: ", err)
	}
	t.Cleanup(func() { os.WriteFile(enableParameter, before, 0) })
}

// overBoth runs a test with either link.
func overBoth(t *testing.T, c serveConfig, test func(t *testing.T, m *mounted)) {
	for _, link := range []string{LinkDevFuse, LinkURing} {
		t.Run(link, func(t *testing.T) {
			if link == LinkURing {
				allowURing(t)
			}
			c := c
			c.Force = link
			m := newMount(t, c)
			if m.told.Link != link {
				t.Fatalf("link is %s: %s", m.told.Link, m.told.Why)
			}
			test(t, m)
		})
	}
}
