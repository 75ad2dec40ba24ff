package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loopback is an address of this machine that nobody else uses.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
}

// mounted makes a host with a mounted cache.
func mounted(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.must("lento", "mount", h.format("img", "shared"), h.path("mnt"), "-o", "fileset=shared")
	return h
}

// unmounted ends with a clean cache.
func (h *host) unmounted() {
	h.t.Helper()
	h.must("lento", "umount", h.path("mnt"))
	h.must("e2fsck", "-fn", h.path("img"))
}

func (h *host) write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.path("mnt"), name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.path("mnt"), name))
	if err != nil {
		h.t.Error(err)
	}
	return string(text)
}

func TestIntersync_BothWays(t *testing.T) {
	s, c := mounted(t), mounted(t)
	address := loopback()
	server := s.start("intersync", "--docroot", s.path("docroot"), "--local-ip", address, s.path("mnt"))
	server.waitLine(t, "intersync is ready")
	s.write("from-server", "hello")

	client := []string{"--server", address, "--docroot", c.path("docroot"), c.path("mnt")}
	r := c.run("intersync", client...)
	if r.code != 2 || !strings.Contains(r.err, "invite shared NAME") || !strings.Contains(r.err, "--invite CODE") {
		t.Errorf("without an invitation: exit status %d\n%s", r.code, r.err)
	}
	code := strings.TrimSpace(s.must("inconfig", "--config", s.path("docroot"), "invite", "shared", "iclient", "--address", address))
	c.must("intersync", append([]string{"--invite", code, "--reint"}, client...)...)
	if got := c.read("from-server"); got != "hello" {
		t.Errorf("filled with %q", got)
	}
	if target, err := os.Readlink(c.path("docroot/cache")); err != nil || target != c.path("mnt") {
		t.Errorf("link to the cache: %q, %v", target, err)
	}

	c.write("from-client", "hi")
	c.must("intersync", append([]string{"--reint"}, client...)...)
	if got := s.read("from-client"); got != "hi" {
		t.Errorf("sent %q", got)
	}
	running := c.start("intersync", client...)
	running.waitLine(t, "in step")
	s.refused(1, "is running already", "intersync", "--docroot", s.path("docroot"), "--local-ip", address, s.path("mnt"))
	running.interrupt(t)
	server.interrupt(t)
	c.unmounted()
	s.unmounted()
}

func TestIntersync_Hoard(t *testing.T) {
	s, c := mounted(t), mounted(t)
	address := loopback()
	s.write("needed", "x")
	s.must("intersync", "--daemon", "--docroot", s.path("docroot"), "--local-ip", address, "--clientid", "big", s.path("mnt"))
	pid := readPID(s.path("run/intersync-0-shared.pid"))
	code := strings.TrimSpace(s.must("inconfig", "--config", s.path("docroot"), "invite", "shared", "iclient", "--address", address))
	args := func(list string) []string {
		if err := os.WriteFile(c.path("list"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"--server", address, "--docroot", c.path("docroot"), "--reint", "--hoard", c.path("list"), c.path("mnt")}
	}
	c.must("intersync", append([]string{"--invite", code}, args("# what we need\nneeded\n")...)...)
	r := c.run("intersync", args("needed\nmissing/one\n")...)
	if r.code != 1 || !strings.Contains(r.err, "missing/one") {
		t.Errorf("exit status %d\n%s", r.code, r.err)
	}
	r = c.run("intersync", append([]string{"--local-port", "2432", "--local-ip", "127.0.0.1"}, args("needed\n")...)...)
	if r.code != 0 || !strings.Contains(r.err, "--local-port is not used") {
		t.Errorf("exit status %d\n%s", r.code, r.err)
	}
	c.refused(2, "the fileset mounted on", "intersync", "--fset", "other", c.path("mnt"))
	s.end(pid, 15)
	c.unmounted()
	s.unmounted()
}

// The lines of the root file system HOWTO, with the default docroot and port.
func TestIntersync_SeedsLines(t *testing.T) {
	s, c := mounted(t), newHost(t)
	address := loopback()
	server := s.start("intersync", "--docroot", s.path("docroot"), "--local-ip", address, s.path("mnt"))
	server.waitLine(t, "intersync is ready")
	s.write("file", "hello")
	code := strings.TrimSpace(s.must("inconfig", "--config", s.path("docroot"), "invite", "shared", "iclient", "--address", address))
	image := c.format("img", "shared")
	c.script(image+" /mnt intermezzo fileset=shared,mtpt=/mnt,prestodev=/dev/intermezzo0,noauto 0 0\n",
		strings.NewReplacer("SERVER", address, "CODE", code).Replace(`
mount -t tmpfs none /var
mount /mnt
intersync --invite CODE --reint --server SERVER /mnt
[ "$(cat /mnt/file)" = hello ]
[ "$(readlink /var/intermezzo-0/cache)" = /mnt ]
echo new >/mnt/new
intersync --server SERVER /mnt 2>log & job=$!
for i in $(seq 600); do grep -q "in step" log && break; sleep 0.1; done
kill -INT $job
wait $job
mkdir -p /mnt/var
cp -a /var/intermezzo-0 /mnt/var/intermezz-0
intersync --reint --docroot /mnt/var/intermezz-0 --server SERVER /mnt
umount /mnt
`))
	if got := s.read("new"); got != "new\n" {
		t.Errorf("sent %q", got)
	}
	server.interrupt(t)
	s.unmounted()
}
