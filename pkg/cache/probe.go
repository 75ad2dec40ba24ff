package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// superblock is what a bottom file system begins with.
type superblock struct {
	kind   string // as BottomType
	offset int64  // of magic, bytes
	magic  string
}

// superblocks has the bottoms that can lie on a device.
var superblocks = [...]superblock{
	{"ext4", 1024 + 56, "\x53\xef"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 64<<10 + 64, "_BHRfS_M"},
}

// probeDevice tells by its superblock which bottom file system r carries, ""
// if none. Two at once is an error: nobody could say which one is meant.
func probeDevice(r io.ReaderAt) (string, error) {
	found := ""
	for _, s := range superblocks {
		b := make([]byte, len(s.magic))
		if _, err := r.ReadAt(b, s.offset); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return "", fmt.Errorf("read superblock: %w", err)
		}
		if !bytes.Equal(b, []byte(s.magic)) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("it has the superblocks of %s and of %s; wipe the stale one", found, s.kind)
		}
		found = s.kind
	}
	return found, nil
}

// magics names file systems by what statfs says. Those in bottoms can carry a
// cache; the others are here to be refused by name.
var magics = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs",
	0x794c7630: "overlayfs", 0x6969: "NFS", 0x65735546: "FUSE", 0xff534d42: "CIFS", 0xfe534d42: "SMB",
	0x01021997: "9p", 0x00c36400: "Ceph", 0x5346414f: "AFS", 0x73757245: "Coda", 0x4d44: "vfat", 0x2011bab0: "exfat",
	0x7366746e: "ntfs", 0xf2f52010: "f2fs", 0x2fc12fc1: "zfs", 0xca451a4e: "bcachefs", 0x73717368: "squashfs",
	0xe0f5e1e2: "erofs", 0x9660: "iso9660", 0x15013346: "udf", 0xf15f: "ecryptfs", 0x858458f6: "ramfs",
	0x9fa0: "proc", 0x62656572: "sysfs", 0x52654973: "reiserfs", 0x3153464a: "jfs", 0x1badface: "bfs",
	0x01161970: "gfs2", 0x7461636f: "ocfs2", 0x3434: "nilfs2", 0x27e0eb: "cgroup", 0x63677270: "cgroup2",
}

// bottoms are the types that can carry a cache.
var bottoms = [...]string{"ext4", "xfs", "btrfs", "tmpfs"}

// folderType tells the type of the file system that f is on, and whether it can
// carry a cache.
func folderType(f *os.File) (kind string, ok bool, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", false, fmt.Errorf("statfs %s: %w", f.Name(), err)
	}
	kind, known := magics[int64(st.Type)]
	if !known {
		return fmt.Sprintf("unknown (magic %#x)", st.Type), false, nil
	}
	for _, b := range bottoms {
		if kind == b {
			return kind, true, nil
		}
	}
	return kind, false, nil
}

// checkHandles makes sure that a directory of the bottom can be opened by its
// file handle, which is how presto reaches every object.
func checkHandles(mount, dir *os.File) error {
	h, _, err := unix.NameToHandleAt(int(dir.Fd()), "", unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errors.New("it has no file handles")
	}
	if err != nil {
		return fmt.Errorf("get a file handle: %w", err)
	}
	fd, err := unix.OpenByHandleAt(int(mount.Fd()), h, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open by file handle: %w", err)
	}
	defer unix.Close(fd)
	var want, got unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &want); err != nil {
		return fmt.Errorf("stat %s: %w", dir.Name(), err)
	}
	if err := unix.Fstat(fd, &got); err != nil {
		return fmt.Errorf("stat what a file handle opened: %w", err)
	}
	if want.Ino != got.Ino || want.Dev != got.Dev {
		return errors.New("its file handles lead to other objects")
	}
	return nil
}

// checkXattrs makes sure that the bottom keeps attributes in trusted.*. Without
// readOnly it tries on an object that never has a name.
func checkXattrs(dir *os.File, readOnly bool) error {
	const name = XattrPrefix + ".probe"
	if readOnly {
		_, err := unix.Fgetxattr(int(dir.Fd()), name, make([]byte, 8))
		if err != nil && !errors.Is(err, unix.ENODATA) {
			return xattrFault(err)
		}
		return nil
	}
	f, err := openAt(dir, ".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make a file: %w", err)
	}
	defer f.Close()
	value := make([]byte, 64) // more than an object id with its stamp takes
	if err := unix.Fsetxattr(int(f.Fd()), name, value, 0); err != nil {
		return xattrFault(err)
	}
	if n, err := unix.Fgetxattr(int(f.Fd()), name, value); err != nil || n != len(value) {
		return fmt.Errorf("an extended attribute came back with %d of %d bytes: %w", n, len(value), err)
	}
	return nil
}

func xattrFault(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errors.New("it has no trusted extended attributes")
	}
	return fmt.Errorf("set an extended attribute: %w", err)
}

// ioctlGetFSUUID is FS_IOC_GETFSUUID, which golang.org/x/sys lacks: the kernel
// gives a length byte and up to 16 bytes of uuid.
const ioctlGetFSUUID = 0x80111500

// ioctlGetVersion is FS_IOC_GETVERSION: _IOR('v', 1, long), although the kernel
// writes 32 bits.
const ioctlGetVersion = 2<<30 | unsafe.Sizeof(uintptr(0))<<16 | 'v'<<8 | 1

// filesystemUUID gives the uuid of the file system that f is on as hex, "" if
// the kernel (before 6.9) or the file system does not tell.
func filesystemUUID(f *os.File) string {
	var v [17]byte
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlGetFSUUID, uintptr(unsafe.Pointer(&v[0])))
	runtime.KeepAlive(f)
	if errno != 0 || v[0] == 0 || int(v[0]) >= len(v) {
		return ""
	}
	return fmt.Sprintf("%x", v[1:1+v[0]])
}

// placeOf tells where a cache is: which inodes of which file system its control
// folder and its root are.
func placeOf(control, root *os.File) (Place, error) {
	var p Place
	for _, x := range []struct {
		f    *os.File
		into *string
	}{{control, &p.Control}, {root, &p.Root}} {
		h, _, err := unix.NameToHandleAt(int(x.f.Fd()), "", unix.AT_EMPTY_PATH)
		if err != nil {
			return Place{}, fmt.Errorf("get file handle of %s: %w", x.f.Name(), err)
		}
		*x.into = fmt.Sprintf("%d:%x", h.Type(), h.Bytes())
	}
	// Not every file system tells a generation (tmpfs does not); there the handle
	// of the root has it.
	if g, err := unix.IoctlGetUint32(int(root.Fd()), uint(ioctlGetVersion)); err == nil {
		p.RootGeneration = g
	}
	p.Filesystem = filesystemUUID(root)
	return p, nil
}

// differs says in what the place p is not the recorded one, "" if it is the
// same. What either of them does not know is not compared.
func (p Place) differs(recorded Place) string {
	switch {
	case recorded.Control != p.Control:
		return "its control folder is not the inode it was made as"
	case recorded.Root != p.Root || recorded.RootGeneration != p.RootGeneration:
		return "its root is not the inode it was made as"
	case recorded.Filesystem != "" && p.Filesystem != "" && recorded.Filesystem != p.Filesystem:
		return "its file system has another uuid than when it was made"
	}
	return ""
}
