package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock takes the lock of the folder, which it makes where it is missing, and
// waits for whoever holds it. Every edit is made under it.
func (d Dir) lock() (unlock func(), err error) {
	for {
		if err := makeDir(string(d)); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(d.Path(LockFile), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock configuration: %w", err)
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock configuration %s: %w", d, err)
		}
		if isFile(f, d.Path(LockFile)) {
			return func() { f.Close() }, nil
		}
		f.Close() // the folder was removed while we waited
	}
}

// isFile reports whether f is what is at path now.
func isFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Lstat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func makeDir(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("configuration folder %s is not a folder", path)
		}
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("make configuration folder: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// writeDurably puts data at path, so that after any crash the file is the old
// one or the new one, whole. An existing file keeps its mode and owner, unless
// it is more open than mode; a symbolic link stays, and what it points to is
// replaced.
func writeDurably(path string, data []byte, mode fs.FileMode) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	uid, gid := -1, -1
	if info, err := os.Stat(path); err == nil {
		mode &= info.Mode().Perm()
		mode |= 0o600
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(sys.Uid), int(sys.Gid)
		}
	}
	temp, err := writeTemp(path, data, mode, uid, gid)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		if errors.Is(err, unix.EBUSY) { // the file itself is a mount point
			return overwrite(path, data)
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeTemp(path string, data []byte, mode fs.FileMode, uid, gid int) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return "", err
	}
	if uid >= 0 {
		// Another owner is kept where we may; who may not owns what he writes.
		if err = f.Chown(uid, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	if err = f.Chmod(mode); err != nil {
		return "", err
	}
	if err = f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// overwrite replaces the content of a file that can't be renamed over. It is
// the weaker way, for one file bind-mounted over another.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
