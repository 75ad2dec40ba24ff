package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/intermezzofs/intermezzo/test/treediff"
)

// pair is a server and a client, which reach each other over the loopback.
type pair struct {
	t              *testing.T
	server, client *host
}

// configured makes a pair that is formatted, configured and mounted.
func configured(t *testing.T) pair {
	t.Helper()
	p := pair{t: t, server: newHost(t), client: newHost(t)}
	address := loopback()
	p.server.must("inconfig", "init", "--name", "iserver", "--bind", address)
	p.server.must("inconfig", "fileset", "add", "shared", "--server", "iserver", "--device", p.server.path("img"), "--mountpoint", p.server.path("mnt"), "--channel", "0")
	for _, h := range []*host{p.server, p.client} {
		h.mount(h.format("img", "shared"))
	}
	pid := p.server.background()
	code := p.server.invite(address)
	p.client.must("inconfig", "accept", code, "--device", p.client.path("img"), "--mountpoint", p.client.path("mnt"), "--channel", "0")
	p.server.end(pid, syscall.SIGTERM)
	return p
}

func (h *host) mount(image string) {
	h.t.Helper()
	h.must("lento", "mount", image, h.path("mnt"), "-o", "fileset=shared")
}

// invite makes an invitation, for a server at address.
func (h *host) invite(address string, more ...string) string {
	h.t.Helper()
	args := append([]string{"invite", "shared", "iclient", "--address", address}, more...)
	return strings.TrimSpace(h.must("inconfig", args...))
}

// inStep waits until both have everything that was done on either before.
func (p pair) inStep() {
	p.t.Helper()
	p.client.until("in service", func(s status) bool { return s.Filesets[0].Connected })
	p.client.must("lento", "barrier", "--wait", "shared")
	p.server.must("lento", "barrier", "--wait", "shared")
	end := p.server.status().Filesets[0].Order
	p.client.until("in step", func(s status) bool { return s.Filesets[0].Applied >= end })
}

func (p pair) same() {
	p.t.Helper()
	found, err := treediff.Compare(p.t.Context(), p.server.path("mnt"), p.client.path("mnt"), treediff.Options{})
	if err != nil {
		p.t.Error(err)
	}
	for _, d := range found[:min(len(found), 20)] {
		p.t.Error(d)
	}
}

// finish ends daemons and mounts.
func (p pair) finish() {
	p.t.Helper()
	for _, h := range []*host{p.client, p.server} {
		h.end(readPID(h.path("run/lento.pid")), syscall.SIGTERM)
		h.unmounted()
	}
}

// work changes a tree until stop is closed: the changes a user makes, all below
// folder name.
func work(t *testing.T, mnt, name string, rounds int, stop <-chan struct{}) {
	dir := filepath.Join(mnt, name)
	do := func(err error) {
		if err != nil {
			t.Errorf("work in %s: %v", name, err)
		}
	}
	do(os.Mkdir(dir, 0o755))
	for i := range rounds {
		select {
		case <-stop:
			return
		default:
		}
		a, b := filepath.Join(dir, fmt.Sprintf("a%d", i)), filepath.Join(dir, fmt.Sprintf("b%d", i))
		do(os.Mkdir(a, 0o755))
		do(os.WriteFile(filepath.Join(a, "file"), []byte(strings.Repeat(name, 1+i*7%5000)), 0o644))
		do(os.Rename(a, b))
		do(os.WriteFile(filepath.Join(b, "file"), []byte(fmt.Sprint("again ", i)), 0o644))
		do(os.Link(filepath.Join(b, "file"), filepath.Join(dir, fmt.Sprintf("link%d", i))))
		do(os.Chmod(filepath.Join(b, "file"), 0o600))
		if i%3 == 0 {
			do(os.RemoveAll(b))
		}
	}
}

func TestKill_DaemonsAtAnyMoment(t *testing.T) {
	p := configured(t)
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	p.server.background()
	p.client.background()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { work(t, p.server.path("mnt"), "on-server", 4000, stop) })
	wg.Go(func() { work(t, p.client.path("mnt"), "on-client", 4000, stop) })
	for round := range rounds {
		h := []*host{p.server, p.client}[round%2]
		// At any moment: this is not waiting for something.
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		h.end(readPID(h.path("run/lento.pid")), syscall.SIGKILL)
		h.background()
	}
	close(stop)
	wg.Wait()
	p.inStep()
	p.same()
	p.finish()
}

func TestKill_PrestoBetweenOperations(t *testing.T) {
	p := configured(t)
	p.server.background()
	p.client.background()
	for round := range 4 {
		h := []*host{p.server, p.client}[round%2]
		work(t, h.path("mnt"), fmt.Sprint("round", round), 50, nil)
		pid := readPID(h.path("run/0.pid"))
		h.end(pid, syscall.SIGKILL)
		h.untilStatusSays("its presto has died")
		h.must("lento", "umount", h.path("mnt"))
		h.mount(h.path("img"))
		p.inStep()
		p.same()
	}
	p.finish()
}

func TestServer_Refusals(t *testing.T) {
	p := configured(t)
	// Server absent: the client says so, and comes by itself when it is there.
	p.client.background()
	p.client.until("server absent", func(s status) bool {
		return !s.Filesets[0].Connected && strings.Contains(s.Filesets[0].Error, "connect to iserver")
	})
	p.server.background()
	p.inStep()
	// A grant that is taken away ends at once.
	p.server.must("inconfig", "replicator", "remove", "--force", "shared", "iclient")
	p.client.until("not granted", func(s status) bool {
		return !s.Filesets[0].Connected && strings.Contains(s.Filesets[0].Error, "does not grant")
	})
	p.finish()
}

func TestServer_OfAnotherFileset(t *testing.T) {
	p := configured(t)
	p.server.background()
	p.client.background()
	p.inStep()
	p.finish()
	// The same name, another fileset: a server that was formatted anew.
	p.server.must("mkizofs", "--force", "--fileset", "shared", p.server.path("img"))
	if text, err := os.ReadFile(p.server.path("etc/fsetdb")); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(p.server.path("etc/fsetdb"), []byte(withoutUUID(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
	p.server.mount(p.server.path("img"))
	p.client.mount(p.client.path("img"))
	p.server.write("new", "x")
	p.server.background()
	p.client.background()
	p.client.until("refused", func(s status) bool {
		return !s.Filesets[0].Connected && strings.Contains(s.Filesets[0].Error, "fileset")
	})
	if _, err := os.Lstat(p.client.path("mnt/new")); err == nil {
		t.Error("the client took something from another fileset")
	}
	p.finish()
}

// withoutUUID takes the uuid of the fileset out of an fsetdb.
func withoutUUID(text string) string {
	var kept []string
	replicator := false
	for line := range strings.Lines(text) {
		replicator = replicator || strings.Contains(line, "replicator")
		if !replicator && strings.HasPrefix(strings.TrimSpace(line), "uuid") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

func TestInvitation_Expired(t *testing.T) {
	s, c := newHost(t), newHost(t)
	address := loopback()
	s.must("inconfig", "init", "--name", "iserver", "--bind", address)
	s.must("inconfig", "fileset", "add", "shared", "--server", "iserver", "--device", s.path("img"), "--mountpoint", s.path("mnt"), "--channel", "0")
	pid := s.background()
	code := s.invite(address, "--valid", "1ns")
	r := c.run("inconfig", "accept", code)
	if r.code == 0 || !strings.Contains(r.err, "expired") {
		t.Errorf("exit status %d\n%s", r.code, r.err)
	}
	if left, _ := filepath.Glob(c.path("etc/*db")); len(left) > 0 {
		t.Errorf("was written: %q", left)
	}
	good := s.invite(address)
	c.must("inconfig", "accept", good)
	other := newHost(t)
	if r := other.run("inconfig", "accept", good); r.code == 0 || !strings.Contains(r.err, "used") {
		t.Errorf("taken twice: exit status %d\n%s", r.code, r.err)
	}
	s.end(pid, syscall.SIGTERM)
}
