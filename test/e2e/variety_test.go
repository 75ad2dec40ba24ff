package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// acl is a POSIX ACL as the kernel takes it: owner, user 77, group, mask, others.
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, ^uint32(0)}, {2, 5, 77}, {4, 5, ^uint32(0)}, {16, 5, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capability is cap_net_bind_service=ep, as the kernel keeps it.
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func at(sec, nsec int64) []unix.Timespec {
	ts := unix.Timespec{Sec: sec, Nsec: nsec}
	return []unix.Timespec{ts, ts}
}

// variety makes objects of every kind, and changes some of them, in the new
// folder dir.
func variety(dir string) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string, perm os.FileMode) func() error {
		return func() error { return os.WriteFile(in(name), []byte(text), perm) }
	}
	touch := func(name string, sec, nsec int64) func() error {
		return func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, in(name), at(sec, nsec), unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	xattr := func(name, attr string, value []byte) func() error {
		return func() error { return unix.Lsetxattr(in(name), attr, value, 0) }
	}
	steps := []func() error{
		func() error { return os.MkdirAll(in("a/b/c"), 0o755) },
		func() error { return os.MkdirAll(in("d"), 0o2775) },
		write("file", "text", 0o644), write("empty", "", 0o400), write("suid", "#!", 0o755), write("gone", "x", 0o600),
		func() error { return os.Link(in("file"), in("a/b/link")) },
		func() error { return os.Link(in("a/b/link"), in("d/another")) },
		func() error { return os.Symlink("../file", in("a/symlink")) },
		func() error { return os.Symlink("to\nno\xff\xfewhere", in("a/b/symlink")) },
		func() error { return os.Link(in("a/symlink"), in("d/symlink")) },
		func() error { return os.Lchown(in("a/symlink"), 1000, 1001) },
		touch("a/symlink", 12345, 678901234),
		func() error { return unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return unix.Mknod(in("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))) },
		func() error { return unix.Mkfifo(in("fifo"), 0o600) },
		func() error { return unix.Mknod(in("socket"), unix.S_IFSOCK|0o700, 0) },
		func() error { return os.Link(in("fifo"), in("d/fifo")) },
		func() error { return os.Chown(in("suid"), 1000, 1001) },
		func() error { return unix.Chmod(in("suid"), 0o6711) },
		func() error { return unix.Chmod(in("a"), 0o1777) },
		func() error { return unix.Chmod(in("d"), 0o2770) },
		write("d/inherits", "group", 0o660),
		write("capable", "#!", 0o755), xattr("capable", "security.capability", capability),
		xattr("file", "user.empty", nil), xattr("file", "user.bytes", []byte{0, 1, 2, 0xff}), xattr("a", "user.dir", []byte("value")),
		xattr("file", "trusted.value", []byte("t")), xattr("null", "trusted.node", []byte("n")), xattr("a/symlink", "trusted.link", []byte("l")),
		xattr("file", "system.posix_acl_access", acl()),
		xattr("a/b", "system.posix_acl_default", acl()), xattr("a/b", "system.posix_acl_access", acl()),
		func() error { return os.Mkdir(in("a/b/inherits"), 0o777) }, write("a/b/inherits/file", "acl", 0o666),
		write("name\nwith newline", "", 0o644), write("invalid \xff\xfe\x80 utf-8", "x", 0o644), write(strings.Repeat("n", 255), "long", 0o644),
		write(strings.Repeat("\u00e9", 127), "long", 0o644), write(" ", "", 0o644), write("...", "", 0o644), write("-rf *", "", 0o644), write("\\", "", 0o644),
		touch("file", -1234567890, 123456789), touch("empty", 4102444800, 999999999), touch("a/b/c", -1, 1), touch("d", 1, 1),
		func() error { return os.Remove(in("gone")) },
		func() error { return os.Rename(in("capable"), in("d/capable")) },
		func() error { return deep(dir) },
		func() error { return holes(in("sparse"), 64<<20) },
		touch("", 1000000000, 1),
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for n, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
	}
	return nil
}

// deep makes folders as deep as a path may go from the mount, and deeper than
// one may be from the root.
func deep(dir string) error {
	name := filepath.Join(dir, "deep")
	if err := os.Mkdir(name, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	part := strings.Repeat("p", 200)
	for range 25 {
		if err = unix.Mkdirat(fd, part, 0o755); err != nil {
			break
		}
		var next int
		if next, err = unix.Openat(fd, part, unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			break
		}
		unix.Close(fd)
		fd = next
	}
	if err == nil {
		var f int
		if f, err = unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			_, err = unix.Write(f, []byte("down here"))
			err = errors.Join(err, unix.Close(f))
		}
	}
	return errors.Join(err, unix.Close(fd))
}

// holes makes a file of a size that has some data, at its end and before.
func holes(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for _, off := range []int64{size / 3 &^ 4095, size / 2, size - 10} {
		if _, err = f.WriteAt([]byte("some data!"), off); err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

func (p pair) bothDo(what string, do func(mnt, side string) error) {
	p.t.Helper()
	begin := time.Now()
	var wg sync.WaitGroup
	for _, s := range []struct {
		h    *host
		name string
	}{{p.server, "server"}, {p.client, "client"}} {
		wg.Go(func() {
			if err := do(s.h.path("mnt"), s.name); err != nil {
				p.t.Errorf("%s on the %s: %v", what, s.name, err)
			}
		})
	}
	wg.Wait()
	done := time.Since(begin)
	if !p.t.Failed() {
		p.inStep()
		p.t.Logf("%s: done in %v, in step after %v", what, done.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		p.same()
	}
}

func TestVariety_BothWays(t *testing.T) {
	p := sized(t, "2G").started()
	p.bothDo("variety", func(mnt, side string) error { return variety(filepath.Join(mnt, side)) })
	// Changed by the other one, too.
	p.bothDo("changes of what the other made", func(mnt, side string) error {
		other := map[string]string{"server": "client", "client": "server"}[side]
		in := func(name string) string { return filepath.Join(mnt, other, name) }
		return errors.Join(
			os.Remove(in("d/another")), os.Rename(in("a/b"), in("a/renamed")), unix.Lremovexattr(in("file"), "user.bytes"),
			unix.Lremovexattr(in("file"), "system.posix_acl_access"), os.Chmod(in("d/capable"), 0o700), os.WriteFile(in("suid"), []byte("new"), 0),
			os.Link(in("null"), in("null2")), os.Remove(in("a/symlink")), os.Chown(in("d/symlink"), 5, 6), os.Truncate(in("sparse"), 1<<20),
			os.RemoveAll(in("deep")),
		)
	})
	p.finish()
}

func TestVariety_ManySmallFiles(t *testing.T) {
	p := sized(t, "2G").started()
	p.bothDo("5,000 small files", func(mnt, side string) error {
		for n := range 2500 {
			dir := filepath.Join(mnt, side, strconv.Itoa(n/500))
			if n%500 == 0 {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), bytes.Repeat([]byte{byte(n)}, n), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	p.bothDo("removing them", func(mnt, side string) error { return os.RemoveAll(filepath.Join(mnt, side)) })
	p.finish()
}

// large makes a file of random bytes.
func large(name string, size int, seed uint64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	_, err = io.CopyN(f, rnd, int64(size))
	return errors.Join(err, f.Close())
}

func TestVariety_LargeFiles(t *testing.T) {
	p := sized(t, "4G").started()
	p.bothDo("a file of 300 MiB", func(mnt, side string) error {
		return large(filepath.Join(mnt, "large-"+side), 300<<20, uint64(len(side)+int(side[0])))
	})
	p.bothDo("appending to it", func(mnt, side string) error {
		f, err := os.OpenFile(filepath.Join(mnt, "large-"+side), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("one line more\n")
		return errors.Join(err, f.Close())
	})
	p.bothDo("a sparse file of 2 GiB", func(mnt, side string) error { return holes(filepath.Join(mnt, "sparse-"+side), 2<<30) })
	p.bothDo("removing them", func(mnt, side string) error {
		return errors.Join(os.Remove(filepath.Join(mnt, "large-"+side)), os.Remove(filepath.Join(mnt, "sparse-"+side)))
	})
	p.finish()
}

// What is in a file that is open for writing during a barrier is on the other
// side after it, and goes on from there.
func TestVariety_OpenForWriting(t *testing.T) {
	p := configured(t).started()
	for _, s := range []struct{ from, to *host }{{p.server, p.client}, {p.client, p.server}} {
		name := filepath.Base(s.from.dir)
		f, err := os.Create(s.from.path("mnt/" + name))
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		for n := range 5 {
			text := fmt.Sprintf("line %d\n", n)
			want += text
			if _, err := f.WriteString(text); err != nil {
				t.Fatal(err)
			}
			p.inStep()
			if got := s.to.read(name); got != want {
				t.Errorf("round %d: got %q, want %q", n, got, want)
			}
		}
		// Through a map, and after its descriptor was closed.
		if err := f.Truncate(8192); err != nil {
			t.Fatal(err)
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		m[5000] = 'm'
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			t.Fatal(err)
		}
		p.inStep()
		if got := s.to.read(name); len(got) != 8192 || got[5000] != 'm' {
			t.Errorf("what was stored through a map is not there: %d bytes", len(got))
		}
		m[6000] = 'n'
		if err := unix.Munmap(m); err != nil {
			t.Fatal(err)
		}
		p.inStep()
		p.same()
	}
	p.finish()
}
