package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRequests covers what posixtest does not send.
func TestRequests(t *testing.T) {
	tests := map[string]func(*testing.T, string){
		"BigUnits": bigUnits, "Attributes": attributes, "ManyNames": manyNames, "Renames": renames,
		"Ioctl": ioctls, "CopyRange": copyRange, "Statx": statx, "LongNames": longNames, "Devices": devices,
	}
	overBoth(t, serveConfig{}, func(t *testing.T, m *mounted) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(m.dir, name)
				must(t, os.Mkdir(dir, 0o755))
				test(t, dir)
			})
		}
		m.unmount()
	})
}

// bigUnits reads and writes in the largest units there are, whose buffers are full.
func bigUnits(t *testing.T, dir string) {
	fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	must(t, err)
	defer unix.Close(fd)
	for _, size := range []int{1, 4095, 4096, 128 << 10, 1<<20 - 1, 1 << 20, 3 << 20} {
		want, got := make([]byte, size), make([]byte, size)
		for i := 0; i < size; i += 7 {
			want[i] = byte(rand.Uint32())
		}
		n, err := unix.Pwrite(fd, want, 12345)
		if n != size || err != nil {
			t.Fatalf("write of %d: %d, %v", size, n, err)
		}
		n, err = unix.Pread(fd, got, 12345)
		if n != size || err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read of %d: %d, %v, or not what was written", size, n, err)
		}
	}
}

func attributes(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, nil, 0o644))
	for _, size := range []int{0, 1, 100, 1200} {
		name := fmt.Sprintf("user.x%d", size)
		want := bytes.Repeat([]byte{byte(size), 1}, size)
		must(t, unix.Setxattr(f, name, want, 0))
		got := make([]byte, 1<<16)
		n, err := unix.Getxattr(f, name, got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("%s: %d bytes, %v", name, n, err)
		}
		if n, err := unix.Getxattr(f, name, nil); n != len(want) || err != nil {
			t.Fatalf("size of %s: %d, %v", name, n, err)
		}
		if len(want) > 1 {
			if _, err := unix.Getxattr(f, name, got[:1]); err != unix.ERANGE {
				t.Fatalf("%s into too little: %v", name, err)
			}
		}
	}
	list := make([]byte, 1<<16)
	n, err := unix.Listxattr(f, list)
	if err != nil || strings.Count(string(list[:n]), "user.x") != 4 {
		t.Fatalf("list: %q, %v", list[:max(n, 0)], err)
	}
	must(t, unix.Removexattr(f, "user.x1"))
	if _, err := unix.Getxattr(f, "user.x1", list); err != unix.ENODATA {
		t.Fatal("removed attribute: ", err)
	}
}

// manyNames needs several READDIRPLUS.
func manyNames(t *testing.T, dir string) {
	const n = 3000
	for i := range n {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d-%s", dir, i, strings.Repeat("n", i%200)), nil, 0o600))
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != n {
		t.Fatalf("%d names, %v", len(names), err)
	}
	for _, e := range names {
		if _, err := e.Info(); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.RemoveAll(dir))
}

func renames(t *testing.T, dir string) {
	a, b := dir+"/a", dir+"/b"
	must(t, os.WriteFile(a, []byte("a"), 0o644))
	must(t, os.WriteFile(b, []byte("b"), 0o644))
	if err := unix.Renameat2(-1, a, -1, b, unix.RENAME_NOREPLACE); err != unix.EEXIST {
		t.Fatal("no replace: ", err)
	}
	must(t, unix.Renameat2(-1, a, -1, b, unix.RENAME_EXCHANGE))
	if got, _ := os.ReadFile(a); string(got) != "b" {
		t.Fatalf("exchanged: %q", got)
	}
	must(t, os.Rename(a, b))
	must(t, os.Link(b, a))
	must(t, os.Symlink("b", dir+"/s"))
	if got, err := os.Readlink(dir + "/s"); got != "b" || err != nil {
		t.Fatalf("link to %q, %v", got, err)
	}
}

// ioctls sends a reply made while the request is read, both in one buffer.
func ioctls(t *testing.T, dir string) {
	f, err := os.Create(dir + "/f")
	must(t, err)
	defer f.Close()
	var words [8]uint64
	for i := range words {
		words[i] = uint64(i) + 1
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlReverse, uintptr(unsafe.Pointer(&words)))
	if errno != 0 || words != [8]uint64{8, 7, 6, 5, 4, 3, 2, 1} {
		t.Fatal(words, errno)
	}
	_, _, errno = unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x4242, 0)
	if errno != unix.ENOTTY {
		t.Fatal("unknown ioctl: ", errno)
	}
}

func copyRange(t *testing.T, dir string) {
	want := bytes.Repeat([]byte("0123456789"), 50000)
	must(t, os.WriteFile(dir+"/a", want, 0o644))
	a, err := os.Open(dir + "/a")
	must(t, err)
	defer a.Close()
	b, err := os.Create(dir + "/b")
	must(t, err)
	defer b.Close()
	n, err := unix.CopyFileRange(int(a.Fd()), nil, int(b.Fd()), nil, len(want), 0)
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	got, err := os.ReadFile(dir + "/b")
	if err != nil || !bytes.Equal(got, want[:n]) {
		t.Fatalf("%d bytes of %d, %v", len(got), n, err)
	}
	must(t, unix.Fallocate(int(b.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192))
	hole, err := unix.Seek(int(b.Fd()), 0, unix.SEEK_HOLE)
	if hole != 4096 || err != nil {
		t.Fatalf("hole at %d, %v", hole, err)
	}
}

func statx(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/f", []byte("12345"), 0o640))
	var st unix.Statx_t
	must(t, unix.Statx(-1, dir+"/f", unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	if st.Size != 5 || st.Mode&0o777 != 0o640 || time.Since(time.Unix(st.Mtime.Sec, 0)) > time.Hour {
		t.Fatalf("%+v", st)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	if fs.Blocks == 0 || fs.Namelen != 255 {
		t.Fatalf("%+v", fs)
	}
}

func longNames(t *testing.T, dir string) {
	name := strings.Repeat("x", 255)
	must(t, os.Mkdir(dir+"/"+name, 0o755))
	must(t, os.Rename(dir+"/"+name, dir+"/"+strings.Repeat("y", 255)))
	if _, err := os.Stat(dir + "/" + name + "x"); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Fatal(err)
	}
	target := strings.Repeat("t/", 2000)
	must(t, os.Symlink(target, dir+"/s"))
	if got, err := os.Readlink(dir + "/s"); got != target || err != nil {
		t.Fatal(len(got), err)
	}
}

func devices(t *testing.T, dir string) {
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, unix.Mknod(dir+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/dev", &st))
	if st.Rdev != unix.Mkdev(1, 3) {
		t.Fatalf("device %#x", st.Rdev)
	}
	must(t, unix.Chown(dir+"/fifo", 12, 34))
	must(t, unix.Stat(dir+"/fifo", &st))
	if st.Uid != 12 || st.Gid != 34 {
		t.Fatal(st.Uid, st.Gid)
	}
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	must(t, d.Sync())
}

// TestStorm has several clients at work at once on files of their own, and checks
// all that they see.
func TestStorm(t *testing.T) {
	for _, procs := range []string{"", "1"} {
		c := serveConfig{}
		if procs != "" {
			c.env = []string{"GOMAXPROCS=" + procs}
		}
		t.Run("GOMAXPROCS="+procs, func(t *testing.T) {
			overBoth(t, c, func(t *testing.T, m *mounted) {
				storm(t, m.dir, 8, 60)
				m.unmount()
			})
		})
	}
}

func storm(t *testing.T, dir string, clients, rounds int) {
	errs := make(chan error, clients)
	for c := range clients {
		go func() {
			errs <- client(filepath.Join(dir, fmt.Sprint("client", c)), rounds, uint64(c))
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func client(dir string, rounds int, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	word := make([]byte, 8)
	for i := range rounds {
		f := fmt.Sprintf("%s/f%d", dir, i)
		want := make([]byte, r.IntN(300_000))
		for j := 0; j+8 <= len(want); j += 8 {
			binary.NativeEndian.PutUint64(word, r.Uint64())
			copy(want[j:], word)
		}
		if err := os.WriteFile(f, want, 0o644); err != nil {
			return err
		}
		if i%5 == 0 {
			h, err := os.Open(f)
			if err != nil {
				return err
			}
			if err := errors.Join(h.Sync(), h.Close()); err != nil {
				return err
			}
		}
		if err := os.Rename(f, f+".new"); err != nil {
			return err
		}
		got, err := os.ReadFile(f + ".new")
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s: read %d bytes of %d, or others: %w", f, len(got), len(want), err)
		}
		if i%3 == 0 {
			if err := os.Remove(f + ".new"); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}
