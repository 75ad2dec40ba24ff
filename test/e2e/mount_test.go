package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestMount_HundredTimesNeverBusyNeverDirty(t *testing.T) {
	h := newHost(t)
	image := h.format("img", "shared")
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	line := image + " " + h.path("mnt") + " intermezzo fileset=shared,mtpt=" + h.path("mnt") + ",noauto 0 0\n"
	h.script(line, strings.NewReplacer("ROUNDS", strconv.Itoa(rounds), "MNT", h.path("mnt"), "IMAGE", image).Replace(`
for i in $(seq ROUNDS); do
	mount MNT
	echo $i >MNT/file$i
	umount MNT && e2fsck -fn IMAGE >fsck.log 2>&1 || { echo round $i; cat fsck.log; exit 1; }
done
mount MNT
[ "$(cat MNT/file* | wc -l)" = ROUNDS ]
umount MNT
`))
}

func TestMount_SeedsLine(t *testing.T) {
	h := newHost(t)
	image := h.format("img", "shared", "second")
	device := strings.TrimSpace(h.must("losetup", "-f", "--show", image))
	defer h.must("losetup", "-d", device)
	h.mkdir("izo")
	fstab := device + "    /mnt/izo    intermezzo  fileset=shared,mtpt=/mnt/izo,cache_type=ext3,prestodev=/dev/intermezzo0,noauto  0 0\n" +
		device + "    /mnt/two    intermezzo  fileset=second,mtpt=/mnt/two,cache_type=ext3,prestodev=/dev/intermezzo0,noauto  0 0\n"
	h.script(fstab, strings.NewReplacer("DEVICE", device, "RUN", h.path("run")).Replace(`
mount -t tmpfs none /mnt
mkdir /mnt/izo /mnt/two
for order in "izo two" "two izo"; do
	set -- $order
	mount /mnt/$1
	mount /mnt/$2
	[ "$(ls RUN/*.pid | wc -l)" = 1 ]
	[ "$(findmnt -no FSTYPE /mnt/izo)" = fuse.intermezzo ]
	[ "$(findmnt -no SOURCE /mnt/izo)" = DEVICE ]
	echo one >/mnt/izo/file
	echo two >/mnt/two/file
	mount -o remount,ro /mnt/izo
	! touch /mnt/izo/other 2>/dev/null
	mount -o remount,rw /mnt/izo
	touch /mnt/izo/other
	umount /mnt/$1
	[ "$(cat /mnt/$2/file | wc -l)" = 1 ]
	umount /mnt/$2 && e2fsck -fn DEVICE >/dev/null 2>&1
done
# umount(8) where nobody says which run folder it is
mount /mnt/izo
env -u INTERMEZZO_RUN umount /mnt/izo && e2fsck -fn DEVICE >/dev/null 2>&1
# busy
mount /mnt/izo
cd /mnt/izo
! umount /mnt/izo 2>busy
cd /
umount /mnt/izo
`))
}

func TestMount_LinksAreHelpers(t *testing.T) {
	h := newHost(t)
	image := h.format("img", "shared")
	helper := filepath.Join(filepath.Dir(bin), "helpers", "mount.intermezzo")
	h.must(helper, image, h.path("mnt"), "-vn", "-o", "rw,fileset=shared")
	h.refused(32, "mounted already", helper, image, h.path("mnt"), "-o", "fileset=shared")
	h.refused(1, "fileset=NAME is missing", helper, image, h.path("mnt"))
	h.refused(1, "usage", helper, image)
	h.must(filepath.Join(filepath.Dir(helper), "umount.fuse.intermezzo"), h.path("mnt"), "-nv")
	h.refused(32, "no fileset is mounted", filepath.Join(filepath.Dir(helper), "umount.fuse.intermezzo"), h.path("mnt"))
}

func TestMount_PrestoKilled(t *testing.T) {
	h := newHost(t)
	image, mnt := h.format("img", "shared"), h.path("mnt")
	for round := range 5 {
		h.must("lento", "mount", image, mnt, "-o", "fileset=shared")
		name := filepath.Join(mnt, "dir"+strconv.Itoa(round))
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(name, "file"), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		pid := readPID(h.path("run/0.pid"))
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitEnd(t, pid)
		h.refused(32, "lento umount "+mnt, "lento", "mount", image, mnt, "-o", "fileset=shared")
		h.must("lento", "umount", mnt)
	}
	h.must("lento", "mount", image, mnt, "-o", "fileset=shared")
	for round := range 5 {
		if text, err := os.ReadFile(filepath.Join(mnt, "dir"+strconv.Itoa(round), "file")); err != nil || string(text) != "content" {
			t.Errorf("round %d: %q, %v", round, text, err)
		}
	}
	h.must("lento", "umount", mnt)
	h.must("e2fsck", "-fn", image)
}

func TestPresto_Terminated(t *testing.T) {
	h := newHost(t)
	image, mnt := h.format("img", "shared"), h.path("mnt")
	h.must("lento", "mount", image, mnt, "-o", "fileset=shared")
	pid := readPID(h.path("run/0.pid"))
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitEnd(t, pid)
	h.refused(32, "no fileset is mounted", "lento", "umount", mnt)
	h.must("e2fsck", "-fn", image)
}

func TestMount_BadInput(t *testing.T) {
	h := newHost(t)
	image, mnt := h.format("img", "shared"), h.path("mnt")
	other, mnt2 := h.format("other", "shared"), h.mkdir("mnt2")
	empty := h.path("empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(empty, 32<<20); err != nil {
		t.Fatal(err)
	}
	plain := h.path("plain")
	h.must("cp", empty, plain)
	h.must("mke2fs", "-q", "-t", "ext4", plain)
	h.must("lento", "mount", other, mnt2, "-o", "fileset=shared,prestodev=/dev/intermezzo5")
	tests := []struct {
		name, says string
		code       int
		source     string
		dir        string
		options    string
	}{
		{"wrong fileset", `no fileset "shard"; it has shared`, 32, image, mnt, "fileset=shard"},
		{"no such device", "does not exist", 32, h.path("none"), mnt, "fileset=shared"},
		{"character device", "not a block device", 32, "/dev/zero", mnt, "fileset=shared"},
		{"unformatted", "mkizofs " + empty, 32, empty, mnt, "fileset=shared"},
		{"plain ext4", "not a cache", 32, plain, mnt, "fileset=shared"},
		{"channel of another cache", other, 32, image, mnt, "fileset=shared,prestodev=/dev/intermezzo5"},
		{"trailing slash", "slash", 2, image, mnt, "fileset=shared,mtpt=" + mnt + "/"},
		{"another mtpt", "must be the same", 2, image, mnt, "fileset=shared,mtpt=/mnt"},
		{"unknown option", `unknown mount option "filset=shared"`, 2, image, mnt, "filset=shared"},
		{"bad channel", "must be a number", 2, image, mnt, "fileset=shared,channel=x"},
		{"wrong type", "carries ext4", 32, image, mnt, "fileset=shared,cache_type=xfs"},
		{"no mount point", "no such file", 32, image, h.path("nowhere"), "fileset=shared"},
		{"mount point is a file", "not a folder", 32, image, empty, "fileset=shared"},
	}
	before := h.must("sha256sum", empty)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t: t, dir: h.dir}
			h.refused(tt.code, tt.says, "lento", "mount", tt.source, tt.dir, "-o", tt.options)
			if left, _ := filepath.Glob(h.path("run/*.pid")); len(left) != 1 {
				t.Errorf("left running: %q", left)
			}
		})
	}
	if after := h.must("sha256sum", empty); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	h.must("lento", "umount", mnt2)
	// The kernel had a look at these two, so the times in their superblocks differ.
	h.must("e2fsck", "-fn", plain)
	h.must("e2fsck", "-fn", image)
}
