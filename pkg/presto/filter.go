package presto

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// cacheTimeout is for how long the kernel believes names and attributes: what
// changes from elsewhere is told to it.
const cacheTimeout = time.Hour

// filter answers the FUSE requests of one mounted fileset.
type filter struct {
	fuse.RawFileSystem
	fs       *fileset
	readOnly bool

	files sync.Map // uint64 -> *file or *openDir
	nextF atomic.Uint64
}

func newFilter(fs *fileset, readOnly bool) *filter {
	return &filter{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: fs, readOnly: readOnly}
}

func (f *filter) String() string { return "intermezzo" }

// status turns an error of the bottom into FUSE's.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var e unix.Errno
	if errors.As(err, &e) {
		return fuse.Status(e)
	}
	return fuse.EIO
}

func credOf(h *fuse.InHeader) kml.Cred {
	return kml.Cred{PID: h.Pid, AUID: h.Uid, FSUID: h.Uid, FSGID: h.Gid}
}

// dir opens the directory that a node id is.
func (f *filter) dir(node uint64) (*dir, error) {
	h, ok := f.fs.nodes.handle(node)
	if !ok {
		return nil, unix.ESTALE
	}
	return f.fs.dirs.get(h)
}

// inode opens what a node id is, O_PATH; the caller closes it.
func (f *filter) inode(node uint64) (int, handle, error) {
	h, ok := f.fs.nodes.handle(node)
	if !ok {
		return -1, h, unix.ESTALE
	}
	fd, err := f.fs.b.open(h, unix.O_PATH)
	return fd, h, err
}

// hiddenName reports whether a name is ours, or the bottom's, and not the
// fileset's. Such names exist only in the root.
func (fs *fileset) hiddenName(parent handle, name string) bool {
	return parent == fs.rootH && fs.hidden[name]
}

func (f *filter) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	d, err := f.dir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer d.put()
	if f.fs.hiddenName(d.h, name) {
		return fuse.ENOENT
	}
	return status(f.fs.entry(d, name, out))
}

// entry fills in what the kernel learns of a directory entry.
func (fs *fileset) entry(d *dir, name string, out *fuse.EntryOut) error {
	for range 3 {
		h, err := fs.b.handleAt(d.fd, name)
		if err != nil {
			return err
		}
		st, err := statAt(d.fd, name)
		if err != nil {
			return err
		}
		if st.Ino != h.ino {
			continue // replaced in between
		}
		fs.fillEntry(d.h, name, h, &st, out)
		return nil
	}
	return unix.ESTALE
}

func (fs *fileset) fillEntry(parent handle, name string, h handle, st *unix.Statx_t, out *fuse.EntryOut) {
	out.NodeId = fs.nodes.id(h, true)
	fillAttr(&out.Attr, st)
	if name != "." && name != ".." {
		if pid, err := fs.ids.ofHandle(parent); err == nil {
			fs.hints.put(h, kml.Name{Parent: pid, Name: name})
		}
	}
	if fs.isHot(dirent{parent, name}) {
		return // zero timeouts: the name is about to change
	}
	out.SetEntryTimeout(cacheTimeout)
	out.SetAttrTimeout(cacheTimeout)
}

func fillAttr(a *fuse.Attr, st *unix.Statx_t) {
	*a = fuse.Attr{
		Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: uint64(st.Atime.Sec), Atimensec: st.Atime.Nsec,
		Mtime: uint64(st.Mtime.Sec), Mtimensec: st.Mtime.Nsec,
		Ctime: uint64(st.Ctime.Sec), Ctimensec: st.Ctime.Nsec,
		Mode: uint32(st.Mode), Nlink: st.Nlink, Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev: encodeDev(st.Rdev_major, st.Rdev_minor), Blksize: st.Blksize,
	}
}

// encodeDev is the kernel's new_encode_dev, which FUSE uses.
func encodeDev(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func decodeDev(dev uint32) (major, minor uint32) {
	return dev & 0xfff00 >> 8, dev&0xff | dev>>12&0xfff00
}

// hint is one present name of an inode, as far as known at no cost.
func (fs *fileset) hint(h handle, fallback kml.Name) kml.Name {
	if n, ok := fs.hints.get(h); ok {
		return n
	}
	return fallback
}

func (f *filter) Forget(node, count uint64) { f.fs.nodes.forget(node, count) }

func (f *filter) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	st, err := f.stat(in.NodeId)
	if err != nil {
		return status(err)
	}
	fillAttr(&out.Attr, &st)
	if in.NodeId == rootNode {
		out.Nlink -= f.fs.hiddenDirs
	}
	out.SetTimeout(cacheTimeout)
	return fuse.OK
}

func (f *filter) stat(node uint64) (unix.Statx_t, error) {
	fd, _, err := f.inode(node)
	if err != nil {
		return unix.Statx_t{}, err
	}
	defer unix.Close(fd)
	return statFD(fd)
}

func (f *filter) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	st, err := f.stat(in.NodeId)
	if err != nil {
		return status(err)
	}
	out.Statx = fuse.Statx{
		Mask: st.Mask & (unix.STATX_BASIC_STATS | unix.STATX_BTIME), Blksize: st.Blksize, Nlink: st.Nlink, Uid: st.Uid, Gid: st.Gid,
		Mode: st.Mode, Ino: st.Ino, Size: st.Size, Blocks: st.Blocks,
		Atime: sxTime(st.Atime), Btime: sxTime(st.Btime), Ctime: sxTime(st.Ctime), Mtime: sxTime(st.Mtime),
		RdevMajor: st.Rdev_major, RdevMinor: st.Rdev_minor,
	}
	out.AttrValid = uint64(cacheTimeout / time.Second)
	return fuse.OK
}

func sxTime(t unix.StatxTimestamp) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec}
}

func (f *filter) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var s unix.Statfs_t
	if err := unix.Fstatfs(f.fs.b.mountFD, &s); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Bsize: uint32(s.Bsize), NameLen: uint32(s.Namelen), Frsize: uint32(s.Frsize)}
	return fuse.OK
}

func (f *filter) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	fd, _, err := f.inode(in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	defer unix.Close(fd)
	s, err := readlinkFD(fd)
	return []byte(s), status(err)
}

func readlinkFD(fd int) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (f *filter) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// local says why a change is not possible here, before it is tried.
func (f *filter) begin(removal bool) error {
	if f.readOnly {
		return unix.EROFS
	}
	return f.fs.begin(removal)
}

// ourXattr reports whether an xattr of the bottom is presto's own, or the
// bottom's affair: neither is an application's.
func ourXattr(name string) bool {
	if name == "trusted.SGI_ACL_FILE" || name == "trusted.SGI_ACL_DEFAULT" {
		return true // XFS shows its ACLs a second time
	}
	return len(name) >= len(cache.XattrPrefix) && name[:len(cache.XattrPrefix)] == cache.XattrPrefix
}
