package presto

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// The process that serves a mount must never touch it, so the tests run presto
// in a process of its own: this binary with prestoEnv set.
const prestoEnv = "INTERMEZZO_TEST_PRESTO"

func TestMain(m *testing.M) {
	if source := os.Getenv(prestoEnv); source != "" {
		os.Exit(servePresto(source, os.Args[1]))
	}
	os.Exit(m.Run())
}

// servePresto serves source, says so by closing its standard output, and ends
// with its last mount.
func servePresto(source, run string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	p, err := Start(context.Background(), Options{Source: source, RunDir: run, Logger: log, Version: "test"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		return 1
	}
	os.Stdout.WriteString("ready\n")
	os.Stdout.Close()
	if err := p.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "wait:", err)
		return 1
	}
	return 0
}

// host is one presto with its cache and mount.
type host struct {
	t      *testing.T
	name   string
	dir    string
	source string
	mnt    string
	cmd    *exec.Cmd
	ch     *channel.Client
	pushed uint64 // own number up to which the server has taken our changes
}

const testFileset = "shared"

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("SKIPPED: no /dev/fuse here")
	}
}

// newHost makes a cache in a folder of its own, or in the folder source, and
// mounts it.
func newHost(t *testing.T, name, source string) *host {
	t.Helper()
	return makeHost(t, name, source, false)
}

// newAdopted is newHost for a folder that has a tree.
func newAdopted(t *testing.T, name, source string) *host {
	t.Helper()
	return makeHost(t, name, source, true)
}

func makeHost(t *testing.T, name, source string, adopt bool) *host {
	t.Helper()
	needRoot(t)
	h := &host{t: t, name: name, dir: t.TempDir(), source: source}
	if source == "" {
		h.source = filepath.Join(h.dir, "cache")
	}
	os.Chmod(filepath.Dir(h.dir), 0o755) // other users reach the mount
	h.mnt = filepath.Join(h.dir, "mnt")
	for _, d := range []string{h.source, h.mnt, h.run()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(h.source)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := cache.Create(root, cache.CreateOptions{Label: name, Filesets: []string{testFileset}, Adopt: adopt, Bottom: bottomName(t, h.source)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	h.start()
	return h
}

func bottomName(t *testing.T, dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	switch s.Type {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	}
	return "ext4"
}

func (h *host) run() string { return filepath.Join(h.dir, "run") }

// start starts presto and mounts.
func (h *host) start() {
	h.t.Helper()
	cmd := exec.Command(os.Args[0], h.run())
	cmd.Env = append(os.Environ(), prestoEnv+"="+h.source)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.cmd = cmd
	if b, _ := io.ReadAll(out); len(b) == 0 {
		cmd.Wait()
		h.cmd = nil
		h.t.Fatalf("presto of %s did not start", h.name)
	}
	if h.ch, err = channel.Dial(h.t.Context(), filepath.Join(h.run(), "0")); err != nil {
		h.t.Fatal(err)
	}
	h.mount()
}

func (h *host) mount() {
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	opts := "fd=" + strconv.Itoa(int(dev.Fd())) + ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
	if err := unix.Mount(h.source, h.mnt, "fuse.intermezzo", 0, opts); err != nil {
		h.t.Fatal(err)
	}
	args, _ := json.Marshal(mountArgs{Fileset: testFileset, Mountpoint: h.mnt})
	if _, err := h.ch.Control(h.t.Context(), "mount", args, []*os.File{dev}); err != nil {
		h.t.Fatal(err)
	}
}

// stop unmounts and waits for presto to end.
func (h *host) stop() {
	if h.cmd == nil {
		return
	}
	if err := unix.Unmount(h.mnt, 0); err != nil {
		h.t.Errorf("unmount %s: %v", h.name, err)
		unix.Unmount(h.mnt, unix.MNT_DETACH)
		h.cmd.Process.Kill()
	}
	h.ch.Close()
	if err := h.cmd.Wait(); err != nil {
		h.t.Errorf("presto of %s: %v", h.name, err)
	}
	h.cmd = nil
}

// kill ends presto without a chance to write anything.
func (h *host) kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
	h.cmd = nil
	h.ch.Close()
	if err := unix.Unmount(h.mnt, unix.MNT_DETACH); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) path(p string) string { return filepath.Join(h.mnt, p) }

func (h *host) info() channel.Fileset {
	h.t.Helper()
	i, err := h.ch.Info(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return i.Filesets[0]
}

func (h *host) attach(role channel.Role) *channel.Attachment {
	h.t.Helper()
	at, err := h.ch.Attach(h.t.Context(), testFileset, role, kml.UUID{0xaa})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { closeAll(at.KML, at.Order, at.Stage) })
	return at
}

// records reads all of the host's KML.
func (h *host) records() []kml.Record {
	h.t.Helper()
	f, err := os.Open(filepath.Join(h.source, cache.ControlDir, testFileset, cache.KMLFile))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	v, err := kml.NewView(f)
	if err != nil {
		h.t.Fatal(err)
	}
	v.SetEnd(h.info().Own)
	rd, err := v.ReadFrom(0)
	if err != nil {
		h.t.Fatal(err)
	}
	var out []kml.Record
	for {
		fr, err := rd.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			h.t.Fatal(err)
		}
		r, err := fr.Record()
		if err != nil {
			h.t.Fatal(err)
		}
		r.Seq = fr.Pos.Seq
		out = append(out, r)
	}
}

// pull brings everything from the server's order log to the client, the way a
// daemon would, in one unit.
func pull(server, client *host) channel.ApplyResult {
	t := server.t
	t.Helper()
	ends, groups := unit(server, client)
	if len(groups) == 0 {
		return channel.ApplyResult{Applied: client.info().Applied}
	}
	res, err := client.ch.Apply(t.Context(), testFileset, ends, groups)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// unit reads what the client lacks and stages its content there.
func unit(server, client *host) ([]kml.Pos, []kml.Group) {
	t := server.t
	t.Helper()
	ctx := t.Context()
	sat, cat := server.attach(channel.RoleServer), client.attach(channel.RoleClient)
	from := client.info().Applied
	v, err := kml.NewView(sat.Order)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.ch.Barrier(ctx, testFileset); err != nil {
		t.Fatal(err)
	}
	v.SetEnd(server.info().Order)
	rd, err := v.ReadFrom(from.Seq)
	if err != nil {
		t.Fatal(err)
	}
	var ends []kml.Pos
	var groups []kml.Group
	for {
		f, err := rd.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		g, err := f.Group()
		if err != nil {
			t.Fatal(err)
		}
		ends, groups = append(ends, f.Pos), append(groups, g)
	}
	stageContents(server, cat, groups, client.info())
	return ends, groups
}

// stageContents puts the present content of what the groups closed last into the
// stage of at.
func stageContents(from *host, at *channel.Attachment, groups []kml.Group, to channel.Fileset) {
	t := from.t
	last := map[kml.ObjectID]string{}
	for _, g := range groups {
		for _, r := range g.Records {
			if r.Op == kml.OpClose && r.After.Size > 0 {
				last[r.Object] = channel.StageName(g.Origin, r.Seq)
			}
		}
	}
	for id, name := range last {
		o, err := from.ch.Contents(t.Context(), testFileset, []kml.ObjectID{id}, true)
		if err != nil {
			t.Fatal(err)
		}
		if o[0].Errno == int(unix.ENOENT) {
			continue
		}
		if o[0].Errno != 0 {
			t.Fatalf("content of %s: %v", id, unix.Errno(o[0].Errno))
		}
		copyToStage(t, at.Stage, name, o[0])
	}
}

func copyToStage(t *testing.T, stage *os.File, name string, o channel.Opened) {
	t.Helper()
	defer o.File.Close()
	fd, err := unix.Openat(int(stage.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	dst := os.NewFile(uintptr(fd), name)
	defer dst.Close()
	if err := copySparse(dst, o.File, o.Token.Size); err != nil {
		t.Fatal(err)
	}
}
