package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUtab(t *testing.T) {
	u := utab{dir: filepath.Join(t.TempDir(), "mount")}
	path := filepath.Join(u.dir, "utab")
	expect := func(want string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := u.forget("/mnt"); err != nil {
		t.Error("forget without a table:", err)
	}
	if err := u.note("/dev/x", "/mnt"); err != nil {
		t.Fatal(err)
	}
	expect("SRC=/dev/x TARGET=/mnt ROOT=/ OPTS=uhelper=fuse.intermezzo\n")
	if err := u.note("/dev/x", u.dir+"/gone"); err != nil {
		t.Fatal(err)
	}
	if err := u.forget("/mnt"); err != nil { // and the other one, which is not there
		t.Fatal(err)
	}
	expect("")
	foreign := "SRC=/dev/z TARGET=/mnt/z ROOT=/ OPTS=user\n"
	if err := os.WriteFile(path, []byte(foreign), 0o644); err != nil {
		t.Fatal(err)
	}
	spaced := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(spaced, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice is once
		if err := u.note("/a b", spaced); err != nil {
			t.Fatal(err)
		}
	}
	expect(foreign + `SRC=/a\040b TARGET=` + filepath.Dir(spaced) + `/a\040b ROOT=/ OPTS=uhelper=fuse.intermezzo` + "\n")
	if err := u.forget(spaced); err != nil {
		t.Fatal(err)
	}
	expect(foreign)
}
