package cache

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// needs skips, loudly, what this machine cannot do.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, to mount")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED: needs the program %s", p)
		}
	}
}

func needsLoop(t testing.TB, programs ...string) {
	t.Helper()
	needs(t, programs...)
	if _, err := os.Stat(loopControl); err != nil {
		t.Skipf("SKIPPED: needs loop devices: %v", err)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// image makes a sparse image file with an empty file system of a kind.
func image(t testing.TB, kind string) string {
	t.Helper()
	args := map[string][]string{
		"ext4":  {"mke2fs", "-q", "-F", "-t", "ext4"},
		"ext3":  {"mke2fs", "-q", "-F", "-t", "ext3"},
		"ext2":  {"mke2fs", "-q", "-F", "-t", "ext2"},
		"xfs":   {"mkfs.xfs", "-q"},
		"btrfs": {"mkfs.btrfs", "-q"},
	}[kind]
	needsLoop(t, args[0])
	size := int64(64 << 20)
	if kind == "xfs" || kind == "btrfs" {
		size = 320 << 20
	}
	path := filepath.Join(t.TempDir(), kind+".img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	run(t, args[0], append(args[1:], path)...)
	return path
}

// tmpfs mounts a tmpfs for the length of the test.
func tmpfs(t testing.TB) string {
	t.Helper()
	needs(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount tmpfs: %v", err)
		}
	})
	return dir
}

// mountImage mounts an image as a user would, and gives the folder.
func mountImage(t testing.TB, img string) string {
	t.Helper()
	needsLoop(t, "mount", "umount")
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", img, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	return dir
}

// makeCache makes a cache at source.
func makeCache(t testing.TB, source string, filesets ...string) Info {
	t.Helper()
	needs(t)
	if len(filesets) == 0 {
		filesets = []string{DefaultFileset}
	}
	b, err := Mount(context.Background(), source, Options{})
	if err != nil {
		t.Fatalf("Mount: %v", err)
	}
	info, err := Create(b.Root(), CreateOptions{Label: "test", Filesets: filesets, Bottom: b.Type()})
	if err != nil {
		t.Errorf("Create: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return info
}

func mustOpen(t testing.TB, source string, o Options) *Cache {
	t.Helper()
	c, err := Open(context.Background(), source, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func mustClose(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}
