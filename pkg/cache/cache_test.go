package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpen_Bottoms makes, opens, uses and closes a cache on every bottom, and
// looks at the file system afterwards.
func TestOpen_Bottoms(t *testing.T) {
	check := map[string][]string{
		"ext4": {"e2fsck", "-fn"}, "xfs": {"xfs_repair", "-n"}, "btrfs": {"btrfs", "check", "--readonly"},
	}
	for _, test := range []struct {
		name, bottom, cacheType string
		source                  func(t *testing.T) string
		check                   bool
	}{
		{"ext2", "ext4", "ext2", func(t *testing.T) string { return image(t, "ext2") }, true},
		{"ext3", "ext4", "ext3", func(t *testing.T) string { return image(t, "ext3") }, true},
		{"ext4", "ext4", "ext3", func(t *testing.T) string { return image(t, "ext4") }, true},
		{"xfs", "xfs", "xfs", func(t *testing.T) string { return image(t, "xfs") }, true},
		{"btrfs", "btrfs", "", func(t *testing.T) string { return image(t, "btrfs") }, true},
		{"folder on ext4", "ext4", "", func(t *testing.T) string { return mountImage(t, image(t, "ext4")) }, false},
		{"folder on xfs", "xfs", "", func(t *testing.T) string { return mountImage(t, image(t, "xfs")) }, false},
		{"folder on btrfs", "btrfs", "btrfs", func(t *testing.T) string { return mountImage(t, image(t, "btrfs")) }, false},
		{"folder on tmpfs", "tmpfs", "tmpfs", func(t *testing.T) string { return tmpfs(t) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := test.source(t)
			made := makeCache(t, source, "first", "second")
			c := mustOpen(t, source, Options{CacheType: test.cacheType})
			if c.BottomType() != test.bottom {
				t.Errorf("bottom is %q, want %q", c.BottomType(), test.bottom)
			}
			if c.Info().UUID != made.UUID || c.Info().Label != "test" || c.Copied() != "" {
				t.Errorf("opened %+v (copied: %q), made %+v", c.Info(), c.Copied(), made)
			}
			useFilesets(t, c)
			if err := c.Sync(); err != nil {
				t.Error(err)
			}
			mustClose(t, c)
			if c := check[test.bottom]; test.check {
				if _, err := exec.LookPath(c[0]); err != nil {
					t.Skipf("SKIPPED the check of the image: needs %s", c[0])
				}
				run(t, c[0], append(c[1:], source)...)
			}
		})
	}
}

// useFilesets writes through both filesets and finds them where they should be.
func useFilesets(t *testing.T, c *Cache) {
	t.Helper()
	for _, f := range []struct{ name, root string }{{"first", "."}, {"second", ".intermezzo/second/ROOT"}} {
		fs, err := c.Fileset(f.name)
		if err != nil {
			t.Fatal(err)
		}
		if fs.Info.Root != f.root || fs.Info.Adopt || !fs.Info.UUID.IsZero() {
			t.Errorf("fileset %+v, want root %s", fs.Info, f.root)
		}
		if err := makeDir(fs.Root, "dir-of-"+f.name, 0o755); err != nil {
			t.Error(err)
		}
		for _, name := range []string{KMLFile, LMLFile, StageDir, FilesetFile} {
			if !has(t, fs.Control, name) {
				t.Errorf("fileset %s has no %s", f.name, name)
			}
		}
		if has(t, fs.Control, OrderFile) {
			t.Errorf("fileset %s has an order log before a daemon attached", f.name)
		}
		d, err := openDirAt(c.Root(), filepath.Join(f.root, "dir-of-"+f.name))
		if err != nil {
			t.Errorf("the tree of %s is not at %s: %v", f.name, f.root, err)
		} else {
			d.Close()
		}
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}

func has(t *testing.T, dir *os.File, name string) bool {
	t.Helper()
	f, err := openAt(dir, name, unix.O_PATH, 0)
	if err == nil {
		f.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return err == nil
}

func TestOpen_ControlIsForRootOnly(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir)
	for path, mode := range map[string]os.FileMode{
		".": 0o700, "rootfset": 0o700, "rootfset/stage": 0o700, "cache": 0o600, "lock": 0o600, "rootfset/kml": 0o600, "rootfset/lml": 0o600,
	} {
		st, err := os.Stat(filepath.Join(dir, ControlDir, path))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", path, st.Mode().Perm(), mode)
		}
	}
}

func TestOpen_NotACache(t *testing.T) {
	needsLoop(t)
	dir := t.TempDir()
	zero := filepath.Join(dir, "zero")
	if err := os.WriteFile(zero, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	formatted := image(t, "ext4")
	defer func(before []byte) {
		if after, err := os.ReadFile(formatted); err != nil || !bytes.Equal(before, after) {
			t.Errorf("an Open that was refused changed the image (%v)", err)
		}
	}([]byte(run(t, "cat", formatted)))
	for _, test := range []struct{ name, source, want string }{
		{"unformatted image", zero, "mkizofs"},
		{"folder", dir, "mkizofs"},
		{"character device", "/dev/null", "neither a block device"},
		{"formatted, but no cache", formatted, "mkizofs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(context.Background(), test.source, Options{})
			wantError(t, err, ErrNotCache, test.want)
		})
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "absent"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent source: %v", err)
	}
}

// wantError wants an *Error of a kind that names its source and says want.
func wantError(t *testing.T, err, kind error, want string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Fatalf("error %v, want one that is %q", err, kind)
	}
	if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), e.Source) || e.Source == "" {
		t.Errorf("error %q, want it to name the source and say %q", err, want)
	}
	return e
}

func TestOpen_WrongType(t *testing.T) {
	img := image(t, "ext4")
	makeCache(t, img)
	before, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if after, err := os.ReadFile(img); err != nil || !bytes.Equal(before, after) {
			t.Errorf("an Open that was refused changed the image (%v)", err)
		}
	}()
	_, err = Open(context.Background(), img, Options{CacheType: "xfs"})
	wantError(t, err, ErrBottom, "carries ext4")
	_, err = Open(context.Background(), img, Options{CacheType: "tmpfs"})
	wantError(t, err, ErrBottom, "folder")
	if _, err = Open(context.Background(), img, Options{CacheType: "reiserfs"}); err == nil || !strings.Contains(err.Error(), "reiserfs") {
		t.Errorf("unknown cache type: %v", err)
	}
	dir := t.TempDir()
	_, err = Open(context.Background(), dir, Options{CacheType: "xfs"})
	wantError(t, err, ErrBottom, "carries ext4")
	if _, err = Open(context.Background(), img, Options{BottomOptions: []string{"no_such_option=1"}}); err == nil || !strings.Contains(err.Error(), "no_such_option") {
		t.Errorf("unknown bottom option: %v", err)
	}
}

func TestOpen_TwoSuperblocks(t *testing.T) {
	img := image(t, "ext4")
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("_BHRfS_M"), 64<<10+64); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, err = Open(context.Background(), img, Options{})
	wantError(t, err, ErrNotCache, "ext4 and of btrfs")
}

func TestOpen_Description(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(control string) error
		kind error
		want string
	}{
		{"newer", replaceIn("cache", "format = 1", "format = 2\nfuture = true"), ErrNewer, "format 2"},
		{"unknown key", replaceIn("cache", "format = 1", "format = 1\nfuture = true"), ErrDamaged, "future"},
		{"bad uuid", replaceIn("cache", "uuid = \"", "uuid = \"x"), ErrDamaged, "uuid"},
		{"torn", func(c string) error { return os.Truncate(filepath.Join(c, "cache"), 100) }, ErrDamaged, "line"},
		{"no cache file", func(c string) error { return os.Remove(filepath.Join(c, "cache")) }, ErrNotCache, "cache"},
		{"no lock file", func(c string) error { return os.Remove(filepath.Join(c, "lock")) }, ErrNotCache, "lock"},
		{"open to users", func(c string) error { return os.Chmod(c, 0o777) }, ErrDamaged, "users"},
		{"someone else's", func(c string) error { return os.Chown(c, 1, 1) }, ErrDamaged, "users"},
		{"fileset unknown key", replaceIn("rootfset/fileset", "role = ", "rolle = "), ErrDamaged, "rolle"},
		{"fileset bad role", replaceIn("rootfset/fileset", "role = \"\"", "role = \"king\""), ErrDamaged, "king"},
		{"fileset other name", replaceIn("rootfset/fileset", "name = \"rootfset\"", "name = \"other\""), ErrDamaged, "other"},
		{"no fileset file", func(c string) error { return os.Remove(filepath.Join(c, "rootfset/fileset")) }, ErrDamaged, "fileset"},
		{"root leads elsewhere", func(c string) error {
			if err := os.Remove(filepath.Join(c, "rootfset/ROOT")); err != nil {
				return err
			}
			return os.Symlink("/etc", filepath.Join(c, "rootfset/ROOT"))
		}, ErrDamaged, "/etc"},
		{"no fileset", func(c string) error { return os.RemoveAll(filepath.Join(c, "rootfset")) }, ErrDamaged, "no fileset"},
		{"control folder is a link", func(c string) error {
			if err := os.Rename(c, c+".away"); err != nil {
				return err
			}
			return os.Symlink(".intermezzo.away", c)
		}, ErrNotCache, "not a folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			makeCache(t, dir)
			if err := test.edit(filepath.Join(dir, ControlDir)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(context.Background(), dir, Options{})
			wantError(t, err, test.kind, test.want)
		})
	}
}

func replaceIn(file, old, new string) func(string) error {
	return func(control string) error {
		path := filepath.Join(control, file)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), old) {
			return errors.New("the test does not find what it is to replace")
		}
		return os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o600)
	}
}

// TestOpen_Copied: a copy of a cache does not pass for the original until it was
// settled.
func TestOpen_Copied(t *testing.T) {
	dir := t.TempDir()
	original, copied := filepath.Join(dir, "original"), filepath.Join(dir, "copy")
	if err := os.Mkdir(original, 0o755); err != nil {
		t.Fatal(err)
	}
	makeCache(t, original)
	run(t, "cp", "-a", original, copied)
	_, err := Open(context.Background(), copied, Options{})
	wantError(t, err, ErrCopied, "control folder")

	c := mustOpen(t, copied, Options{AcceptCopy: true})
	if c.Copied() == "" {
		t.Error("an accepted copy does not say that it is one")
	}
	uuid, err := NewUUID()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(uuid); err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	c = mustOpen(t, copied, Options{})
	if c.Info().UUID != uuid || c.Copied() != "" {
		t.Errorf("settled as %v, opened as %v (copied: %q)", uuid, c.Info().UUID, c.Copied())
	}
	mustClose(t, mustOpen(t, original, Options{}))
}

// TestOpen_CopiedRoot: the control folder alone, moved to another tree of the
// same file system, keeps its inode; the root tells.
func TestOpen_CopiedRoot(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir)
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, ControlDir), filepath.Join(other, ControlDir)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), other, Options{})
	wantError(t, err, ErrCopied, "root")
}

func TestOpen_NewFilesystemUUID(t *testing.T) {
	needsLoop(t, "tune2fs", "e2fsck")
	img := image(t, "ext4")
	makeCache(t, img)
	c := mustOpen(t, img, Options{})
	known := c.Info().Place.Filesystem != ""
	mustClose(t, c)
	if !known {
		t.Skip("SKIPPED: needs a kernel that tells the uuid of a file system (6.9)")
	}
	run(t, "e2fsck", "-fp", img) // tune2fs wants it to be newer than the last mount
	run(t, "tune2fs", "-U", "random", img)
	_, err := Open(context.Background(), img, Options{})
	wantError(t, err, ErrCopied, "uuid")
}

func TestOpen_ReadOnly(t *testing.T) {
	for _, kind := range []string{"image", "folder"} {
		t.Run(kind, func(t *testing.T) {
			source := t.TempDir()
			if kind == "image" {
				source = image(t, "ext4")
			}
			makeCache(t, source)
			mustClose(t, mustOpen(t, source, Options{BottomOptions: []string{"ro", "noatime"}}))
			c := mustOpen(t, source, Options{ReadOnly: true})
			fs, err := c.Fileset(DefaultFileset)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkdirat(int(fs.Root.Fd()), "x", 0o755); !errors.Is(err, unix.EROFS) {
				t.Errorf("making a folder in a read-only cache: %v", err)
			}
			mustClose(t, c)
		})
	}
}

// TestOpen_FolderHidesMounts: what is mounted below a folder is not part of it.
func TestOpen_FolderHidesMounts(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir)
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(below, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(below, "seen"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, dir, Options{})
	d, err := openDirAt(c.Root(), "below")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if names, err := d.Readdirnames(-1); err != nil || len(names) != 0 {
		t.Errorf("below a cache there is %q of another file system (%v)", names, err)
	}
}

func TestFileset_Unknown(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir, "one", "two")
	_, err := mustOpen(t, dir, Options{}).Fileset("three")
	wantError(t, err, ErrNoFileset, "one, two")
}

func TestFileset_SetInfo(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir)
	c := mustOpen(t, dir, Options{})
	f, err := c.Fileset(DefaultFileset)
	if err != nil {
		t.Fatal(err)
	}
	info := f.Info
	info.Role, info.Server = "client", "iserver"
	if info.UUID, err = NewUUID(); err != nil {
		t.Fatal(err)
	}
	if err := f.SetInfo(info); err != nil {
		t.Fatal(err)
	}
	wrong := info
	wrong.Name = "other"
	if err := f.SetInfo(wrong); err == nil {
		t.Error("a fileset changed its name")
	}
	wrong = info
	wrong.Role = "king"
	if err := f.SetInfo(wrong); err == nil {
		t.Error("a description that we would refuse was written")
	}
	mustClose(t, c)
	again := mustOpen(t, dir, Options{}).Filesets()[0]
	if again.UUID != info.UUID || again.Role != "client" || again.Server != "iserver" || again.Root != "." || !again.Created.Equal(info.Created) {
		t.Errorf("read %+v, wrote %+v", again, info)
	}
}

func TestAddFileset(t *testing.T) {
	dir := t.TempDir()
	makeCache(t, dir, "m")
	c := mustOpen(t, dir, Options{})
	if _, err := c.AddFileset("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddFileset("a"); !errors.Is(err, os.ErrExist) {
		t.Errorf("adding a fileset twice: %v", err)
	}
	if _, err := c.AddFileset("../x"); err == nil {
		t.Error("a fileset got a bad name")
	}
	if _, err := c.Fileset("a"); err != nil {
		t.Error(err)
	}
	mustClose(t, c)
	var names []string
	for _, f := range mustOpen(t, dir, Options{}).Filesets() {
		names = append(names, f.Name+"="+f.Root)
	}
	if got := strings.Join(names, " "); got != "m=. a=.intermezzo/a/ROOT" {
		t.Errorf("filesets are %q", got)
	}
}

func TestCreate_Again(t *testing.T) {
	dir := t.TempDir()
	made := makeCache(t, dir)
	b, err := Mount(context.Background(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(b.Root(), CreateOptions{Filesets: []string{"x"}}); !errors.Is(err, os.ErrExist) {
		t.Errorf("making a cache where one is: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("a Create that was refused left %v (%v)", names, err)
	}
	if c := mustOpen(t, dir, Options{}); c.Info().UUID != made.UUID {
		t.Error("the cache that was there has changed")
	}
}

// TestCreate_AfterKill: what a killed Create left is no cache, and is cleaned up.
func TestCreate_AfterKill(t *testing.T) {
	needs(t)
	dir := t.TempDir()
	left := filepath.Join(dir, ".new-.intermezzo", "rootfset")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(left, "ROOT")); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), dir, Options{})
	wantError(t, err, ErrNotCache, "mkizofs")
	makeCache(t, dir)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left over: %v (%v)", names, err)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, Options{})
}
