package treediff

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var epoch = time.Unix(1700000000, 123456789)

// plant makes a tree with one of everything.
func plant(t *testing.T, root string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(root, name) }
	must(os.MkdirAll(in("dir/sub"), 0o755))
	must(os.WriteFile(in("dir/file"), bytes.Repeat([]byte("content "), 1000), 0o644))
	must(os.WriteFile(in("empty"), nil, 0o600))
	must(os.WriteFile(in("bytes\xff\n\""), []byte("x"), 0o644))
	must(os.Symlink("dir/file", in("link")))
	must(os.WriteFile(in("one"), []byte("linked"), 0o644))
	must(os.Link(in("one"), in("two")))
	must(os.WriteFile(in("single"), []byte("linked"), 0o644))
	must(unix.Mkfifo(in("fifo"), 0o644))
	must(unix.Mknod(in("chardev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(in("blockdev"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
	must(unix.Lsetxattr(in("dir/file"), "user.colour", []byte("blue"), 0))
	sparse, err := os.Create(in("sparse"))
	must(err)
	must(sparse.Truncate(1 << 20))
	_, err = sparse.WriteAt(bytes.Repeat([]byte("d"), 8192), 512<<10)
	must(err)
	must(sparse.Close())
	setTimes(t, root)
}

// setTimes gives everything below root the same times, the deepest last.
func setTimes(t *testing.T, root string) {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := len(paths) - 1; i >= 0; i-- {
		touch(t, paths[i], epoch)
	}
}

func touch(t *testing.T, path string, at time.Time) {
	t.Helper()
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		t.Fatal(err)
	}
}

// acl gives the binary form of an access ACL with one named user.
func acl() []byte {
	var b bytes.Buffer
	put := func(v ...any) {
		for _, x := range v {
			_ = binary.Write(&b, binary.LittleEndian, x)
		}
	}
	none := ^uint32(0)
	put(uint32(2))
	put(uint16(1), uint16(6), none)         // owner rw-
	put(uint16(2), uint16(4), uint32(1000)) // user 1000 r--
	put(uint16(4), uint16(4), none)         // group r--
	put(uint16(0x10), uint16(4), none)      // mask r--
	put(uint16(0x20), uint16(4), none)      // others r--
	return b.Bytes()
}

// capability gives the binary form of a file capability (revision 2).
func capability() []byte {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000001)
	binary.LittleEndian.PutUint32(b[4:], 1<<10)
	return b
}

func TestCompare_EachPropertyAloneIsOneDifference(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes device nodes: needs root")
	}
	setxattr := func(name, attr string, value []byte) func(t *testing.T, in func(string) string) {
		return func(t *testing.T, in func(string) string) {
			if err := unix.Lsetxattr(in(name), attr, value, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		path   string
		want   Property
		change func(t *testing.T, in func(string) string)
	}{
		{"content", "dir/file", Content, func(t *testing.T, in func(string) string) {
			writeAt(t, in("dir/file"), 7000, "X")
		}},
		{"content next to a hole", "sparse", Content, func(t *testing.T, in func(string) string) {
			writeAt(t, in("sparse"), 4096, "X")
		}},
		{"size", "dir/file", Size, func(t *testing.T, in func(string) string) {
			writeAt(t, in("dir/file"), 8000, "X")
		}},
		{"mode", "empty", Mode, func(t *testing.T, in func(string) string) {
			check(t, os.Chmod(in("empty"), 0o640))
		}},
		{"setuid", "empty", Mode, func(t *testing.T, in func(string) string) {
			check(t, unix.Chmod(in("empty"), 0o4600))
		}},
		{"sticky directory", "dir/sub", Mode, func(t *testing.T, in func(string) string) {
			check(t, unix.Chmod(in("dir/sub"), 0o1755))
		}},
		{"root's mode", ".", Mode, func(t *testing.T, in func(string) string) {
			check(t, os.Chmod(in("."), 0o700))
		}},
		{"owner", "empty", Owner, func(t *testing.T, in func(string) string) {
			check(t, os.Lchown(in("empty"), 1, 0))
		}},
		{"group of a link", "link", Owner, func(t *testing.T, in func(string) string) {
			check(t, os.Lchown(in("link"), 0, 7))
		}},
		{"mtime by a nanosecond", "empty", Mtime, func(t *testing.T, in func(string) string) {
			touch(t, in("empty"), epoch.Add(1))
		}},
		{"mtime of a directory", "dir", Mtime, func(t *testing.T, in func(string) string) {
			touch(t, in("dir"), epoch.Add(1))
		}},
		{"mtime of a link", "link", Mtime, func(t *testing.T, in func(string) string) {
			touch(t, in("link"), epoch.Add(-1))
		}},
		{"mtime of the root", ".", Mtime, func(t *testing.T, in func(string) string) {
			touch(t, in("."), epoch.Add(-1))
		}},
		{"mtime of linked names", "one", Mtime, func(t *testing.T, in func(string) string) {
			touch(t, in("one"), epoch.Add(-1))
		}},
		{"target", "link", Target, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("link")))
			check(t, os.Symlink("dir/fil_", in("link")))
		}},
		{"device", "chardev", Device, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("chardev")))
			check(t, unix.Mknod(in("chardev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}},
		{"device minor above 255", "blockdev", Device, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("blockdev")))
			check(t, unix.Mknod(in("blockdev"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300+1<<10))))
		}},
		{"type", "fifo", Type, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("fifo")))
			check(t, os.WriteFile(in("fifo"), nil, 0o644))
		}},
		{"missing file", "empty", Presence, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("empty")))
		}},
		{"missing directory", "dir", Presence, func(t *testing.T, in func(string) string) {
			check(t, os.RemoveAll(in("dir")))
		}},
		{"extra name of any bytes", "\xfe", Presence, func(t *testing.T, in func(string) string) {
			check(t, os.WriteFile(in("\xfe"), nil, 0o644))
		}},
		{"link broken", "two", HardLinks, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("two")))
			check(t, os.WriteFile(in("two"), []byte("linked"), 0o644))
		}},
		{"link added", "single", HardLinks, func(t *testing.T, in func(string) string) {
			check(t, os.Remove(in("single")))
			check(t, os.Link(in("one"), in("single")))
		}},
		{"link outside", "one", LinkCount, func(t *testing.T, in func(string) string) {
			check(t, os.Link(in("one"), in("../outside")))
		}},
		{"user xattr changed", "dir/file", Xattr, setxattr("dir/file", "user.colour", []byte("red"))},
		{"user xattr added", "dir", Xattr, setxattr("dir", "user.colour", nil)},
		{"trusted xattr of a link", "link", Xattr, setxattr("link", "trusted.colour", []byte("red"))},
		{"capability", "empty", Xattr, setxattr("empty", "security.capability", capability())},
		{"access ACL", "bytes\xff\n\"", Xattr, setxattr("bytes\xff\n\"", "system.posix_acl_access", acl())},
		{"default ACL", "dir/sub", Xattr, setxattr("dir/sub", "system.posix_acl_default", acl())},
		{"hole filled with zeros", "sparse", Holes, func(t *testing.T, in func(string) string) {
			writeAt(t, in("sparse"), 64<<10, strings.Repeat("\x00", 4096))
		}},
		{"hole at the end filled", "sparse", Holes, func(t *testing.T, in func(string) string) {
			writeAt(t, in("sparse"), 1<<20-1, "\x00")
		}},
		{"data punched", "sparse", Content, func(t *testing.T, in func(string) string) {
			f, err := os.OpenFile(in("sparse"), os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			check(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 512<<10, 4096))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			a, b := filepath.Join(dir, "a", "tree"), filepath.Join(dir, "b", "tree")
			for _, root := range []string{a, b} {
				check(t, os.MkdirAll(root, 0o755))
				plant(t, root)
			}
			expect(t, a, b, Options{})
			tt.change(t, func(name string) string { return filepath.Join(b, name) })
			if tt.want != Mtime {
				setTimes(t, b)
			}
			expect(t, a, b, Options{}, fmt.Sprintf("%q %s", tt.path, tt.want))
			expect(t, b, a, Options{}, fmt.Sprintf("%q %s", tt.path, tt.want))
			meta := []string{fmt.Sprintf("%q %s", tt.path, tt.want)}
			if tt.want == Content || tt.want == Holes {
				meta = nil
			}
			expect(t, a, b, Options{Metadata: true}, meta...)
			if tt.want == Holes {
				expect(t, a, b, Options{IgnoreHoles: true})
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, path string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte(data), at)
	check(t, err)
}

// expect compares and wants exactly these differences, given as path and property.
func expect(t *testing.T, a, b string, opts Options, want ...string) {
	t.Helper()
	found, err := Compare(context.Background(), a, b, opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		got = append(got, fmt.Sprintf("%q %s", d.Path, d.Property))
		if d.A == d.B {
			t.Errorf("%s: both sides say %s", d.Path, d.A)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("Compare(%+v) found\n%s\nwant\n%s\n%v", opts, strings.Join(got, "\n"), strings.Join(want, "\n"), found)
	}
}

func TestCompare_LeavesOutWhatIsNoPartOfAFileset(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	check(t, os.MkdirAll(filepath.Join(a, ".intermezzo", "shared"), 0o700))
	check(t, os.Mkdir(filepath.Join(b, "lost+found"), 0o700))
	check(t, unix.Lsetxattr(a, "trusted.izo.pos", []byte("1"), 0))
	touch(t, a, epoch)
	touch(t, b, epoch.Add(time.Hour))
	expect(t, a, b, Options{}) // nothing was ever made in either root, so their times mean nothing
	check(t, os.Mkdir(filepath.Join(a, "d"), 0o755))
	check(t, os.Mkdir(filepath.Join(b, "d"), 0o755))
	check(t, os.Mkdir(filepath.Join(a, "d", "lost+found"), 0o755))
	touch(t, filepath.Join(a, "d"), epoch)
	touch(t, filepath.Join(b, "d"), epoch)
	touch(t, a, epoch)
	touch(t, b, epoch)
	expect(t, a, b, Options{}, `"d/lost+found" presence`)
}

func TestCompare_ManyNamesAndALimit(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for i := range 3*batch + 7 {
		check(t, os.WriteFile(filepath.Join(a, fmt.Sprint(i)), []byte("x"), 0o644))
	}
	found, err := Compare(context.Background(), a, b, Options{})
	check(t, err)
	if len(found) != 3*batch+7+1 { // and the root's mtime
		t.Errorf("found %d differences", len(found))
	}
	found, err = Compare(context.Background(), a, b, Options{Limit: 10})
	check(t, err)
	if len(found) != 10 {
		t.Errorf("found %d differences in spite of a limit of 10", len(found))
	}
}

func TestCompare_NamesWhatItCanNotRead(t *testing.T) {
	a := t.TempDir()
	_, err := Compare(context.Background(), a, filepath.Join(a, "absent"), Options{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("error %v does not name the absent tree", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	check(t, os.Mkdir(filepath.Join(a, "d"), 0o755))
	if _, err := Compare(ctx, a, a, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func TestDifference_IsOneLineWhateverTheName(t *testing.T) {
	d := Difference{"a\nb", Mode, "0644", "0600"}
	if got, want := d.Format("host1", "host2"), `"a\nb": mode: host1: 0644, host2: 0600`; got != want {
		t.Errorf("Format gave %s, want %s", got, want)
	}
	got, err := json.Marshal(d)
	check(t, err)
	if want := `{"path":"\"a\\nb\"","property":"mode","a":"0644","b":"0600"}`; string(got) != want {
		t.Errorf("JSON is %s, want %s", got, want)
	}
}

// The union of two maps has a byte exactly if one of them has it, and is in order.
func TestUnion_HasWhatEitherHas(t *testing.T) {
	extents := rapid.Custom(func(t *rapid.T) []extent {
		var out []extent
		at := int64(0)
		for _, n := range rapid.SliceOfN(rapid.Int64Range(1, 5), 0, 12).Draw(t, "steps") {
			out = appendExtent(out, extent{at + 1, at + 1 + n})
			at += n + 1 + rapid.Int64Range(0, 2).Draw(t, "gap")
		}
		return out
	})
	has := func(m []extent, at int64) bool {
		for _, e := range m {
			if e.start <= at && at < e.end {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := extents.Draw(t, "a"), extents.Draw(t, "b")
		u := union(a, b)
		for at := range int64(120) {
			if has(u, at) != (has(a, at) || has(b, at)) {
				t.Fatalf("byte %d: union %v of %v and %v", at, u, a, b)
			}
		}
		for i := 1; i < len(u); i++ {
			if u[i].start <= u[i-1].end {
				t.Fatalf("union %v is not in order, or not joined", u)
			}
		}
		at, differ := firstHoleDifference(a, b)
		for i := range int64(120) {
			if has(a, i) != has(b, i) {
				if !differ || at != i {
					t.Fatalf("first difference of %v and %v: %d, want %d", a, b, at, i)
				}
				return
			}
		}
		if differ {
			t.Fatalf("%v and %v differ at %d?", a, b, at)
		}
	})
}
