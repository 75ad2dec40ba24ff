package presto

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
)

// The first unit after a start is interrupted: what it left in the stage folder
// must not be in the way of finishing it.
func TestPresto_KilledInFirstUnit(t *testing.T) {
	needCrash(t)
	for _, k := range []int{3, 9, 22} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			a, b := newHost(t, "a", ""), newHost(t, "b", "")
			a.attach(channel.RoleServer)
			sh(t, a.mnt, "for i in $(seq 20); do mkdir d$i; done")
			b.attach(channel.RoleClient)
			ends, groups := rUnit(a, b)
			last, _ := killAt(b, k, func() { b.ch.Apply(t.Context(), testFileset, ends, groups) })
			t.Log(last)
			b.start()
			rPull(a, b)
			rSame(t, a, b)
		})
	}
}

// The same on the server, with a push.
func TestPresto_KilledInFirstPush(t *testing.T) {
	needCrash(t)
	for _, k := range []int{3, 9, 22} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			a, b := newHost(t, "a", ""), newHost(t, "b", "")
			a.attach(channel.RoleServer)
			rPull(a, b)
			sh(t, b.mnt, "for i in $(seq 20); do mkdir d$i; done")
			sat, cat := a.attach(channel.RoleServer), b.attach(channel.RoleClient)
			groups := rPending(b, cat)
			rStage(b, sat, groups)
			state := b.info()
			last, _ := killAt(a, k, func() { a.ch.Accept(t.Context(), testFileset, cat.Cache, state.Applied, groups) })
			t.Log(last)
			a.start()
			if res := rPull(a, b); res.Blocked != nil {
				t.Fatalf("%+v", res.Blocked)
			}
			if b.info().PendingRecords > 0 {
				t.Logf("push again: %+v", rPush(b, a))
				rPull(a, b)
			}
			rSame(t, a, b)
		})
	}
}

// A push that could be taken in part only comes back to who made it.
func TestPresto_PartOfAPushComesBack(t *testing.T) {
	base := os.Getenv("INTERMEZZO_TEST_LARGE_XATTRS") // a folder on XFS, Btrfs or tmpfs
	if base == "" {
		t.Skip("SKIPPED: set INTERMEZZO_TEST_LARGE_XATTRS")
	}
	os.Setenv("INTERMEZZO_TEST_FS_B", base)
	a, b := newHost(t, "a", ""), newHost(t, "b", fsFolder(t, "INTERMEZZO_TEST_FS_B"))
	os.Unsetenv("INTERMEZZO_TEST_FS_B")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "mkdir zero")
	rPull(a, b)
	sh(t, b.mnt, "mkdir one two")
	must(t, unix.Setxattr(b.path("two"), "user.big", make([]byte, 9000), 0))
	sh(t, b.mnt, "mkdir three")
	t.Logf("%+v", rPush(b, a))
	rPull(a, b)
	i := b.info()
	t.Logf("confirmed %v of %v", i.Confirmed, i.Own)
	sh(t, a.mnt, "mkdir more")
	rPull(a, b)
}

// ": >stamp" is what makefiles do.
func TestPresto_EmptyingSetsTheTime(t *testing.T) {
	a := newHost(t, "a", "")
	sh(t, a.mnt, "touch -d 2001-01-01 stamp; : >stamp")
	st, err := os.Stat(a.path("stamp"))
	must(t, err)
	if time.Since(st.ModTime()) > time.Hour {
		t.Errorf("mtime is %v", st.ModTime())
	}
	sh(t, a.mnt, "touch -d 2001-01-01 stamp; truncate -s 0 stamp")
	st, err = os.Stat(a.path("stamp"))
	must(t, err)
	if time.Since(st.ModTime()) > time.Hour {
		t.Errorf("ftruncate to the same size: mtime is %v", st.ModTime())
	}
}

// A record need not have a hint of a name; with several filesets in a cache too.
func TestPresto_SecondFileset(t *testing.T) {
	needRoot(t)
	a := &host{t: t, name: "a", dir: t.TempDir()}
	a.source = filepath.Join(a.dir, "cache")
	a.mnt = filepath.Join(a.dir, "mnt")
	for _, d := range []string{a.source, a.mnt, a.run()} {
		must(t, os.MkdirAll(d, 0o755))
	}
	root, err := os.Open(a.source)
	must(t, err)
	_, err = cache.Create(root, cache.CreateOptions{Label: "a", Filesets: []string{testFileset, "zother"}, Bottom: bottomName(t, a.source)})
	must(t, err)
	root.Close()
	t.Cleanup(a.stop)
	a.start()
	b := newHost(t, "b", "")
	a.attach(channel.RoleServer)
	sh(t, a.mnt, "echo x >f; mkdir d")
	rPull(a, b)
	rSame(t, a, b)
	f, err := os.Open(b.path("f"))
	must(t, err)
	defer f.Close()
	sh(t, b.mnt, "ln f g; stat g; mv g d/h; stat d/h; rm d/h")
	must(t, f.Chmod(0o600))
	rs := b.records()
	t.Logf("%v: hint %v", rs[len(rs)-1].Op, rs[len(rs)-1].Where)
	a.stop()
	a.start() // what it knew of names at no cost is forgotten
	if res := rPush(b, a); res.Accepted != 1 {
		t.Errorf("push: %+v", res)
	}
	rPull(a, b)
	rSame(t, a, b)
}
