package mkfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func bytesAt(b []byte) io.ReaderAt { return bytes.NewReader(b) }

func swapon(path *byte) error {
	_, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func TestMake_Folder(t *testing.T) {
	dir := t.TempDir()
	s := mustMake(t, Request{Target: dir, Filesets: []string{"one", "two"}, Label: "a folder with a long label"})
	if s.Kind != "folder" || s.Action != "prepare" || s.UUID == "" || s.Filesets[1].Root != ".intermezzo/two/ROOT" {
		t.Errorf("summary %+v", s)
	}
	c := mustOpen(t, dir)
	if c.Info().UUID.String() != s.UUID || c.Info().Label != s.Label || len(c.Filesets()) != 2 {
		t.Errorf("made %+v, opened %+v", s, c.Info())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, Request{Target: dir}, s.UUID)
	wantRefusal(t, Request{Target: dir, Adopt: true}, "--add")

	s = mustMake(t, Request{Target: dir, Force: true, Filesets: []string{"three"}})
	if !strings.Contains(s.Destroyed, "one, two") {
		t.Errorf("destroyed %q", s.Destroyed)
	}
	if f := mustOpen(t, dir).Filesets(); len(f) != 1 || f[0].Name != "three" {
		t.Errorf("filesets %+v", f)
	}
}

func TestMake_FolderNotEmpty(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, Request{Target: dir}, "--adopt")
	wantRefusal(t, Request{Target: dir, Force: true}, "--adopt")
	s := mustMake(t, Request{Target: dir, Adopt: true, Filesets: []string{"mine", "more"}})
	if !s.Filesets[0].Adopt || s.Filesets[1].Adopt || s.Action != "adopt" {
		t.Errorf("summary %+v", s)
	}
	f := mustOpen(t, dir).Filesets()
	if f[0].Name != "mine" || !f[0].Adopt || f[1].Adopt {
		t.Errorf("filesets %+v", f)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the adopted file has %q (%v)", b, err)
	}
}

// TestMake_FolderForceKeepsTree: Force on a folder with a cache and a tree makes
// an end of the cache only.
func TestMake_FolderForceKeepsTree(t *testing.T) {
	dir := t.TempDir()
	mustMake(t, Request{Target: dir})
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, Request{Target: dir, Force: true}, "--adopt")
	mustOpen(t, dir).Close()
	mustMake(t, Request{Target: dir, Force: true, Adopt: true, Filesets: []string{"again"}})
	if f := mustOpen(t, dir).Filesets(); len(f) != 1 || f[0].Name != "again" || !f[0].Adopt {
		t.Errorf("filesets %+v", f)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the tree has %q (%v)", b, err)
	}
}

// TestMake_AdoptDevice adopts the tree on each file system that can be a bottom.
func TestMake_AdoptDevice(t *testing.T) {
	for kind, args := range map[string][]string{
		"ext4": {"mke2fs", "-q", "-F", "-t", "ext4"}, "xfs": {"mkfs.xfs", "-q"}, "btrfs": {"mkfs.btrfs", "-q"},
	} {
		t.Run(kind, func(t *testing.T) {
			needs(t, args[0], "mount")
			path, dir := sparse(t, 320*mib), t.TempDir()
			run(t, args[0], append(args[1:], path)...)
			run(t, "mount", "-o", "loop", path, dir)
			err := os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600)
			run(t, "umount", dir)
			if err != nil {
				t.Fatal(err)
			}
			s := mustMake(t, Request{Target: path, Adopt: true})
			if s.Bottom != kind || s.Action != "adopt" {
				t.Errorf("summary %+v", s)
			}
			c := mustOpen(t, path)
			f, err := c.Fileset(cache.DefaultFileset)
			if err != nil {
				t.Fatal(err)
			}
			if !f.Info.Adopt || c.BottomType() != kind {
				t.Errorf("fileset %+v on %s", f.Info, c.BottomType())
			}
			var st unix.Stat_t
			if err := unix.Fstatat(int(f.Root.Fd()), "file", &st, 0); err != nil {
				t.Errorf("the tree is gone: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if kind != "xfs" { // whose driver writes to its log even for a look
				wantRefusal(t, Request{Target: path, Adopt: true}, "--add")
			}
		})
	}
	wantRefusal(t, Request{Target: sparse(t, 64*mib), Adopt: true}, "could be adopted")
}

func TestMake_Add(t *testing.T) {
	for _, target := range []string{sparse(t, 64*mib), t.TempDir()} {
		made := mustMake(t, Request{Target: target, Filesets: []string{"one"}})
		wantRefusal(t, Request{Target: target, Add: true, Filesets: []string{"two", "one"}}, `"one"`)
		dry := mustMake(t, Request{Target: target, Add: true, Filesets: []string{"two"}, DryRun: true})
		if n := len(mustOpenOnce(t, target)); n != 1 || len(dry.Steps) != 1 {
			t.Errorf("a dry run made %d filesets, in steps %q", n, dry.Steps)
		}
		s := mustMake(t, Request{Target: target, Add: true, Filesets: []string{"two", "three"}})
		if s.UUID != made.UUID || s.Action != "add" || len(s.Filesets) != 2 {
			t.Errorf("summary %+v", s)
		}
		if got := strings.Join(mustOpenOnce(t, target), " "); got != "one three two" {
			t.Errorf("filesets %s", got)
		}
	}
	wantRefusal(t, Request{Target: t.TempDir(), Add: true, Filesets: []string{"x"}}, "not a cache")
}

func mustOpenOnce(t testing.TB, source string) []string {
	t.Helper()
	c := mustOpen(t, source)
	var names []string
	for _, f := range c.Filesets() {
		names = append(names, f.Name)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestMake_Misuse(t *testing.T) {
	dir := t.TempDir()
	for name, r := range map[string]Request{
		"no target":       {},
		"engine":          {Target: dir, Engine: "xfsprogs"},
		"add and adopt":   {Target: dir, Add: true, Adopt: true, Filesets: []string{"x"}},
		"add what":        {Target: dir, Add: true},
		"add with label":  {Target: dir, Add: true, Filesets: []string{"x"}, Label: "l"},
		"add with uuid":   {Target: dir, Add: true, Filesets: []string{"x"}, UUID: kml.UUID{1}},
		"size and adopt":  {Target: dir, Adopt: true, Size: gib},
		"size of folder":  {Target: dir, Size: gib},
		"small":           {Target: dir, Size: 1},
		"bad name":        {Target: dir, Filesets: []string{"../x"}},
		"name twice":      {Target: dir, Filesets: []string{"x", "x"}},
		"label":           {Target: dir, Label: "a\nb"},
		"long label":      {Target: dir, Label: strings.Repeat("x", 65)},
		"label of volume": {Target: sparse(t, 64*mib), Label: "seventeen bytes!!"},
	} {
		_, err := Make(context.Background(), r)
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("misuse left %v (%v)", names, err)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"16M": 16 * mib, "1G": gib, "1g": gib, "2GiB": 2 * gib, "2 GB": 0, "512": 512, "512b": 512, "1T": 1 << 40, "3KB": 3072,
		"": 0, "-1": 0, "0": 0, "G": 0, "1.5G": 0, "1X": 0, "9999999T": 0, "99999999999999999999": 0,
	} {
		got, err := ParseSize(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("size %q: %d, %v; want %d", s, got, err, want)
		}
	}
	for n, want := range map[int64]string{16 * mib: "16 MiB", gib + gib/2: "1.5 GiB", 100: "100 bytes", 100 * gib: "100 GiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
}
