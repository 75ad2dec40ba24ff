package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestResolveBelow(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(os.Symlink("a/b", filepath.Join(dir, "rel")))
	must(os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "abs")))
	must(os.Symlink("../rel", filepath.Join(dir, "a/up")))
	must(os.Symlink("loop", filepath.Join(dir, "loop")))
	tests := []struct{ path, want string }{
		{"a/b", "a/b"}, {"rel", "a/b"}, {"abs/b", "a/b"}, {"a/up", "a/b"}, {"a/../rel/..", "a"},
	}
	for _, tt := range tests {
		got, err := resolveBelow(nil, dir+"/"+tt.path)
		if err != nil || got != filepath.Join(dir, tt.want) {
			t.Errorf("%s: got %s, %v, want %s", tt.path, got, err, tt.want)
		}
	}
	if _, err := resolveBelow(nil, filepath.Join(dir, "loop")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("loop: got %v", err)
	}
	// What lies on a fileset is not looked at: this does not exist.
	table := []Point{{Dir: filepath.Join(dir, "a"), Type: FSType}}
	got, err := resolveBelow(table, filepath.Join(dir, "abs/none/such"))
	if err != nil || got != filepath.Join(dir, "a/none/such") {
		t.Errorf("below a mount: got %s, %v", got, err)
	}
}

func TestTopmost(t *testing.T) {
	table := []Point{{Dir: "/m", Type: FSType, Source: "below"}, {Dir: "/m", Type: "tmpfs"}, {Dir: "/n", Type: FSType}}
	if p, ok := ByDir(table, "/m"); ok {
		t.Errorf("/m is covered by tmpfs, got %+v", p)
	}
	if p, ok := ByDir(table, "/n/"); !ok || p.Dir != "/n" {
		t.Errorf("/n/: got %+v, %v", p, ok)
	}
}

func TestFindMounted(t *testing.T) {
	table := []Point{
		{Dir: "/a", Type: FSType, Source: "/dev/x"}, {Dir: "/b", Type: FSType, Source: "/dev/y"},
		{Dir: "/c", Type: FSType, Source: "/dev/y"}, {Dir: "/d", Type: "ext4", Source: "/dev/z"},
	}
	tests := []struct {
		target, dir string
		class       int
	}{
		{"/a", "/a", 0}, {"/dev/x", "/a", 0}, {"/dev/y", "", int(Usage)}, {"/dev/z", "", int(Failed)},
		{"/d", "", int(Failed)}, {"", "", int(Usage)}, {"/none", "", int(Failed)},
	}
	for _, tt := range tests {
		p, err := findMounted(table, tt.target)
		if p.Dir != tt.dir || ExitCode(err) != tt.class {
			t.Errorf("%q: got %q, %v", tt.target, p.Dir, err)
		}
	}
}

func TestPrestoOf(t *testing.T) {
	tests := []struct {
		args   []string
		run    string
		number int
	}{
		{[]string{"@lento", "presto", "--run=/run/x", "--source=/dev/y", "--channel=3"}, "/run/x", 3},
		{[]string{"@lento", "presto", "--source=/dev/y", "--channel=3"}, "", 0},
		{[]string{"lento", "presto", "--run=/run/x", "--channel=3"}, "", 0},
		{[]string{"@lento", "mount", "--run=/run/x", "--channel=3"}, "", 0},
		{[]string{"@lento", "presto", "--run=x", "--channel=3"}, "", 0},
		{[]string{"@lento", "presto", "--run=/run/x"}, "", 0},
		{nil, "", 0},
	}
	for _, tt := range tests {
		run, number, ok := prestoOf(tt.args)
		if ok != (tt.run != "") || ok && (run != tt.run || number != tt.number) {
			t.Errorf("%q: got %q, %d, %v", tt.args, run, number, ok)
		}
	}
}

func TestExitCode(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("x"), 32}, {context.Canceled, 8},
		{failure(Usage, "x"), 1}, {fmt.Errorf("y: %w", failure(System, "x")), 2}, {failure(Interrupted, "x"), 8},
	}
	for _, tt := range tests {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}
