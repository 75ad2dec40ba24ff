package mount

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/detach"
)

// The test binary is also the presto that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[0] == prestoArg0 && os.Args[1] == PrestoVerb {
		os.Exit(fakeMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// fakePresto serves empty trees on the descriptors it is given. Source files
// named "broken" do not start, those named "mute" take a mount and never answer.
type fakePresto struct {
	channel.Presto
	info channel.Info

	mu    sync.Mutex
	left  int
	ended chan struct{}
}

func fakeMain(args []string) int {
	flags := map[string]string{}
	for _, a := range args {
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	number := func(name string) int { n, _ := strconv.Atoi(flags[name]); return n }
	s, err := detach.Inherit(number(detach.ReadyFlag), number(detach.LifelineFlag))
	if err != nil {
		return 2
	}
	source := flags["source"]
	switch filepath.Base(source) {
	case "broken":
		s.Report(fmt.Errorf("%s is not a cache", source), int(Failed))
		return 1
	case "crash":
		return 3
	}
	l, err := channel.Listen(SocketPath(flags["run"], number("channel")))
	if err != nil {
		s.Report(err, int(Failed))
		return 1
	}
	p := &fakePresto{ended: make(chan struct{}), info: channel.Info{
		PID: os.Getpid(), Source: source, Channel: number("channel"),
		Filesets: []channel.Fileset{{Name: "one"}, {Name: "two"}},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	s.Report(nil, 0)
	go func() {
		s.WaitReleased(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.left == 0 {
			cancel()
		}
	}()
	go func() { <-p.ended; cancel() }()
	channel.NewServer(slog.New(slog.DiscardHandler)).Serve(ctx, l, p)
	return 0
}

func (p *fakePresto) Info(context.Context) (channel.Info, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	info := p.info
	info.Filesets = slices.Clone(info.Filesets)
	return info, nil
}

func (p *fakePresto) Control(_ context.Context, verb string, args json.RawMessage, files []*os.File) (json.RawMessage, error) {
	var a MountArgs
	if err := json.Unmarshal(args, &a); err != nil || verb != MountVerb || len(files) != 1 {
		return nil, &channel.Error{Code: channel.ErrInvalid, Text: "bad call"}
	}
	p.setMounted(a.Fileset, a.Mountpoint, 1)
	if filepath.Base(p.info.Source) == "mute" {
		return nil, nil // the descriptor stays open, unread
	}
	server, err := fuse.NewServer(emptyTree{fuse.NewDefaultRawFileSystem()}, fmt.Sprintf("/dev/fd/%d", files[0].Fd()), &fuse.MountOptions{})
	if err != nil {
		p.setMounted(a.Fileset, "", -1)
		return nil, err
	}
	go func() {
		server.Serve()
		p.setMounted(a.Fileset, "", -1)
	}()
	return nil, nil
}

// emptyTree is a file system that answers statfs.
type emptyTree struct{ fuse.RawFileSystem }

func (emptyTree) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status { return fuse.OK }

func (p *fakePresto) setMounted(fileset, dir string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.info.Filesets {
		if p.info.Filesets[i].Name == fileset {
			p.info.Filesets[i].Mountpoint = dir
		}
	}
	if p.left += n; p.left == 0 {
		close(p.ended)
	}
}

// place is a run folder, sources and mount points for a test.
type place struct{ dir, run string }

func newPlace(t *testing.T) place {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("SKIPPED: no FUSE here: ", err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := place{dir: dir, run: filepath.Join(dir, "run")}
	t.Cleanup(func() {
		table, _ := Table()
		for _, m := range table {
			if strings.HasPrefix(m.Dir, dir) {
				t.Errorf("left mounted: %s", m.Dir)
				unix.Unmount(m.Dir, unix.MNT_DETACH)
			}
		}
		prestos, _ := Survey(context.Background(), p.run)
		for _, left := range prestos {
			t.Errorf("left running: process %d", left.PID)
			syscall.Kill(left.PID, syscall.SIGKILL)
		}
	})
	return p
}

func (p place) options(t *testing.T, source, mnt, fileset string) Options {
	t.Helper()
	for _, d := range []string{source, mnt} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Source: filepath.Join(p.dir, source), Mountpoint: filepath.Join(p.dir, mnt), Run: p.run,
		Want: config.MountOptions{Fileset: fileset, Channel: -1}}
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustMount(t *testing.T, o Options) {
	t.Helper()
	if err := Mount(limited(t), o); err != nil {
		t.Fatal("mount:", err)
	}
}

func mustUmount(t *testing.T, p place, dir string) {
	t.Helper()
	// A run folder that is not the presto's: it is found all the same.
	if err := Umount(limited(t), UmountOptions{Target: dir, Run: filepath.Join(p.dir, "other")}); err != nil {
		t.Fatal("umount:", err)
	}
}

func TestMount_TwoFilesetsOnePresto(t *testing.T) {
	p := newPlace(t)
	one, two := p.options(t, "cache", "mnt1", "one"), p.options(t, "cache", "mnt2", "two")
	two.Want.ReadOnly, two.Want.VFS, two.Want.Mtpt = true, []string{"nosuid"}, two.Mountpoint
	mustMount(t, two)
	mustMount(t, one)
	prestos, err := Survey(limited(t), p.run)
	if err != nil || len(prestos) != 1 {
		t.Fatalf("prestos: %+v, %v", prestos, err)
	}
	pid := prestos[0].PID
	if pid != prestos[0].Info.PID {
		t.Errorf("pid by the kernel %d, by presto %d", pid, prestos[0].Info.PID)
	}
	table, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	m, ok := ByDir(table, two.Mountpoint)
	if !ok || m.Source != two.Source || !m.ReadOnly {
		t.Errorf("mount table has %+v, %v", m, ok)
	}
	if err := Mount(limited(t), one); ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), "already") {
		t.Errorf("mounted twice: %v", err)
	}
	other := p.options(t, "cache", "mnt3", "one")
	if err := Mount(limited(t), other); ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), one.Mountpoint) {
		t.Errorf("one fileset on two places: %v", err)
	}
	mustUmount(t, p, one.Mountpoint)
	if again, ok := Ask(limited(t), p.run, 0); !ok || again.PID != pid {
		t.Errorf("presto is gone while a fileset is mounted: %+v", again)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	mustUmount(t, p, two.Source)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0); n != 1 {
		t.Errorf("umount returned while presto lives: %v", err)
	}
}

func TestMount_Refused(t *testing.T) {
	p := newPlace(t)
	good := p.options(t, "cache", "mnt", "one")
	file := filepath.Join(p.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Options)
		class  Class
		says   string
	}{
		{"no such source", func(o *Options) { o.Source = "/no/such" }, Failed, "/no/such does not exist"},
		{"source is a character device", func(o *Options) { o.Source = "/dev/null" }, Failed, "not a block device"},
		{"no such mount point", func(o *Options) { o.Mountpoint = p.dir + "/none" }, Failed, "no such file"},
		{"mount point is a file", func(o *Options) { o.Mountpoint = file }, Failed, "not a folder"},
		{"run folder with a long name", func(o *Options) { o.Run = p.dir + strings.Repeat("/long", 30) }, Usage, "too long"},
		{"other mtpt", func(o *Options) { o.Want.Mtpt = "/mnt/other" }, Usage, "the two must be the same"},
		{"no such fileset", func(o *Options) { o.Want.Fileset = "three" }, Failed, `no fileset "three"; it has one, two`},
		{"not a cache", func(o *Options) { *o = p.options(t, "broken", "mnt", "one") }, Failed, "is not a cache"},
		{"presto dies", func(o *Options) { *o = p.options(t, "crash", "mnt", "one") }, Failed, "0.log"},
		{"remount of nothing", func(o *Options) { o.Remount, o.Want.ReadOnly = true, true }, Failed, "can't be remounted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good
			tt.change(&o)
			err := Mount(limited(t), o)
			if err == nil || ExitCode(err) != int(tt.class) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %d: %v", ExitCode(err), err)
			}
			if left, _ := Survey(limited(t), p.run); len(left) > 0 {
				t.Errorf("left running: %+v", left)
			}
		})
	}
}

func TestMount_ChannelOfAnotherCache(t *testing.T) {
	p := newPlace(t)
	a, b := p.options(t, "a", "mnt1", "one"), p.options(t, "b", "mnt2", "one")
	a.Want.Channel = 3
	mustMount(t, a)
	b.Want.Channel = 3
	if err := Mount(limited(t), b); ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), a.Source) {
		t.Errorf("got %v", err)
	}
	same := p.options(t, "a", "mnt2", "two")
	same.Want.Channel = 4
	if err := Mount(limited(t), same); ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), "channel 3 already") {
		t.Errorf("got %v", err)
	}
	b.Want.Channel = -1
	mustMount(t, b)
	if found, ok := Ask(limited(t), p.run, 0); !ok || found.Info.Source != b.Source {
		t.Errorf("channel 0: %+v, %v", found, ok)
	}
	mustUmount(t, p, a.Mountpoint)
	mustUmount(t, p, b.Mountpoint)
}

func TestMount_StaleSocket(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, "cache", "mnt", "one")
	o.Want.Channel = 0
	if err := os.MkdirAll(p.run, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(p.run, 0), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	mustMount(t, o)
	mustUmount(t, p, o.Mountpoint)
}

func TestMount_MutePrestoLeavesNoMount(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, "mute", "mnt", "one")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := Mount(ctx, o); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("got %v", err)
	}
	if table, _ := Table(); slices.ContainsFunc(table, func(m Point) bool { return m.Dir == o.Mountpoint }) {
		t.Error("something is mounted")
	}
	// This presto believes it is mounted, so it lives on.
	found, _ := Ask(limited(t), p.run, 0)
	syscall.Kill(found.PID, syscall.SIGKILL)
	if !waitGone(limited(t), found.PID, 0) {
		t.Error("not killed")
	}
}

func TestUmount_DeadPresto(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, "cache", "mnt", "one")
	mustMount(t, o)
	found, _ := Ask(limited(t), p.run, 0)
	syscall.Kill(found.PID, syscall.SIGKILL)
	waitGone(limited(t), found.PID, 0)
	if err := Mount(limited(t), o); ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), "lento umount") {
		t.Errorf("mount over a dead one: %v", err)
	}
	mustUmount(t, p, o.Mountpoint)
	mustMount(t, o)
	mustUmount(t, p, o.Mountpoint)
}

func TestUmount_Busy(t *testing.T) {
	p := newPlace(t)
	o := p.options(t, "cache", "mnt", "one")
	mustMount(t, o)
	dir, err := unix.Open(o.Mountpoint, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = Umount(limited(t), UmountOptions{Target: o.Mountpoint, Run: p.run})
	if ExitCode(err) != int(Failed) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if err := Umount(limited(t), UmountOptions{Target: o.Mountpoint, Run: p.run, Lazy: true}); err != nil {
		t.Error("lazy:", err)
	}
	found, _ := Ask(limited(t), p.run, 0)
	unix.Close(dir)
	if found.PID != 0 && !waitGone(limited(t), found.PID, 0) {
		t.Error("presto lives on after its last user")
	}
}
