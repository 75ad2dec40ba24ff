package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// What a client did before it ever met its server arrives there.
func TestStart_ClientWorkedBeforeFirstContact(t *testing.T) {
	p := sized(t, "1G")
	p.bothDoOffline(func(mnt, side string) error { return variety(filepath.Join(mnt, side)) })
	// Remounted, killed, and worked in again.
	p.client.must("lento", "umount", p.client.path("mnt"))
	p.client.mount(p.client.path("img"))
	p.client.end(readPID(p.client.path("run/0.pid")), syscall.SIGKILL)
	p.client.remounted()
	p.client.write("client/more", "after all that")
	p.started()
	p.same()
	if got := p.server.read("client/more"); got != "after all that" {
		t.Errorf("got %q", got)
	}
	p.finish()
}

// A client that has no configuration yet, only a cache that is worked in.
func TestStart_WorkBeforeInvitation(t *testing.T) {
	s, c := mounted(t), mounted(t)
	if err := variety(c.path("mnt/early")); err != nil {
		t.Fatal(err)
	}
	if err := variety(s.path("mnt/server")); err != nil {
		t.Fatal(err)
	}
	address := loopback()
	s.must("inconfig", "init", "--name", "iserver", "--bind", address)
	s.must("inconfig", "fileset", "add", "shared", "--server", "iserver", "--device", s.path("img"), "--mountpoint", s.path("mnt"), "--channel", "0")
	p := pair{t: t, server: s, client: c}
	s.background()
	c.must("inconfig", "accept", s.invite(address), "--device", c.path("img"), "--mountpoint", c.path("mnt"), "--channel", "0")
	c.background()
	p.inStep()
	p.same()
	p.finish()
}

// Both sides made the same folder before they met: two objects of one name,
// which is what merging is for. Nothing may be lost, and it must be told.
func TestStart_BothMadeTheSameName(t *testing.T) {
	p := configured(t)
	p.bothDoOffline(func(mnt, side string) error {
		if err := os.Mkdir(filepath.Join(mnt, "same"), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(mnt, "same", side), []byte(side), 0o644)
	})
	p.server.background()
	p.client.background()
	s := p.client.until("told", func(s status) bool { return s.Filesets[0].Error != "" || s.Filesets[0].Pending_records == 0 })
	t.Log(s.Filesets[0].Error)
	for side, h := range map[string]*host{"server": p.server, "client": p.client} {
		if got := h.read("same/" + side); got != side {
			t.Errorf("on the %s: %q", side, got)
		}
	}
	p.finish()
}

// A tree that was there before, on the server.
func TestStart_AdoptedTree(t *testing.T) {
	made := 0
	p := between(t, func(h *host) string {
		if made++; made == 2 {
			return h.format("img", "shared")
		}
		image := h.blank(512 << 20)
		h.must("mkfs.ext4", "-q", image)
		tree := h.mkdir("tree")
		h.must("mount", "-o", "loop", image, tree)
		err := variety(filepath.Join(tree, "old"))
		for n := range 1000 {
			if err == nil {
				err = os.WriteFile(filepath.Join(tree, "old", "file"+strconv.Itoa(n)), []byte(strings.Repeat("x", n)), 0o644)
			}
		}
		h.must("umount", tree)
		if err != nil {
			h.t.Fatal(err)
		}
		h.must("mkizofs", "--adopt", "--fileset", "shared", image)
		return image
	}).started()
	p.same()
	p.bothDo("work in it", func(mnt, side string) error {
		if side == "client" {
			return os.WriteFile(filepath.Join(mnt, "old", "file7"), []byte("changed by the client"), 0o644)
		}
		return os.Rename(filepath.Join(mnt, "old", "a"), filepath.Join(mnt, "moved"))
	})
	p.finish()
}

// A client is away for long. What was overwritten meanwhile is nowhere any more,
// so that its changes can only go together.
func TestStart_LongAbsence(t *testing.T) {
	p := sized(t, "2G").started()
	p.client.end(readPID(p.client.path("run/lento.pid")), syscall.SIGTERM)
	writes := number(t, "INTERMEZZO_TEST_WRITES", 2000)
	for n := range writes {
		p.client.write("file"+strconv.Itoa(int(n%3)), strconv.Itoa(int(n)))
	}
	p.client.background()
	p.inStep()
	p.same()
	p.finish()
}

// Changes that can only go together, because the first of them set a content that
// is nowhere any more, and that are possible only one after the other.
func TestStart_MovesThatDependOnEachOther(t *testing.T) {
	for name, work := range map[string]func(in func(string) string) []error{
		"a folder goes below its former child": func(in func(string) string) []error {
			return []error{os.Rename(in("a/b"), in("b")), os.Rename(in("a"), in("b/a"))}
		},
		"two change places": func(in func(string) string) []error {
			return []error{os.Rename(in("a"), in("tmp")), os.Rename(in("c"), in("a")), os.Rename(in("tmp"), in("c"))}
		},
		"a name is used again": func(in func(string) string) []error {
			return []error{os.RemoveAll(in("a")), os.WriteFile(in("a"), []byte("file"), 0o644), os.Remove(in("a")), os.Mkdir(in("a"), 0o700), os.Remove(in("c")), os.Rename(in("a"), in("c"))}
		},
		"made, moved and removed": func(in func(string) string) []error {
			return []error{os.MkdirAll(in("x/y/z"), 0o755), os.Rename(in("x/y"), in("a/b/y")), os.Rename(in("x"), in("a/b/y/z/x")), os.RemoveAll(in("a/b/y"))}
		},
		"linked, renamed over and removed": func(in func(string) string) []error {
			return []error{os.Link(in("file"), in("link")), os.WriteFile(in("tmp"), []byte("new"), 0o644), os.Rename(in("tmp"), in("file")),
				os.Rename(in("link"), in("a/file")), os.Remove(in("file")), os.Rename(in("a/file"), in("file"))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := configured(t).started()
			for _, dir := range []string{"a/b", "c"} {
				if err := os.MkdirAll(p.client.path("mnt/"+dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			p.client.write("file", "linked")
			p.inStep()
			p.client.end(readPID(p.client.path("run/lento.pid")), syscall.SIGTERM)
			p.client.write("joins", "first")
			for n, err := range work(func(name string) string { return p.client.path("mnt/" + name) }) {
				if err != nil {
					t.Fatalf("step %d: %v", n, err)
				}
			}
			p.client.write("joins", "second")
			p.client.background()
			s := p.client.until("taken or refused", func(s status) bool {
				f := s.Filesets[0]
				return f.Connected && f.Pending_records == 0 || strings.Contains(f.Error, "change")
			})
			if f := s.Filesets[0]; f.Error != "" {
				t.Error(f.Error)
				p.stop()
				return
			}
			p.inStep()
			p.same()
			p.finish()
		})
	}
}
