package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// bottom is a kind of ground for a cache: prepare makes it and gives what to
// mount, check looks at it afterwards.
type bottom struct {
	prepare func(h *host) string
	check   func(h *host)
}

func need(t *testing.T, h *host, tool string) {
	t.Helper()
	if h.run("sh", "-c", "command -v "+tool).code != 0 {
		t.Skipf("SKIPPED: %s is not installed", tool)
	}
}

// blank makes a file of holes.
func (h *host) blank(size int64) string {
	h.t.Helper()
	f, err := os.Create(h.path("img"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		h.t.Fatal(err)
	}
	return h.path("img")
}

// device makes an image with a file system that mkizofs keeps.
func device(size int64, mkfs ...string) func(*host) string {
	return func(h *host) string {
		h.t.Helper()
		need(h.t, h, mkfs[0])
		image := h.blank(size)
		h.must(mkfs[0], append(mkfs[1:], image)...)
		h.must("mkizofs", "--adopt", "--fileset", "shared", image)
		return image
	}
}

// folder makes a folder on a file system that stays mounted.
func folder(size int64, mount ...string) func(*host) string {
	return func(h *host) string {
		h.t.Helper()
		ground := h.mkdir("ground")
		if mount[0] != "tmpfs" {
			need(h.t, h, "mkfs."+mount[0])
			h.must("mkfs."+mount[0], "-q", h.blank(size))
			h.must("mount", "-t", mount[0], "-o", "loop", h.path("img"), ground)
		} else {
			h.must("mount", "-t", "tmpfs", "-o", "size=200M", "none", ground)
		}
		h.t.Cleanup(func() {
			if err := unix.Unmount(ground, 0); err != nil {
				h.t.Errorf("unmount the bottom: %v", err)
				unix.Unmount(ground, unix.MNT_DETACH)
			}
		})
		cache := h.mkdir("ground/cache")
		h.must("mkizofs", "--fileset", "shared", cache)
		return cache
	}
}

func checks(command ...string) func(*host) {
	return func(h *host) { h.t.Helper(); h.must(command[0], append(command[1:], h.path("img"))...) }
}

func none(*host) {}

var (
	ext4Image   = bottom{func(h *host) string { return h.format("img", "shared") }, checks("e2fsck", "-fn")}
	xfsImage    = bottom{device(300<<20, "mkfs.xfs", "-q"), checks("xfs_repair", "-n")}
	btrfsImage  = bottom{device(300<<20, "mkfs.btrfs", "-q"), checks("btrfs", "check")}
	ext4Folder  = bottom{folder(300<<20, "ext4"), none}
	xfsFolder   = bottom{folder(300<<20, "xfs"), none}
	btrfsFolder = bottom{folder(300<<20, "btrfs"), none}
	tmpfsFolder = bottom{folder(0, "tmpfs"), none}
)

func TestBottoms_BothWays(t *testing.T) {
	for _, tt := range []struct {
		name           string
		server, client bottom
	}{
		{"xfs to btrfs", xfsImage, btrfsImage},
		{"btrfs to xfs", btrfsImage, xfsImage},
		{"folders on ext4 to tmpfs", ext4Folder, tmpfsFolder},
		{"folders on tmpfs to xfs", tmpfsFolder, xfsFolder},
		{"folder on btrfs to ext4", btrfsFolder, ext4Image},
	} {
		t.Run(tt.name, func(t *testing.T) {
			made := 0
			p := between(t, func(h *host) string {
				made++
				return []bottom{tt.server, tt.client}[made-1].prepare(h)
			}).started()
			p.exercise()
			p.stop()
			tt.server.check(p.server)
			tt.client.check(p.client)
		})
	}
}

// exercise makes everything on both sides, and again offline.
func (p pair) exercise() {
	p.t.Helper()
	p.bothDo("variety", func(mnt, side string) error { return variety(filepath.Join(mnt, side)) })
	p.client.end(readPID(p.client.path("run/lento.pid")), 15)
	p.bothDoOffline(func(mnt, side string) error {
		if err := variety(filepath.Join(mnt, side+"-offline")); err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(mnt, side, "a"))
	})
	p.client.background()
	p.inStep()
	p.same()
	// And through new mounts, with nothing in any cache.
	for _, h := range []*host{p.server, p.client} {
		source := strings.TrimSpace(h.must("findmnt", "-no", "SOURCE", h.path("mnt")))
		h.must("lento", "umount", h.path("mnt"))
		h.mount(source)
	}
	p.inStep()
	p.same()
}

func (p pair) bothDoOffline(do func(mnt, side string) error) {
	p.t.Helper()
	for side, h := range map[string]*host{"server": p.server, "client": p.client} {
		if err := do(h.path("mnt"), side); err != nil {
			p.t.Errorf("on the %s: %v", side, err)
		}
	}
}

// stop ends daemons and mounts.
func (p pair) stop() {
	p.t.Helper()
	for _, h := range []*host{p.client, p.server} {
		h.end(readPID(h.path("run/lento.pid")), 15)
		h.must("lento", "umount", h.path("mnt"))
	}
}

// An XFS so large that most of its inode numbers have more than 32 bits. It is
// all holes.
func TestBottoms_LongInodeNumbers(t *testing.T) {
	long := bottom{device(8<<40, "mkfs.xfs", "-q", "-l", "size=64m", "-d", "agcount=10"), checks("xfs_repair", "-n")}
	made := 0
	p := between(t, func(h *host) string {
		made++
		return []bottom{ext4Image, long}[made-1].prepare(h)
	}).started()
	p.exercise()
	short, wide := 0, 0
	err := filepath.WalkDir(p.client.path("mnt"), func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			if st.Ino>>32 != 0 {
				wide++
			} else {
				short++
			}
		}
		return nil // a path may be longer than a name can be: what can be seen is enough
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d inode numbers above 2^32, %d below", wide, short)
	if wide < 20 {
		t.Error("hardly any inode number has more than 32 bits: this proves nothing")
	}
	p.stop()
}

func longXattr(dir string) error {
	name := filepath.Join(dir, "attributed")
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		return err
	}
	return unix.Setxattr(name, "user.long", make([]byte, 60000), 0)
}

func longSymlink(dir string) error {
	return os.Symlink(strings.Repeat("x", 2000), filepath.Join(dir, "symlink"))
}
