package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

const mib, gib = int64(1 << 20), int64(1 << 30)

// TestMake_Sizes formats images of many sizes, among them those that end in the
// middle of things, and has e2fsck look at them before and after use.
func TestMake_Sizes(t *testing.T) {
	needs(t, "e2fsck", "mke2fs")
	for _, engine := range []Engine{EngineGo, EngineE2fsprogs} {
		for _, size := range []int64{
			16 * mib, 16*mib + 4096 + 512 + 1, 65 * mib, 128*mib - 4096, 128*mib + 4096, 129 * mib, 384*mib + 8192,
			512*mib - 1, 512 * mib, gib, gib + 4096, gib + 3*mib, gib + 9*mib, 4 * gib, 4*gib + mib, 20 * gib,
		} {
			t.Run(fmt.Sprintf("%s/%d", engine, size), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "image")
				s := mustMake(t, Request{Target: path, Size: size, Engine: engine, Label: "größe"})
				if s.SizeBytes > size || s.SizeBytes < size-11*mib {
					t.Errorf("a file system of %d bytes on an image of %d", s.SizeBytes, size)
				}
				if st, err := os.Stat(path); err != nil || st.Size() != size || st.Mode().Perm() != 0o600 {
					t.Errorf("the image is %v (%v), want %d bytes", st, err, size)
				}
				clean(t, path)
				use(t, path)
				clean(t, path)
			})
		}
	}
}

func TestMake_Largest(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: 100 GiB is not for -short")
	}
	needs(t, "e2fsck")
	path := sparse(t, MaxSize)
	var last, total int64
	mustMake(t, Request{Target: path, Progress: func(done, of int64) {
		if done < last || done > of {
			t.Errorf("progress went from %d to %d of %d", last, done, of)
		}
		last, total = done, of
	}})
	if last < total*9/10 || total == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	clean(t, path)
	use(t, path)
	clean(t, path)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 300*mib {
		t.Errorf("an image of 100 GiB takes %d MiB of disk", used/mib)
	}
	wantRefusal(t, Request{Target: sparse(t, MaxSize+gib)}, "larger than")
}

// TestMake_OverOldContent formats over random bytes, and over everything that a
// repair tool could mistake for ours.
func TestMake_OverOldContent(t *testing.T) {
	needs(t, "e2fsck", "mke2fs", "blkid")
	for engine, sizes := range map[Engine][]int64{EngineGo: {64 * mib, 600 * mib}, EngineE2fsprogs: {64 * mib}} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%d MiB by %s", size/mib, engine), func(t *testing.T) {
				path := sparse(t, size)
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
					t.Fatal(err)
				}
				f.Close()
				wantRefusal(t, Request{Target: path, Engine: engine}, "no known kind")
				s := mustMake(t, Request{Target: path, Engine: engine, Force: true})
				if s.Destroyed == "" {
					t.Error("nothing is said about what was destroyed")
				}
				clean(t, path)
				use(t, path)
				clean(t, path)
			})
		}
	}
	t.Run("stale superblocks", func(t *testing.T) {
		path := sparse(t, 300*mib)
		run(t, "mke2fs", "-q", "-F", "-b", "1024", "-U", "11111111-1111-1111-1111-111111111111", path)
		put(t, path, -sector, []byte("EFI PART"))
		put(t, path, 64*mib+64, []byte("_BHRfS_M"))
		s := mustMake(t, Request{Target: path, Force: true})
		for _, block := range []int64{8193, 24577, 40961} {
			b := make([]byte, 2)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(b, block*1024+sbMagic); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if bytes.Equal(b, []byte{0x53, 0xef}) {
				t.Errorf("the old file system has a superblock left in block %d", block)
			}
		}
		if got := run(t, "blkid", "-p", path); !strings.Contains(got, s.UUID) || strings.Contains(got, "PTTYPE") {
			t.Errorf("blkid finds %s", got)
		}
		clean(t, path)
	})
}

// TestMake_Features compares what the two engines make, as dumpe2fs tells it.
func TestMake_Features(t *testing.T) {
	needs(t, "dumpe2fs", "mke2fs")
	fields := regexp.MustCompile(`(?m)^(Filesystem volume name|Filesystem UUID|Filesystem features|Default mount options|Errors behavior|` +
		`Block count|Block size|Reserved block count|Inode size|Required extra isize|Desired extra isize|Maximum mount count|Check interval|Total journal size):.*$`)
	uuid, err := cache.NewUUID()
	if err != nil {
		t.Fatal(err)
	}
	var got [2]string
	for i, engine := range []Engine{EngineGo, EngineE2fsprogs} {
		path := filepath.Join(t.TempDir(), "image")
		mustMake(t, Request{Target: path, Size: gib, Engine: engine, Label: "sixteen bytes ok", UUID: uuid})
		head := run(t, "dumpe2fs", "-h", path)
		got[i] = strings.Join(fields.FindAllString(head, -1), "\n")
		for _, f := range []string{"has_journal", "extent", "64bit", "dir_index", "metadata_csum"} {
			if !strings.Contains(head, f) {
				t.Errorf("%s does not set %s", engine, f)
			}
		}
		if strings.Contains(head, "fast_commit") {
			t.Errorf("%s sets fast_commit", engine)
		}
	}
	if got[0] != got[1] || !strings.Contains(got[0], uuid.String()) {
		t.Errorf("the engines differ:\n%s\n\n%s", got[0], got[1])
	}
}

// TestCreateExt4_Copies: each copy of the superblock and the descriptors is whole,
// and e2fsck finds all well by it.
func TestCreateExt4_Copies(t *testing.T) {
	needs(t, "e2fsck")
	path := sparse(t, 2*gib)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := createExt4(&store{ctx: context.Background(), f: f, size: 2 * gib}, planGeometry(2*gib, "x", [16]byte{1})); err != nil {
		t.Fatal(err)
	}
	for _, group := range []int{0, 1, 3, 5, 7, 9} {
		run(t, "e2fsck", "-fn", "-B", "4096", "-b", fmt.Sprint(group*32768), path)
	}
}

// TestMake_XattrFitsInode: an object's id takes no block of its own.
func TestMake_XattrFitsInode(t *testing.T) {
	for _, engine := range []Engine{EngineGo, EngineE2fsprogs} {
		needs(t, "mke2fs")
		path := filepath.Join(t.TempDir(), "image")
		mustMake(t, Request{Target: path, Size: 32 * mib, Engine: engine})
		c := mustOpen(t, path)
		fd, err := unix.Openat(int(c.Root().Fd()), "x", unix.O_CREAT|unix.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fsetxattr(fd, cache.XattrID, make([]byte, 64), 0); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Blocks != 0 {
			t.Errorf("%s: an empty file with an id takes %d blocks (%v)", engine, st.Blocks, err)
		}
		var stx unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &stx); err != nil || stx.Mask&unix.STATX_BTIME == 0 {
			t.Errorf("%s: no birth time (%v)", engine, err)
		}
		unix.Close(fd)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMake_LostFound(t *testing.T) {
	needs(t, "e2fsck", "debugfs")
	path := filepath.Join(t.TempDir(), "image")
	mustMake(t, Request{Target: path, Size: 64 * mib})
	c := mustOpen(t, path)
	var st unix.Stat_t
	if err := unix.Fstatat(int(c.Root().Fd()), cache.LostFound, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFDIR|0o700 || st.Size < lostFoundSize {
		t.Errorf("lost+found has mode %o and %d bytes", st.Mode, st.Size)
	}
	if err := unix.Mkdirat(int(c.Root().Fd()), "gone", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// e2fsck can use it: it puts there what lost its name.
	run(t, "debugfs", "-w", "-R", "unlink gone", path)
	run(t, "sh", "-c", "e2fsck -fy "+path+"; test $? -le 1")
	clean(t, path)
	if out := run(t, "debugfs", "-R", "ls -l lost+found", path); !strings.Contains(out, "#") {
		t.Errorf("lost+found has:\n%s", out)
	}
}

// TestMake_FullImageStaysFull: an image that has all its blocks, to be sure of
// them, does not get holes.
func TestMake_FullImageStaysFull(t *testing.T) {
	needs(t, "e2fsck")
	path := sparse(t, 64*mib)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 64*mib); err != nil {
		t.Skipf("SKIPPED: no fallocate here: %v", err)
	}
	f.Close()
	mustMake(t, Request{Target: path})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 < 64*mib {
		t.Errorf("the image has %d of %d bytes (%v)", st.Blocks*512, 64*mib, err)
	}
	clean(t, path)
}

// TestMake_Device formats a block device, and twice over.
func TestMake_Device(t *testing.T) {
	needs(t, "e2fsck", "losetup")
	dev := strings.TrimSpace(run(t, "losetup", "-f", "--show", sparse(t, 200*mib)))
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	for _, r := range []Request{{Target: dev}, {Target: dev, Force: true}, {Target: dev, Force: true, Engine: EngineE2fsprogs}} {
		if s := mustMake(t, r); s.Kind != "device" || s.Target != dev {
			t.Errorf("made %+v", s)
		}
		clean(t, dev)
		use(t, dev)
		clean(t, dev)
		wantRefusal(t, Request{Target: dev}, "a cache of InterMezzo")
	}
}

func TestMake_Cancelled(t *testing.T) {
	needs(t)
	path := filepath.Join(t.TempDir(), "image")
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Make(ctx, Request{Target: path, Size: gib, Progress: func(done, of int64) {
		if done > of/4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Make: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image that was not finished is there: %v", err)
	}
}

func TestMake_DryRun(t *testing.T) {
	needs(t, "mke2fs")
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	s := mustMake(t, Request{Target: path, Size: gib, DryRun: true, Filesets: []string{"one", "two"}})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("a dry run made the image")
	}
	if !s.DryRun || s.SizeBytes != gib || len(s.Steps) < 4 || len(s.Filesets) != 2 {
		t.Errorf("summary %+v", s)
	}
	old := sparse(t, 64*mib)
	run(t, "mke2fs", "-q", "-F", old)
	before := sum(t, old)
	s = mustMake(t, Request{Target: old, DryRun: true, Force: true})
	if !strings.Contains(s.Destroyed, "ext2") {
		t.Errorf("destroyed would be %q", s.Destroyed)
	}
	mustMake(t, Request{Target: old, DryRun: true, Adopt: true})
	if sum(t, old) != before {
		t.Error("a dry run changed the target")
	}
	mustMake(t, Request{Target: dir, DryRun: true})
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("a dry run left %v (%v)", names, err)
	}
}

func TestGeometry_WorkIsWhatIsDone(t *testing.T) {
	for _, size := range []int64{16 * mib, 300 * mib, gib, 10 * gib} {
		path := sparse(t, size)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		g := planGeometry(size, "", [16]byte{1})
		s := &store{ctx: context.Background(), f: f, size: size}
		if err := createExt4(s, g); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if s.done < g.work()*95/100 || s.done > g.work()*110/100 {
			t.Errorf("%d bytes: did %d, planned %d", size, s.done, g.work())
		}
	}
}
