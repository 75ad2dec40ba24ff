package transport

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The requests of ioctl(2) on /dev/fuse for passthrough.
const (
	iocBackingOpen  = 0x4010e501
	iocBackingClose = 0x4004e502
)

// EntryNotify makes the kernel forget the entry name of the directory parent. Like
// every notification it waits for the kernel's locks of the inodes concerned, which
// may be held for a request that is being worked on: never from a request, never
// with a lock that a request needs. ENOENT says that the kernel did not know it,
// ENODEV that there is no mount any more.
func (s *Server) EntryNotify(parent uint64, name string) fuse.Status {
	out := fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}
	return s.notify(fuse.NOTIFY_INVAL_ENTRY, bytesOf(&out), append([]byte(name), 0))
}

// DeleteNotify says that the entry name of the directory parent, which was child,
// is no more. Other than after EntryNotify, who has it as working directory or
// watches it is told. See EntryNotify for what must not be held.
func (s *Server) DeleteNotify(parent, child uint64, name string) fuse.Status {
	out := fuse.NotifyInvalDeleteOut{Parent: parent, Child: child, NameLen: uint32(len(name))}
	return s.notify(fuse.NOTIFY_DELETE, bytesOf(&out), append([]byte(name), 0))
}

// InodeNotify makes the kernel forget the attributes of an inode, and its content
// from off for length bytes: to the end if length is 0, none if off is negative.
// See EntryNotify for what must not be held.
func (s *Server) InodeNotify(node uint64, off, length int64) fuse.Status {
	out := fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: length}
	return s.notify(fuse.NOTIFY_INVAL_INODE, bytesOf(&out), nil)
}

func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

func (s *Server) notify(code int32, out, payload []byte) fuse.Status {
	s.fdMu.RLock()
	defer s.fdMu.RUnlock()
	if s.dev == nil {
		return fuse.Status(unix.ENODEV)
	}
	errno := write(s.device.fd, notification(code, out, payload))
	if errno == unix.EINVAL { // the kernel's word for a notification it does not have
		errno = unix.ENOSYS
	}
	return fuse.Status(errno)
}

func notification(code int32, out, payload []byte) []byte {
	n := outHeaderBytes + len(out) + len(payload)
	b := make([]byte, outHeaderBytes, n)
	*(*fuse.OutHeader)(unsafe.Pointer(&b[0])) = fuse.OutHeader{Length: uint32(n), Status: -code}
	return append(append(b, out...), payload...)
}

// RegisterBackingFd gives the kernel an open file to read and write for us, in
// place of READ and WRITE. The returned id goes into OpenOut or CreateOut, and
// must be the same in all opens of an inode. The caller unregisters it, after
// which open files still use it. It needs CAP_SYS_ADMIN and CAP_PASSTHROUGH agreed
// on in INIT.
func (s *Server) RegisterBackingFd(m *fuse.BackingMap) (int32, syscall.Errno) {
	id, errno := s.ioctl(iocBackingOpen, unsafe.Pointer(m))
	return int32(id), errno
}

// UnregisterBackingFd gives back an id of RegisterBackingFd.
func (s *Server) UnregisterBackingFd(id int32) syscall.Errno {
	_, errno := s.ioctl(iocBackingClose, unsafe.Pointer(&id))
	return errno
}

func (s *Server) ioctl(request uintptr, arg unsafe.Pointer) (uintptr, syscall.Errno) {
	s.fdMu.RLock()
	defer s.fdMu.RUnlock()
	if s.dev == nil {
		return 0, unix.ENODEV
	}
	r, _, errno := syscall.Syscall(unix.SYS_IOCTL, uintptr(s.device.fd), request, uintptr(arg))
	return r, errno
}
