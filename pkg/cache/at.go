package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// beneath is how everything in a cache is opened: below the directory it is
// named in, through no symbolic link and no mount.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// maxDescription bounds the TOML files of a cache, in bytes.
const maxDescription = 64 << 10

// openAt opens name below dir with flags, creating with mode where flags say so.
// The caller closes the file.
func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Resolve: beneath}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		runtime.KeepAlive(dir)
		// EAGAIN: a rename raced with the lookup, which must be done again.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
		}
		return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
	}
}

// openDirAt opens the directory name below dir.
func openDirAt(dir *os.File, name string) (*os.File, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// mkdirAt makes the directory name in dir and opens it. The caller closes it.
func mkdirAt(dir *os.File, name string, mode uint32) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	if err := unix.Mkdirat(int(dir.Fd()), name, mode); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	f, err := openDirAt(dir, name)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(os.FileMode(mode)); err != nil { // whatever the umask is
		f.Close()
		return nil, fmt.Errorf("chmod %s: %w", path, err)
	}
	return f, nil
}

// readAt reads the whole of a small file below dir.
func readAt(dir *os.File, name string) ([]byte, error) {
	f, err := openAt(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", f.Name())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxDescription+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if len(b) > maxDescription {
		return nil, fmt.Errorf("read %s: longer than %d bytes", f.Name(), maxDescription)
	}
	return b, nil
}

// replaceAt gives the file name in dir the content b, atomically and durably:
// whatever happens, it is the old or the new one, and after a return the new.
func replaceAt(dir *os.File, name string, b []byte) error {
	temp := name + ".new"
	f, err := openAt(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Renameat(int(dir.Fd()), temp, int(dir.Fd()), name)
	}
	if err != nil {
		_ = unix.Unlinkat(int(dir.Fd()), temp, 0) // the error to report is the first
		return fmt.Errorf("replace %s: %w", filepath.Join(dir.Name(), name), err)
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir.Name(), err)
	}
	return nil
}

// removeAllAt removes name below dir and all that is in it; nothing if it does
// not exist.
func removeAllAt(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &os.PathError{Op: "remove", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	sub, err := openDirAt(dir, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	names, err := sub.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", sub.Name(), err)
	}
	for _, n := range names {
		if err := removeAllAt(sub, n); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "rmdir", Path: sub.Name(), Err: err}
	}
	return nil
}

// reopenDir opens the directory that dir is once more, with an offset of its own.
func reopenDir(dir *os.File) (*os.File, error) { return openDirAt(dir, ".") }
