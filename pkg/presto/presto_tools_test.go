package presto

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// rPull is pull for hosts on different file systems.
func rPull(a, b *host) channel.ApplyResult {
	t := a.t
	t.Helper()
	ends, groups := rUnit(a, b)
	if len(groups) == 0 {
		return channel.ApplyResult{Applied: b.info().Applied}
	}
	res, err := b.ch.Apply(t.Context(), testFileset, ends, groups)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func rUnit(server, client *host) ([]kml.Pos, []kml.Group) {
	t := server.t
	t.Helper()
	sat, cat := server.attach(channel.RoleServer), client.attach(channel.RoleClient)
	from := client.info().Applied
	v, err := kml.NewView(sat.Order)
	must(t, err)
	_, err = server.ch.Barrier(t.Context(), testFileset)
	must(t, err)
	v.SetEnd(server.info().Order)
	rd, err := v.ReadFrom(from.Seq)
	must(t, err)
	var ends []kml.Pos
	var groups []kml.Group
	for {
		f, err := rd.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		g, err := f.Group()
		must(t, err)
		ends, groups = append(ends, f.Pos), append(groups, g)
	}
	rStage(server, cat, groups)
	return ends, groups
}

func rStage(from *host, at *channel.Attachment, groups []kml.Group) {
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
		must(t, err)
		if o[0].Errno == int(unix.ENOENT) {
			continue
		}
		if o[0].Errno != 0 {
			t.Fatalf("content of %s: %v", id, unix.Errno(o[0].Errno))
		}
		fd, err := unix.Openat(int(at.Stage.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, 0o600)
		must(t, err)
		dst := os.NewFile(uintptr(fd), name)
		_, err = io.Copy(dst, io.NewSectionReader(o[0].File, 0, o[0].Token.Size))
		must(t, err)
		o[0].File.Close()
		must(t, dst.Sync()) // content has to be durable
		dst.Close()
	}
}

// rPush is push for hosts on different file systems.
func rPush(client, server *host) channel.AcceptResult {
	t := client.t
	t.Helper()
	cat, sat := client.attach(channel.RoleClient), server.attach(channel.RoleServer)
	_, err := client.ch.Barrier(t.Context(), testFileset)
	must(t, err)
	state := client.info()
	groups := rPending(client, cat)
	rStage(client, sat, groups)
	res, err := server.ch.Accept(t.Context(), testFileset, cat.Cache, state.Applied, groups)
	must(t, err)
	if res.Accepted == len(groups) {
		client.pushed = state.Own.Seq
	}
	return res
}

// rPending is what the client has pending, as one group.
func rPending(client *host, cat *channel.Attachment) []kml.Group {
	t := client.t
	state := client.info()
	v, err := kml.NewView(cat.KML)
	must(t, err)
	v.SetEnd(state.Own)
	rd, err := v.ReadFrom(max(state.Confirmed.Seq, client.pushed))
	must(t, err)
	var groups []kml.Group
	for {
		f, err := rd.Next()
		if err == io.EOF {
			return groups
		}
		must(t, err)
		r, err := f.Record()
		must(t, err)
		r.Seq = f.Pos.Seq
		if groups == nil {
			groups = []kml.Group{{Origin: cat.Cache, OriginEpoch: f.Pos.Epoch, First: r.Seq}}
		}
		g := &groups[0]
		g.Records, g.Last, g.Chain = append(g.Records, r), r.Seq, f.Pos.Chain
	}
}

// rList is what a tree shows, without anything that depends on the order of a
// directory.
const rList = `find . -printf '%p %y %m %U:%G %l %T@ ' \( -type d -printf '\n' -o -type f -printf '%n ' -exec sha256sum {} \; -o -printf '%n\n' \) | LC_ALL=C sort
find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -hd -m '^(user|trusted|system)' 2>/dev/null | grep -v SGI_ACL`

func rSame(t *testing.T, a, b *host) {
	t.Helper()
	var out [2]string
	for i, h := range []*host{a, b} {
		cmd := exec.Command("bash", "-c", rList)
		cmd.Dir, cmd.Stderr = h.mnt, os.Stderr
		x, _ := cmd.Output()
		out[i] = string(x)
	}
	rDiff(t, "trees differ", out[0], out[1])
}

func rDiff(t *testing.T, what, a, b string) {
	t.Helper()
	if a == b {
		return
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a"), []byte(a), 0o600)
	os.WriteFile(filepath.Join(dir, "b"), []byte(b), 0o600)
	diff, _ := exec.Command("diff", filepath.Join(dir, "a"), filepath.Join(dir, "b")).CombinedOutput()
	if len(diff) > 3000 {
		diff = diff[:3000]
	}
	t.Errorf("%s:\n%s", what, diff)
}

// rBottom compares what the mount shows with the bottom itself: what the kernel
// believes must be what is there.
func rBottom(t *testing.T, h *host) {
	t.Helper()
	list := `find . -path ./.intermezzo -prune -o -path ./lost+found -prune -o -not -path . -printf '%p %y %m %U:%G %l %n %s %T@ ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | LC_ALL=C sort`
	if bottomName(t, h.source) == "btrfs" {
		list = `find . -path ./.intermezzo -prune -o -not -path . -printf '%p %y %m %U:%G %l %T@ ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) | LC_ALL=C sort`
	}
	var out [2]string
	for i, dir := range []string{h.mnt, h.source} {
		cmd := exec.Command("bash", "-c", list)
		cmd.Dir, cmd.Stderr = dir, os.Stderr
		x, _ := cmd.Output()
		out[i] = string(x)
	}
	rDiff(t, "the mount of "+h.name+" shows something else than its bottom has", out[0], out[1])
}
