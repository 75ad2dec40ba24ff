package transport

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// bottomFS passes everything on to a directory. Some names are special, see gates.
type bottomFS struct {
	fuse.RawFileSystem
	cache   time.Duration // for which the kernel may believe names and attributes
	backing func(fd int) (int32, syscall.Errno)

	mu    sync.Mutex
	nodes map[uint64]*bottomNode
	byKey map[inodeKey]*bottomNode
	next  uint64

	files sync.Map // uint64 -> *bottomFile
	nextF atomic.Uint64
	gates gates
}

type inodeKey struct{ dev, ino uint64 }

type bottomNode struct {
	id, lookups uint64
	fd          int // O_PATH
	key         inodeKey
}

type bottomFile struct {
	fd int
	mu sync.Mutex // of directories: the position
	at uint64
}

func newBottomFS(root string) (*bottomFS, error) {
	b := &bottomFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: map[uint64]*bottomNode{}, byKey: map[inodeKey]*bottomNode{}, next: fuse.FUSE_ROOT_ID}
	b.gates.init()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	_, err = b.adopt(fd, &fuse.EntryOut{})
	return b, err
}

func (b *bottomFS) String() string { return "bottom" }

func (b *bottomFS) node(id uint64) *bottomNode {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes[id]
}

func (b *bottomFS) fd(id uint64) int {
	if n := b.node(id); n != nil {
		return n.fd
	}
	return -1
}

func proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func errno(err error) fuse.Status { return fuse.ToStatus(err) }

// adopt takes over an O_PATH descriptor and fills in the entry.
func (b *bottomFS) adopt(fd int, out *fuse.EntryOut) (*bottomNode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := inodeKey{st.Dev, st.Ino}
	n := b.byKey[key]
	if n == nil {
		n = &bottomNode{id: b.next, fd: fd, key: key}
		b.next++
		b.nodes[n.id], b.byKey[key] = n, n
	} else {
		unix.Close(fd)
	}
	n.lookups++
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(b.cache)
	out.SetAttrTimeout(b.cache)
	fillAttr(&st, &out.Attr)
	return n, nil
}

func fillAttr(st *unix.Stat_t, a *fuse.Attr) {
	a.FromStat((*syscall.Stat_t)(unsafe.Pointer(st)))
}

func (b *bottomFS) entry(parent uint64, name string, out *fuse.EntryOut) fuse.Status {
	fd, err := unix.Openat(b.fd(parent), name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == nil {
		_, err = b.adopt(fd, out)
	}
	return errno(err)
}

func (b *bottomFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if st := b.gates.pass(cancel, name); !st.Ok() {
		return st
	}
	return b.entry(h.NodeId, name, out)
}

func (b *bottomFS) Forget(id, n uint64) {
	b.gates.forgets.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	node := b.nodes[id]
	if node == nil || id == fuse.FUSE_ROOT_ID {
		return
	}
	if node.lookups -= min(n, node.lookups); node.lookups == 0 {
		delete(b.nodes, id)
		delete(b.byKey, node.key)
		unix.Close(node.fd)
	}
}

func (b *bottomFS) attr(id uint64, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	if err := unix.Fstat(b.fd(id), &st); err != nil {
		return errno(err)
	}
	out.SetTimeout(b.cache)
	fillAttr(&st, &out.Attr)
	return fuse.OK
}

func (b *bottomFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return b.attr(in.NodeId, out)
}

func (b *bottomFS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	var st unix.Statx_t
	if err := unix.Statx(b.fd(in.NodeId), "", unix.AT_EMPTY_PATH, int(in.SxMask), &st); err != nil {
		return errno(err)
	}
	out.Statx.FromStatx(&st)
	return fuse.OK
}

func (b *bottomFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	fd := b.fd(in.NodeId)
	if mode, ok := in.GetMode(); ok {
		if err := unix.Chmod(proc(fd), mode); err != nil {
			return errno(err)
		}
	}
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if setUID || setGID {
		if err := unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH); err != nil {
			return errno(err)
		}
	}
	if size, ok := in.GetSize(); ok {
		if err := unix.Truncate(proc(fd), int64(size)); err != nil {
			return errno(err)
		}
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if t, ok := in.GetATime(); ok {
			ts[0] = unix.NsecToTimespec(t.UnixNano())
		}
		if t, ok := in.GetMTime(); ok {
			ts[1] = unix.NsecToTimespec(t.UnixNano())
		}
		if err := unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH); err != nil {
			return errno(err)
		}
	}
	return b.attr(in.NodeId, out)
}

func (b *bottomFS) made(h *fuse.InHeader, name string, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return errno(err)
	}
	if h.Uid != 0 || h.Gid != 0 {
		if err := unix.Fchownat(b.fd(h.NodeId), name, int(h.Uid), int(h.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return errno(err)
		}
	}
	return b.entry(h.NodeId, name, out)
}

func (b *bottomFS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.made(&in.InHeader, name, unix.Mknodat(b.fd(in.NodeId), name, in.Mode, int(in.Rdev)), out)
}

func (b *bottomFS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return b.made(&in.InHeader, name, unix.Mkdirat(b.fd(in.NodeId), name, in.Mode), out)
}

func (b *bottomFS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return b.made(h, name, unix.Symlinkat(target, b.fd(h.NodeId), name), out)
}

func (b *bottomFS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	err := unix.Linkat(b.fd(in.Oldnodeid), "", b.fd(in.NodeId), name, unix.AT_EMPTY_PATH)
	if err != nil {
		return errno(err)
	}
	return b.entry(in.NodeId, name, out)
}

func (b *bottomFS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return errno(unix.Unlinkat(b.fd(h.NodeId), name, 0))
}

func (b *bottomFS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return errno(unix.Unlinkat(b.fd(h.NodeId), name, unix.AT_REMOVEDIR))
}

func (b *bottomFS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	return errno(unix.Renameat2(b.fd(in.NodeId), oldName, b.fd(in.Newdir), newName, uint(in.Flags)))
}

func (b *bottomFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(b.fd(h.NodeId), "", buf)
	return buf[:max(n, 0)], errno(err)
}

func (b *bottomFS) Access(_ <-chan struct{}, _ *fuse.AccessIn) fuse.Status { return fuse.OK }

func (b *bottomFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	n, err := unix.Getxattr(proc(b.fd(h.NodeId)), attr, dest)
	return uint32(max(n, 0)), errno(err)
}

func (b *bottomFS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, err := unix.Listxattr(proc(b.fd(h.NodeId)), dest)
	return uint32(max(n, 0)), errno(err)
}

func (b *bottomFS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return errno(unix.Setxattr(proc(b.fd(in.NodeId)), attr, data, int(in.Flags)))
}

func (b *bottomFS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return errno(unix.Removexattr(proc(b.fd(h.NodeId)), attr))
}

func (b *bottomFS) opened(fd int) uint64 {
	fh := b.nextF.Add(1)
	b.files.Store(fh, &bottomFile{fd: fd})
	return fh
}

func (b *bottomFS) file(fh uint64) *bottomFile {
	f, _ := b.files.Load(fh)
	return f.(*bottomFile)
}

// bottomFlags are those that the bottom's descriptor gets: offsets are the kernel's.
func bottomFlags(flags uint32) int {
	return int(flags)&^(unix.O_APPEND|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_DIRECT) | unix.O_CLOEXEC
}

func (b *bottomFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	fd, err := unix.Open(proc(b.fd(in.NodeId)), bottomFlags(in.Flags), 0)
	if err != nil {
		return errno(err)
	}
	out.Fh = b.opened(fd)
	b.passthrough(fd, out)
	return fuse.OK
}

func (b *bottomFS) passthrough(fd int, out *fuse.OpenOut) {
	if b.backing == nil {
		return
	}
	if id, e := b.backing(fd); e == 0 {
		out.BackingID = id
		out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	}
}

func (b *bottomFS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	fd, err := unix.Openat(b.fd(in.NodeId), name, bottomFlags(in.Flags)|unix.O_CREAT|int(in.Flags)&unix.O_EXCL, in.Mode)
	if err != nil {
		return errno(err)
	}
	if st := b.made(&in.InHeader, name, nil, &out.EntryOut); !st.Ok() {
		unix.Close(fd)
		return st
	}
	out.OpenOut.Fh = b.opened(fd)
	b.passthrough(fd, &out.OpenOut)
	return fuse.OK
}

func (b *bottomFS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	fd, err := unix.Open(proc(b.fd(in.NodeId)), bottomFlags(in.Flags)|unix.O_TMPFILE, in.Mode)
	if err != nil {
		return errno(err)
	}
	path, err := unix.Open(proc(fd), unix.O_PATH, 0)
	if err == nil {
		_, err = b.adopt(path, &out.EntryOut)
	}
	if err != nil {
		unix.Close(fd)
		return errno(err)
	}
	out.OpenOut.Fh = b.opened(fd)
	return fuse.OK
}

func (b *bottomFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	b.gates.reads.Add(1)
	return fuse.ReadResultFd(uintptr(b.file(in.Fh).fd), int64(in.Offset), int(in.Size)), fuse.OK
}

func (b *bottomFS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, err := unix.Pwrite(b.file(in.Fh).fd, data, int64(in.Offset))
	return uint32(max(n, 0)), errno(err)
}

func (b *bottomFS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n, err := unix.Seek(b.file(in.Fh).fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(n)
	return errno(err)
}

func (b *bottomFS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(b.file(in.FhIn).fd, &from, b.file(in.FhOut).fd, &to, int(in.Len), int(in.Flags))
	return uint32(max(n, 0)), errno(err)
}

func (b *bottomFS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return errno(unix.Fallocate(b.file(in.Fh).fd, in.Mode, int64(in.Offset), int64(in.Length)))
}

func (b *bottomFS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	b.gates.unlock(in.LockOwner)
	return fuse.OK
}

func (b *bottomFS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return errno(unix.Fsync(b.file(in.Fh).fd))
}

func (b *bottomFS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return errno(unix.Fsync(b.file(in.Fh).fd))
}

func (b *bottomFS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { b.close(in.Fh) }
func (b *bottomFS) ReleaseDir(in *fuse.ReleaseIn)                 { b.close(in.Fh) }

func (b *bottomFS) close(fh uint64) {
	if f, ok := b.files.LoadAndDelete(fh); ok {
		unix.Close(f.(*bottomFile).fd)
	}
}

func (b *bottomFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	fd, err := unix.Open(proc(b.fd(in.NodeId)), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errno(err)
	}
	out.Fh = b.opened(fd)
	return fuse.OK
}

func (b *bottomFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return b.list(in, out.AddDirEntry)
}

func (b *bottomFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return b.list(in, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry != nil && e.Name != "." && e.Name != ".." {
			b.entry(in.NodeId, e.Name, entry)
		}
		return entry != nil
	})
}

func (b *bottomFS) list(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	f := b.file(in.Fh)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := unix.Seek(f.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return errno(err)
	}
	for buf := make([]byte, 4096); ; {
		n, err := unix.Getdents(f.fd, buf)
		if err != nil || n == 0 {
			return errno(err)
		}
		for rest := buf[:n]; len(rest) > 0; {
			var e fuse.DirEntry
			rest = rest[e.Parse(rest):]
			if !add(e) {
				return fuse.OK
			}
		}
	}
}

func (b *bottomFS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(b.fd(h.NodeId), &st); err != nil {
		return errno(err)
	}
	out.FromStatfsT(&st)
	return fuse.OK
}
