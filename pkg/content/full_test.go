package content_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/content"
	"golang.org/x/sys/unix"
)

// tinyStage is a stage on a file system of that many bytes, which is in no
// namespace and ends with its descriptor.
func tinyStage(t *testing.T, size string) (*content.Stage, *os.File) {
	t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("needs root to make a file system: %v", err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	root, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := os.NewFile(uintptr(root), "tiny")
	t.Cleanup(func() { dir.Close() })
	s, err := content.OpenStage(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// A full disk is said as such, and what there was no room for is not there.
func TestStage_DiskFull(t *testing.T) {
	s, dir := tinyStage(t, "300k")
	first := noise(100 << 10)
	if err := s.PutBytes(nameOf(1), first, content.SumBytes(first)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{250 << 10, large} {
		p := noise(size)
		f := put(t, s, nameOf(2), size)
		_, err := f.WriteAt(p, 0)
		if err == nil {
			err = f.Commit(ctx, content.SumBytes(p))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if err := f.Abort(); err != nil {
			t.Error(err)
		}
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Errorf("files %v, %v", names, err)
	}
	wantStaged(t, s, nameOf(1), first)
}
