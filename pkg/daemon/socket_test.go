package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLockName_OnlyOne(t *testing.T) {
	run := t.TempDir()
	lock, err := lockName(run, "lento")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockName(run, "lento"); !errors.Is(err, ErrRunning) {
		t.Errorf("second: %v", err)
	}
	if _, err := lockName(run, "intersync-0-f"); err != nil {
		t.Errorf("another name: %v", err)
	}
	lock.Close()
	if _, err := lockName(run, "lento"); err != nil {
		t.Errorf("after the first: %v", err)
	}
}

func TestReports(t *testing.T) {
	run := t.TempDir()
	if r, err := Reports(t.Context(), filepath.Join(run, "none")); err != nil || len(r) != 0 {
		t.Errorf("no run folder: %+v, %v", r, err)
	}
	l, err := listenStatus(run, "lento")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serveStatus(ctx, l, func() Report { return Report{PID: 7, Filesets: []FilesetReport{{Name: "f"}}} })
	}()
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(run, "dead"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	r, err := Reports(t.Context(), run)
	if err != nil || len(r) != 1 || r[0].PID != 7 || r[0].Filesets[0].Name != "f" {
		t.Errorf("got %+v, %v", r, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error("serve:", err)
	}
}

func TestReports_Mute(t *testing.T) {
	run := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(run, "lento"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r, err := Reports(ctx, run)
	if err != nil || len(r) != 1 || !strings.Contains(r[0].Error, "does not answer") || r[0].Tool != "lento" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestNotify(t *testing.T) {
	if err := notify("", "READY=1"); err != nil {
		t.Error("nobody to tell:", err)
	}
	if err := notify("relative", "READY=1"); err == nil {
		t.Error("relative path was taken")
	}
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := notify(path, "READY=1"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestMissingFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a b"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Cache{Mountpoint: dir}
	missing, found, err := c.MissingFiles([]byte("# list\n\na b\n" + dir + "/a b\nc\n"))
	if err != nil || found != 2 || len(missing) != 1 || missing[0] != "c" {
		t.Errorf("got %q, %d, %v", missing, found, err)
	}
	for _, bad := range []string{"../x", "/etc/passwd"} {
		if _, _, err := c.MissingFiles([]byte(bad)); err == nil {
			t.Errorf("%s was looked for", bad)
		}
	}
}
