package treediff

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is what one tree has under a name, content apart.
type entry struct {
	found  bool
	st     unix.Stat_t
	target string
	xattrs map[string]string
}

func (e *entry) kind() uint32  { return e.st.Mode & unix.S_IFMT }
func (e *entry) isDir() bool   { return e.kind() == unix.S_IFDIR }
func (e *entry) isFile() bool  { return e.kind() == unix.S_IFREG }
func (e *entry) inode() inode  { return inode{uint64(e.st.Dev), e.st.Ino} }
func (e *entry) links() uint64 { return uint64(e.st.Nlink) }

// inode identifies an object within one tree.
type inode struct{ dev, ino uint64 }

// readEntry looks at name in the directory dir without following it. A name
// that is not there gives an entry that is not found, and no error.
func readEntry(dir int, name string) (entry, error) {
	var e entry
	if err := unix.Fstatat(dir, name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return e, nil
		}
		return e, fmt.Errorf("stat: %w", err)
	}
	e.found = true
	var err error
	if e.kind() == unix.S_IFLNK {
		if e.target, err = readTarget(dir, name); err != nil {
			return e, err
		}
	}
	e.xattrs, err = readXattrs(dir, name)
	return e, err
}

func readTarget(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}

// replicated says whether an attribute is one that replicas must agree on.
// security.selinux is the policy of each host; trusted.izo* are the cache's own.
func replicated(attr string) bool {
	switch {
	case attr == "security.selinux", strings.HasPrefix(attr, "trusted.izo"):
		return false
	case strings.HasPrefix(attr, "system.posix_acl_"):
		return true
	}
	return strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "trusted.") || strings.HasPrefix(attr, "security.")
}

// readXattrs reads the attributes of an object by a path through its directory,
// because the object itself may be one that must not or can't be opened.
func readXattrs(dir int, name string) (map[string]string, error) {
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	list, err := grow(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out map[string]string
	for attr := range strings.SplitSeq(string(list), "\x00") {
		if attr == "" || !replicated(attr) {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Lgetxattr(path, attr, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s: %w", attr, err)
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[attr] = string(value)
	}
	return out, nil
}

// grow calls read with a buffer that is large enough for what it reads.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 512; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// openDir opens the directory name in dir for listing and looking up.
func openDir(dir int, name string) (*os.File, error) {
	fd, err := openat(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openat opens for reading without following links, leaving the access time
// alone where the system allows that, and without blocking on what is not a file.
func openat(dir int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open: %w", err)
	}
	return fd, nil
}

// listDir gives the sorted names in a directory.
func listDir(dir *os.File) ([]string, error) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	sort.Strings(names)
	return names, nil
}
