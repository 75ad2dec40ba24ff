package mkfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
)

// needs skips, loudly, what this machine cannot do.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, to mount")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("SKIPPED: needs loop devices: %v", err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED: needs the program %s", p)
		}
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// sparse makes a sparse file.
func sparse(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// put writes into a file at an offset; if that is negative, from the end.
func put(t testing.TB, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if off < 0 {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		off += end
	}
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func sum(t testing.TB, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func mustMake(t testing.TB, r Request) Summary {
	t.Helper()
	needs(t)
	s, err := Make(context.Background(), r)
	if err != nil {
		t.Fatalf("Make: %v", err)
	}
	return s
}

// state is something that changes with the content of a file. Hashing a large one
// takes its time, so there it is the time of the last change.
func state(t testing.TB, path string) string {
	t.Helper()
	st, err := os.Stat(path)
	switch {
	case err != nil || !st.Mode().IsRegular():
		return ""
	case st.Size() > 70<<20:
		return st.ModTime().String()
	}
	return fmt.Sprintf("%x", sum(t, path))
}

// wantRefusal wants Make to refuse, naming what it found, and to change nothing.
func wantRefusal(t testing.TB, r Request, want string) {
	t.Helper()
	needs(t)
	before := state(t, r.Target)
	_, err := Make(context.Background(), r)
	var refusal *Refusal
	var fault *cache.Error
	if !errors.As(err, &refusal) && !errors.As(err, &fault) {
		t.Fatalf("Make: %v, want a refusal", err)
	}
	for _, text := range []string{want, filepath.Base(r.Target)} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("refusal %q does not say %q", err, text)
		}
	}
	if state(t, r.Target) != before {
		t.Error("the target that was refused has changed")
	}
}

// clean runs e2fsck, read-only.
func clean(t testing.TB, path string) {
	t.Helper()
	run(t, "e2fsck", "-fn", path)
}

func mustOpen(t testing.TB, source string) *cache.Cache {
	t.Helper()
	c, err := cache.Open(context.Background(), source, cache.Options{})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// use writes into the first fileset of a cache.
func use(t testing.TB, source string) {
	t.Helper()
	c := mustOpen(t, source)
	f, err := c.Fileset(c.Filesets()[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	at := int(f.Root.Fd())
	for _, dir := range []string{"a", "a/b", "a/b/c"} {
		if err := unix.Mkdirat(at, dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 30 {
			fd, err := unix.Openat(at, filepath.Join(dir, string(rune('A'+i))), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(fd, make([]byte, 1+i*1000)); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fsetxattr(fd, "trusted.izo", make([]byte, 48), 0); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
