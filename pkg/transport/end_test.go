package transport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestEnd_AbortedWhileBusy: the connection is cut off by umount -f, with requests
// that wait in threads and in goroutines. All end, and so does the server.
func TestEnd_AbortedWhileBusy(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		dirs := []string{waitDir(t, m, "wait"), waitDir(t, m, "marked")}
		var wg sync.WaitGroup
		ended := make(chan error, 100)
		for cpu := range runtime.NumCPU() {
			for i := range 20 {
				name := filepath.Join(dirs[i%2], fmt.Sprintf("gate-%d-%d", cpu, i))
				wg.Go(func() {
					onCPU(t, cpu, func() {
						_, err := os.Lstat(name)
						ended <- err
					})
				})
			}
		}
		n := int64(20 * runtime.NumCPU())
		m.until("all to wait", func(v served) bool { return v.Waiting == n })
		if err := unix.Unmount(m.dir, unix.MNT_FORCE); err != nil && err != unix.EBUSY {
			t.Fatal(err)
		}
		wg.Wait()
		for range n {
			if err := <-ended; !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ENOTCONN) {
				t.Errorf("ended with %v", err)
			}
		}
		m.expectEnd()
	})
}

// TestEnd_UnmountRefusedWhileInUse: nothing is lost, and it goes on.
func TestEnd_UnmountRefusedWhileInUse(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		f, err := os.Create(filepath.Join(m.dir, "open"))
		must(t, err)
		if err := unix.Unmount(m.dir, 0); err != unix.EBUSY {
			t.Errorf("unmount: %v", err)
		}
		_, err = f.WriteString("still here")
		must(t, err)
		must(t, f.Close())
		storm(t, m.dir, 2, 5)
		m.unmount()
	})
}

// TestEnd_Killed: the server dies in the middle of everything. Clients get errors,
// nobody hangs.
func TestEnd_Killed(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		waiting := waiters2(m, waitDir(t, m, "wait"), 6)
		m.until("all to wait", func(v served) bool { return v.Waiting == 6 })
		var busy sync.WaitGroup
		begun := make(chan bool, 4)
		for c := range 4 {
			busy.Go(func() {
				dir := filepath.Join(m.dir, string(rune('a'+c)))
				for i := 0; client(dir, 1, uint64(i)) == nil; i++ {
					if i == 1 {
						begun <- true
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		must(t, m.cmd.Process.Kill())
		<-m.gone
		busy.Wait()
		waiting.Wait()
		if _, err := os.Stat(m.dir); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("the mount says %v", err)
		}
		must(t, unix.Unmount(m.dir, 0))
	})
}

// waiters2 are look-ups that may end in any way.
func waiters2(m *mounted, dir string, n int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { os.Lstat(filepath.Join(dir, "gate-"+string(rune('a'+i)))) })
	}
	return &wg
}

func TestLink_WhyNotURing(t *testing.T) {
	t.Run("Forced", func(t *testing.T) {
		m := newMount(t, serveConfig{Force: LinkDevFuse})
		if m.told.Link != LinkDevFuse || !strings.Contains(m.told.Why, "forced") {
			t.Errorf("%+v", m.told)
		}
	})
	t.Run("SwitchedOff", func(t *testing.T) {
		allowURing(t)
		must(t, os.WriteFile(enableParameter, []byte("N"), 0))
		m := newMount(t, serveConfig{})
		if m.told.Link != LinkDevFuse || !strings.Contains(m.told.Why, "switched off") {
			t.Errorf("%+v", m.told)
		}
		work(t, m.dir)
		m.unmount()
		if _, err := tryMount(t, serveConfig{Force: LinkURing}); err == nil || !strings.Contains(err.Error(), "switched off") {
			t.Errorf("forced: %v", err)
		}
	})
	t.Run("ChosenByItself", func(t *testing.T) {
		allowURing(t)
		m := newMount(t, serveConfig{})
		if m.told.Link != LinkURing || m.told.Why != "" {
			t.Errorf("%+v", m.told)
		}
		m.unmount()
	})
	t.Run("RegistrationRefused", func(t *testing.T) {
		allowURing(t)
		m := newMount(t, serveConfig{Spoil: true})
		if m.told.Link != LinkDevFuse || !strings.Contains(m.told.Why, "refused a queue") {
			t.Errorf("%+v", m.told)
		}
		storm(t, m.dir, 2, 5)
		m.unmount()
	})
}

func TestNew_Refuses(t *testing.T) {
	needFUSE(t)
	open := func() *os.File {
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		must(t, err)
		return f
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(t, err)
	for name, c := range map[string]struct {
		dev   *os.File
		force string
		want  string
	}{
		"NotMounted":  {open(), "", "wait for INIT: read request: operation not permitted"},
		"UnknownLink": {open(), "carrier-pigeon", `transport "carrier-pigeon" is unknown: it is io-uring or dev-fuse`},
		"NotFUSE":     {null, "", "wait for INIT: read request: 0 bytes are no FUSE request"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(fuse.NewDefaultRawFileSystem(), c.dev, Options{Force: c.force})
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v", err)
			}
			if err := c.dev.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the descriptor is still open: %v", err)
			}
		})
	}
}

// TestNew_Unmounted: nothing was served, and the mount is gone.
func TestNew_Unmounted(t *testing.T) {
	needFUSE(t)
	dir := t.TempDir()
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	must(t, unix.Mount("transport-test", dir, "fuse.transporttest", 0, "fd="+itoa(dev.Fd())+",rootmode=40755,user_id=0,group_id=0"))
	must(t, unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH))
	if _, err := New(fuse.NewDefaultRawFileSystem(), dev, Options{}); err == nil || !strings.Contains(err.Error(), "unmounted before") {
		t.Errorf("got %v", err)
	}
}

// TestServer_Closed: after the end notifications and registrations say so.
func TestServer_Closed(t *testing.T) {
	needFUSE(t)
	for _, serve := range []bool{true, false} {
		allowURing(t)
		dir := t.TempDir()
		dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		must(t, err)
		must(t, unix.Mount("transport-test", dir, "fuse.transporttest", 0, "fd="+itoa(dev.Fd())+",rootmode=40755,user_id=0,group_id=0"))
		s, err := New(fuse.NewDefaultRawFileSystem(), dev, Options{})
		must(t, err)
		if s.KernelSettings().Major != 7 || s.KernelSettings().Minor < 31 {
			t.Errorf("kernel settings: %+v", s.KernelSettings())
		}
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		if serve {
			must(t, s.Serve())
			if err := s.Serve(); err == nil {
				t.Error("served twice")
			}
		}
		s.Close()
		if st := s.EntryNotify(1, "x"); st != fuse.Status(unix.ENODEV) {
			t.Errorf("notification: %v", st)
		}
		if _, e := s.RegisterBackingFd(&fuse.BackingMap{}); e != unix.ENODEV {
			t.Errorf("registration: %v", e)
		}
		if st := s.Stats(); st.Threads != 0 || st.BufferBytes != 0 {
			t.Errorf("left behind: %+v", st)
		}
	}
}

func TestNotify(t *testing.T) {
	overBoth(t, serveConfig{Cache: time.Hour}, func(t *testing.T, m *mounted) {
		name, below := filepath.Join(m.dir, "f"), filepath.Join(m.root, "f")
		must(t, os.WriteFile(name, []byte("one"), 0o644))
		read := func(want string) {
			t.Helper()
			if b, err := os.ReadFile(name); string(b) != want || err != nil {
				t.Errorf("read %q, %v; want %q", b, err, want)
			}
		}
		read("one")
		_, err := os.Stat(name) // known from here on
		must(t, err)
		must(t, os.WriteFile(below, []byte("other"), 0o644))
		if st, err := os.Stat(name); err != nil || st.Size() != 3 {
			t.Errorf("the kernel did not believe us: %v, %v", st, err)
		}
		if v := m.do("inode f"); v.Status != 0 {
			t.Errorf("inode: %v", v.Status)
		}
		read("other")
		must(t, os.Remove(below))
		read("other")
		if v := m.do("entry f"); v.Status != 0 {
			t.Errorf("entry: %v", v.Status)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("removed below: %v", err)
		}
		if v := m.do("entry nothing"); v.Status != int32(unix.ENOENT) {
			t.Errorf("unknown entry: %v", v.Status)
		}
		must(t, os.WriteFile(name, []byte("again"), 0o644))
		if v := m.do("delete f"); v.Status != 0 {
			t.Errorf("delete: %v", v.Status)
		}
		m.unmount()
	})
}

// TestPassthrough: the kernel reads by itself.
func TestPassthrough(t *testing.T) {
	overBoth(t, serveConfig{Passthrough: true}, func(t *testing.T, m *mounted) {
		must(t, os.WriteFile(filepath.Join(m.root, "f"), []byte("below"), 0o644))
		b, err := os.ReadFile(filepath.Join(m.dir, "f"))
		if err != nil || string(b) != "below" {
			t.Fatalf("%q, %v", b, err)
		}
		if v := m.do("stats"); v.Reads != 0 {
			t.Errorf("%d reads arrived", v.Reads)
		}
		m.unmount()
	})
}

// TestForget: the kernel's FORGETs arrive on both links.
func TestForget(t *testing.T) {
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		storm(t, m.dir, 2, 20)
		m.until("FORGETs", func(v served) bool { return v.Forgets >= 20 })
		m.unmount()
	})
}
