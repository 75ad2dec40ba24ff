package mkfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/quick"

	"golang.org/x/sys/unix"
)

// TestMake_RefusesSignatures: everything that is known is refused by its name,
// and with Force formatted so that nothing of it is found any more.
func TestMake_RefusesSignatures(t *testing.T) {
	const size = 17 * mib
	type content struct {
		what string
		off  int64
		b    []byte
	}
	var all []content
	for _, s := range signatures {
		all = append(all, content{s.what, s.offset, []byte(s.magic)})
	}
	mbr := make([]byte, 512)
	mbr[510], mbr[511], mbr[446], mbr[450], mbr[458] = 0x55, 0xaa, 0x80, 0x83, 1
	mbr[461] = 1
	lvm := append(append([]byte("LABELONE"), make([]byte, 16)...), "LVM2 001"...)
	uber := binary.LittleEndian.AppendUint64(nil, 0x00bab10c)
	raid := []byte("\xfc\x4e\x2b\xa9")
	all = append(all,
		content{"an MBR partition table", 0, mbr},
		content{"an LVM physical volume", 512, lvm},
		content{"a member of a zfs pool", 128<<10 + 5<<10, uber},
		content{"a Linux RAID member", -8192, raid},
		content{"a Linux RAID member", -65536, raid},
		content{"data of no known kind", 100, []byte("hello")},
		content{"data of no known kind", -100, []byte("hello")},
	)
	for i, c := range all {
		t.Run(fmt.Sprintf("%d %s", i, strings.Fields(c.what)[1]), func(t *testing.T) {
			path := sparse(t, size)
			put(t, path, c.off, c.b)
			wantRefusal(t, Request{Target: path}, c.what)
			if i%7 != 0 { // formatting is the same for all
				return
			}
			mustMake(t, Request{Target: path, Force: true})
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if what, err := recognise(f, size); err != nil || len(what) != 1 || !strings.HasPrefix(what[0], "an ext4") {
				t.Errorf("after formatting there is %q (%v)", what, err)
			}
		})
	}
}

// TestMake_RefusesReal makes the usual things with their own tools.
func TestMake_RefusesReal(t *testing.T) {
	for _, test := range []struct {
		want string
		args []string
	}{
		{"ext2", []string{"mke2fs", "-q", "-F", "-t", "ext2"}},
		{"ext3", []string{"mke2fs", "-q", "-F", "-t", "ext3"}},
		{`an ext4 file system labelled "mine", empty`, []string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "mine"}},
		{"external ext4 journal", []string{"mke2fs", "-q", "-F", "-O", "journal_dev"}},
		{"an xfs file system, empty", []string{"mkfs.xfs", "-q"}},
		{"a btrfs file system, empty", []string{"mkfs.btrfs", "-q"}},
		{"vfat", []string{"mkfs.vfat"}},
		{"ntfs", []string{"mkfs.ntfs", "-F", "-q"}},
		{"swap", []string{"mkswap"}},
		{"LUKS", []string{"cryptsetup", "-q", "luksFormat", "--key-file", "/dev/null"}},
		{"GPT", []string{"sgdisk", "-n", "1"}},
	} {
		t.Run(test.want, func(t *testing.T) {
			needs(t, test.args[0])
			path := sparse(t, 320*mib)
			run(t, test.args[0], append(test.args[1:], path)...)
			wantRefusal(t, Request{Target: path}, test.want)
		})
	}
}

func TestMake_RefusesContentInside(t *testing.T) {
	needs(t, "mke2fs", "mount")
	path, dir := sparse(t, 64*mib), t.TempDir()
	run(t, "mke2fs", "-q", "-F", path)
	run(t, "mount", "-o", "loop", path, dir)
	err := os.WriteFile(filepath.Join(dir, "thesis"), nil, 0o600)
	run(t, "umount", dir)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, Request{Target: path}, "with 1 entry")
}

// TestMake_RefusesBusy: what somebody uses is refused whatever the request says.
func TestMake_RefusesBusy(t *testing.T) {
	needs(t, "mount", "losetup", "mkswap", "swapon")
	t.Run("mounted image", func(t *testing.T) {
		path, dir := sparse(t, 64*mib), t.TempDir()
		mustMake(t, Request{Target: path})
		run(t, "mount", "-o", "loop", path, dir)
		defer run(t, "umount", dir)
		wantRefusal(t, Request{Target: path, Force: true}, "umount "+dir)
		wantRefusal(t, Request{Target: path, Adopt: true, Force: true}, "umount "+dir)
	})
	t.Run("mounted device", func(t *testing.T) {
		dev, dir := strings.TrimSpace(run(t, "losetup", "-f", "--show", sparse(t, 64*mib))), t.TempDir()
		defer run(t, "losetup", "-d", dev)
		mustMake(t, Request{Target: dev})
		run(t, "mount", dev, dir)
		defer run(t, "umount", dir)
		wantRefusal(t, Request{Target: dev, Force: true}, "umount "+dir)
	})
	t.Run("open cache", func(t *testing.T) {
		for _, target := range []string{sparse(t, 64*mib), t.TempDir()} {
			mustMake(t, Request{Target: target})
			c := mustOpen(t, target)
			wantRefusal(t, Request{Target: target, Force: true}, "process "+strconv.Itoa(os.Getpid()))
			wantRefusal(t, Request{Target: target, Add: true, Filesets: []string{"x"}}, "process "+strconv.Itoa(os.Getpid()))
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("loop device", func(t *testing.T) {
		path := sparse(t, 64*mib)
		dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", path))
		defer run(t, "losetup", "-d", dev)
		wantRefusal(t, Request{Target: path, Force: true}, "losetup -d "+dev)
	})
	t.Run("swap", func(t *testing.T) {
		dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", sparse(t, 64*mib)))
		defer run(t, "losetup", "-d", dev)
		run(t, "mkswap", dev)
		if err := swapOn(dev); err != nil {
			t.Skipf("SKIPPED: cannot swap to a loop device: %v", err)
		}
		defer run(t, "swapoff", dev)
		wantRefusal(t, Request{Target: dev, Force: true}, "swapoff "+dev)
	})
}

func swapOn(dev string) error {
	p, err := unix.BytePtrFromString(dev)
	if err != nil {
		return err
	}
	return swapon(p)
}

func TestMake_RefusesTargets(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent")
	wantRefusal(t, Request{Target: absent}, "--size")
	wantRefusal(t, Request{Target: "/dev/null"}, "neither a block device")
	wantRefusal(t, Request{Target: sparse(t, MinSize-1)}, "too small")
	wantRefusal(t, Request{Target: sparse(t, 64*mib), Size: 65 * mib}, "--size")
	if err := os.Symlink("nowhere", absent); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, Request{Target: absent, Size: gib}, "symbolic link")
	wantRefusal(t, Request{Target: "/proc"}, "a proc file system")
}

// TestRecognise_AnyContent: whatever is on a target, looking at it ends well.
func TestRecognise_AnyContent(t *testing.T) {
	f := func(b []byte, off uint32) bool {
		path := sparse(t, mib)
		put(t, path, int64(off)%(mib-int64(len(b))), b)
		r, err := os.Open(path)
		if err != nil {
			return false
		}
		defer r.Close()
		_, err = recognise(r, mib)
		return err == nil
	}
	if err := quick.Check(f, &quick.Config{MaxCount: 50}); err != nil {
		t.Error(err)
	}
}

func FuzzRecognise(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := recognise(bytesAt(b), int64(len(b))); err != nil {
			t.Error(err)
		}
	})
}
