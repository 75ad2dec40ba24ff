package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// holdEnv makes the test program open the cache it names, say so, and wait.
const holdEnv = "IZO_TEST_HOLD"

func TestMain(m *testing.M) {
	if source := os.Getenv(holdEnv); source != "" {
		c, err := Open(context.Background(), source, Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open", c.Device())
		bufio.NewReader(os.Stdin).ReadString('\n')
		c.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holder is another process that has a cache open.
type holder struct {
	cmd    *exec.Cmd
	device string
}

func hold(t *testing.T, source string) *holder {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+source)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "open") {
		t.Fatalf("the other process says %q (%v)", line, err)
	}
	return &holder{cmd: cmd, device: strings.TrimSpace(strings.TrimPrefix(line, "open"))}
}

func (h *holder) kill(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.cmd.Wait()
}

// TestOpen_InUse: one owner at a time, and the other one is told who it is; when
// that one is killed nothing is left of it.
func TestOpen_InUse(t *testing.T) {
	for name, source := range map[string]func(t *testing.T) string{
		"ext4":   func(t *testing.T) string { return image(t, "ext4") },
		"xfs":    func(t *testing.T) string { return image(t, "xfs") },
		"btrfs":  func(t *testing.T) string { return image(t, "btrfs") },
		"folder": func(t *testing.T) string { return t.TempDir() },
	} {
		t.Run(name, func(t *testing.T) {
			source := source(t)
			makeCache(t, source)
			h := hold(t, source)
			for range 2 {
				_, err := Open(context.Background(), source, Options{})
				if e := wantError(t, err, ErrInUse, strconv.Itoa(h.cmd.Process.Pid)); e.PID != h.cmd.Process.Pid {
					t.Errorf("in use by %d, the error says %d", h.cmd.Process.Pid, e.PID)
				}
			}
			if h.device != "" { // named by its device the answer is the same
				_, err := Open(context.Background(), h.device, Options{})
				wantError(t, err, ErrInUse, strconv.Itoa(h.cmd.Process.Pid))
			}
			h.kill(t)
			mustClose(t, mustOpen(t, source, Options{}))
		})
	}
}

// TestOpen_InUseByReader: who only reads does not write its pid, and is named
// all the same.
func TestOpen_InUseByReader(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir)
	if err := os.WriteFile(filepath.Join(dir, ControlDir, LockFile), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, Options{ReadOnly: true})
	_, err := Open(context.Background(), dir, Options{})
	wantError(t, err, ErrInUse, "process "+strconv.Itoa(os.Getpid()))
}

func TestOpen_MountedElsewhere(t *testing.T) {
	img := image(t, "ext4")
	makeCache(t, img)
	dir := mountImage(t, img)
	_, err := Open(context.Background(), img, Options{})
	wantError(t, err, ErrInUse, "umount "+dir)
}

// TestOpen_Race: of many that open an image at once one gets it.
func TestOpen_Race(t *testing.T) {
	img := image(t, "ext4")
	makeCache(t, img)
	var wg sync.WaitGroup
	caches := make(chan *Cache, 8)
	for range cap(caches) {
		wg.Go(func() {
			c, err := Open(context.Background(), img, Options{})
			if err == nil {
				caches <- c
			} else if !errors.Is(err, ErrInUse) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(caches)
	n := 0
	for c := range caches {
		n++
		mustClose(t, c)
	}
	if n != 1 {
		t.Errorf("%d got the cache, want 1", n)
	}
}

// TestClose_DeviceIsFree: a device that was closed can be had exclusively at
// once, and is clean, every time.
func TestClose_DeviceIsFree(t *testing.T) {
	needs(t, "e2fsck")
	img := image(t, "ext4")
	makeCache(t, img)
	l, err := attachLoop(context.Background(), img, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.close(func() string { return "" }); err != nil {
			t.Error(err)
		}
	}()
	for i := range 25 {
		c := mustOpen(t, l.path, Options{})
		f, err := c.Fileset(DefaultFileset)
		if err != nil {
			t.Fatal(err)
		}
		if err := makeDir(f.Root, strconv.Itoa(i), 0o755); err != nil {
			t.Fatal(err)
		}
		mustClose(t, c)
		run(t, "e2fsck", "-fn", l.path)
	}
}

// TestClose_WaitsForOthers: Close returns when the last one who has a file of
// the cache lets go of it, and then the loop device is detached.
func TestClose_WaitsForOthers(t *testing.T) {
	img := image(t, "ext4")
	makeCache(t, img)
	c := mustOpen(t, img, Options{})
	device := c.Device()
	held, err := reopenDir(c.Root())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.bottom.heldBy(); got != " by process "+strconv.Itoa(os.Getpid()) {
		t.Errorf("held%q, want it to name %d", got, os.Getpid())
	}
	done := make(chan error, 1)
	go func() { done <- c.Close() }()
	select {
	case err := <-done:
		t.Fatalf("Close returned (%v) while a file of the cache is open", err)
	case <-time.After(100 * time.Millisecond):
	}
	held.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(sysBlock, filepath.Base(device), "loop")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still attached: %v", device, err)
	}
}

func TestWaitUntil_Limit(t *testing.T) {
	asked := 0
	err := waitUntil(20*time.Millisecond, func() (bool, error) { asked++; return false, nil })
	if !errors.Is(err, errStillHeld) || asked < 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestOpen_RefusedBottoms(t *testing.T) {
	needs(t)
	t.Run("overlayfs", func(t *testing.T) {
		dir := t.TempDir()
		var at [4]string
		for i, name := range []string{"lower", "upper", "work", "merged"} {
			at[i] = filepath.Join(dir, name)
			if err := os.Mkdir(at[i], 0o755); err != nil {
				t.Fatal(err)
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at[0], at[1], at[2])
		if err := unix.Mount("overlay", at[3], "overlay", 0, options); err != nil {
			t.Skipf("SKIPPED: cannot mount overlayfs: %v", err)
		}
		defer unix.Unmount(at[3], 0)
		_, err := Open(context.Background(), at[3], Options{})
		wantError(t, err, ErrBottom, "overlayfs")
	})
	t.Run("proc", func(t *testing.T) {
		_, err := Open(context.Background(), "/proc/self", Options{})
		wantError(t, err, ErrBottom, "proc")
	})
	t.Run("ramfs", func(t *testing.T) {
		dir := t.TempDir()
		if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
			t.Skipf("SKIPPED: cannot mount ramfs: %v", err)
		}
		defer unix.Unmount(dir, 0)
		_, err := Open(context.Background(), dir, Options{})
		wantError(t, err, ErrBottom, "ramfs")
	})
	t.Run("FUSE", func(t *testing.T) {
		dir := t.TempDir()
		server, err := fs.Mount(dir, &fs.Inode{}, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true}})
		if err != nil {
			t.Skipf("SKIPPED: cannot mount FUSE: %v", err)
		}
		defer server.Unmount()
		_, err = Open(context.Background(), dir, Options{})
		wantError(t, err, ErrBottom, "FUSE file system")
	})
	t.Run("by name", func(t *testing.T) {
		for magic, name := range map[int64]string{0x6969: "NFS", unix.FUSE_SUPER_MAGIC: "FUSE", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs"} {
			if magics[magic] != name {
				t.Errorf("magic %#x is called %q, want %q", magic, magics[magic], name)
			}
		}
	})
}

// TestCheck_NoHandlesOrXattrs: the probes themselves notice a bottom that lacks
// what presto needs, whatever its name.
func TestCheck_NoHandlesOrXattrs(t *testing.T) {
	needs(t)
	proc, err := os.Open("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	b := &Bottom{source: "/proc/self", kind: "proc", root: proc}
	wantError(t, b.Check(proc), ErrBottom, "proc cannot carry a cache")

	ram := t.TempDir()
	if err := unix.Mount("ramfs", ram, "ramfs", 0, ""); err != nil {
		t.Skipf("SKIPPED: cannot mount ramfs: %v", err)
	}
	defer unix.Unmount(ram, 0)
	dir, err := os.Open(ram)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	b = &Bottom{source: ram, kind: "ramfs", root: dir}
	wantError(t, b.Check(dir), ErrBottom, "ramfs cannot carry a cache")
}

// TestOpenLoop_MakesNode: a loop device whose node is not in /dev gets one.
func TestOpenLoop_MakesNode(t *testing.T) {
	needsLoop(t)
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	const n = 20011 // higher than anybody gets who asks for a free one
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, n); err != nil {
		t.Skipf("SKIPPED: cannot add a loop device: %v", err)
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	defer func() {
		os.Remove(path)
		if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, n); err != nil {
			t.Errorf("remove loop device: %v", err)
		}
	}()
	os.Remove(path)
	f, err := openLoop(n, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // before the device is removed
	if _, err := unix.IoctlLoopGetStatus64(int(f.Fd())); !errors.Is(err, unix.ENXIO) {
		t.Errorf("%s is not a loop device that is free: %v", f.Name(), err)
	}
}
