package presto

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handle is what tells one inode of the bottom file system from all others,
// also from those that had its number before.
type handle struct {
	ino uint64
	gen uint32
}

// bottom is the file system below the filter, reached by file handles and
// directory descriptors only.
type bottom struct {
	fsType  string
	mountFD int
	typ     int32  // of the file handles this bottom makes
	subvol  uint64 // btrfs: the subvolume that the cache lies in
	device  uint64 // st_dev of the cache; nothing on another one is touched
}

func newBottom(fsType string, root *os.File) (*bottom, error) {
	b := &bottom{fsType: fsType, mountFD: int(root.Fd())}
	fh, _, err := unix.NameToHandleAt(b.mountFD, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("file handle of the cache's root on %s: %w", fsType, err)
	}
	b.typ = fh.Type()
	if fsType == "btrfs" {
		b.subvol = binary.LittleEndian.Uint64(fh.Bytes()[8:])
	}
	h, err := b.handleOf(b.mountFD)
	if err != nil {
		return nil, err
	}
	fd, err := b.open(h, unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("open the root of %s by its handle: %w", fsType, err)
	}
	unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(b.mountFD, &st); err != nil {
		return nil, err
	}
	b.device = st.Dev
	return b, nil
}

// parse takes inode and generation out of a file handle. Layouts are those of
// the kernel's encode_fh of each file system.
func (b *bottom) parse(fh unix.FileHandle) (handle, error) {
	p := fh.Bytes()
	le := binary.LittleEndian
	switch {
	case b.fsType == "tmpfs" && len(p) >= 12:
		return handle{uint64(le.Uint32(p[8:]))<<32 | uint64(le.Uint32(p[4:])), le.Uint32(p)}, nil
	case b.fsType == "btrfs" && len(p) >= 20:
		if le.Uint64(p[8:]) != b.subvol {
			return handle{}, unix.EXDEV
		}
		return handle{le.Uint64(p), le.Uint32(p[16:])}, nil
	case b.fsType == "xfs" && fh.Type()&0x80 != 0 && len(p) >= 12:
		return handle{le.Uint64(p), le.Uint32(p[8:])}, nil
	case len(p) >= 8:
		return handle{uint64(le.Uint32(p)), le.Uint32(p[4:])}, nil
	}
	return handle{}, fmt.Errorf("%s: file handle of type %#x and %d bytes is unknown", b.fsType, fh.Type(), len(p))
}

// build is the reverse of parse.
func (b *bottom) build(h handle) unix.FileHandle {
	le := binary.LittleEndian
	var p []byte
	switch {
	case b.fsType == "tmpfs":
		p = le.AppendUint32(nil, h.gen)
		p = le.AppendUint32(p, uint32(h.ino))
		p = le.AppendUint32(p, uint32(h.ino>>32))
	case b.fsType == "btrfs":
		p = le.AppendUint64(nil, h.ino)
		p = le.AppendUint64(p, b.subvol)
		p = le.AppendUint32(p, h.gen)
	case b.fsType == "xfs" && b.typ&0x80 != 0:
		p = le.AppendUint64(nil, h.ino)
		p = le.AppendUint32(p, h.gen)
	default:
		p = le.AppendUint32(nil, uint32(h.ino))
		p = le.AppendUint32(p, h.gen)
	}
	return unix.NewFileHandle(b.handleType(), p)
}

// handleType is the type for the inode alone: a directory's own handle never
// names its parent.
func (b *bottom) handleType() int32 {
	if b.fsType == "btrfs" {
		return 0x4d // FILEID_BTRFS_WITHOUT_PARENT
	}
	return b.typ
}

// handleAt is the handle of a directory entry; a symlink is not followed.
func (b *bottom) handleAt(dirfd int, name string) (handle, error) {
	fh, _, err := unix.NameToHandleAt(dirfd, name, 0)
	if err != nil {
		return handle{}, err
	}
	return b.parse(fh)
}

// handleOf is the handle of an open file, O_PATH or not.
func (b *bottom) handleOf(fd int) (handle, error) {
	fh, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return handle{}, err
	}
	return b.parse(fh)
}

// open opens an inode; ESTALE if it is gone. The caller closes the descriptor.
func (b *bottom) open(h handle, flags int) (int, error) {
	for {
		fd, err := unix.OpenByHandleAt(b.mountFD, b.build(h), flags|unix.O_CLOEXEC|unix.O_NOFOLLOW)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// maxTarget is the longest text of a symbolic link, in bytes.
func (b *bottom) maxTarget() int {
	if b.fsType == "xfs" {
		return 1023
	}
	return unix.PathMax - 1
}

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func statAt(dirfd int, name string) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statxMask, &st)
	return st, err
}

func statFD(fd int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, statxMask, &st)
	return st, err
}

// nanos is exact for 292 years around 1970, and the nearest that there is beyond.
func nanos(t unix.StatxTimestamp) int64 {
	return min(max(t.Sec, -maxSeconds), maxSeconds)*1e9 + int64(t.Nsec)
}

func timespec(ns int64) unix.Timespec {
	sec := ns / 1e9
	nsec := ns % 1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return unix.Timespec{Sec: sec, Nsec: nsec}
}

// procPath names an open file of any kind, O_PATH too, for the calls that have
// no form with a descriptor. Links are not followed beyond the file itself.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func chmodFD(fd int, mode uint32) error { return unix.Chmod(procPath(fd), mode&0o7777) }

func chownFD(fd int, uid, gid int) error {
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// utimeFD sets times; a nil pointer leaves that one.
func utimeFD(fd int, atime, mtime *unix.Timespec) error {
	omit := unix.Timespec{Nsec: unix.UTIME_OMIT}
	ts := [2]unix.Timespec{omit, omit}
	if atime != nil {
		ts[0] = *atime
	}
	if mtime != nil {
		ts[1] = *mtime
	}
	// The raw call: the wrapper refuses an empty path.
	empty := []byte{0}
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&ts)), unix.AT_EMPTY_PATH, 0, 0)
	if e == unix.EINVAL || e == unix.ENOENT { // Linux before 5.8
		return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts[:], 0)
	}
	if e != 0 {
		return e
	}
	return nil
}

func setMtime(fd int, ns int64) error {
	ts := timespec(ns)
	return utimeFD(fd, nil, &ts)
}
