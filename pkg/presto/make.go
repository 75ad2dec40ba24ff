package presto

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// birth is an object to be made by an application.
type birth struct {
	op           kml.Op
	node         uint64 // parent
	name         string
	mode, umask  uint32 // mode with type bits
	major, minor uint32
	target       string
	openFlags    int // CREATE
	caller       *fuse.InHeader
}

// born is what was made.
type born struct {
	h    handle
	id   kml.ObjectID
	st   unix.Statx_t
	hint kml.Name
	fd   int // CREATE: open as asked for; else -1
}

func (f *filter) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, err := f.make(&birth{op: kml.OpMkdir, node: in.NodeId, name: name, mode: unix.S_IFDIR | in.Mode&0o7777,
		umask: in.Umask, caller: &in.InHeader}, out)
	return status(err)
}

func (f *filter) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	b := &birth{op: kml.OpMknod, node: in.NodeId, name: name, mode: in.Mode, umask: in.Umask, caller: &in.InHeader}
	if in.Mode&unix.S_IFMT == unix.S_IFREG {
		b.op = kml.OpCreate
	}
	b.major, b.minor = decodeDev(in.Rdev)
	n, err := f.make(b, out)
	if err == nil && n.fd >= 0 {
		unix.Close(n.fd)
	}
	return status(err)
}

func (f *filter) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	_, err := f.make(&birth{op: kml.OpSymlink, node: in.NodeId, name: name, mode: unix.S_IFLNK | 0o777,
		target: target, caller: in}, out)
	return status(err)
}

// make makes an object, logs it and fills in out.
func (f *filter) make(b *birth, out *fuse.EntryOut) (born, error) {
	if err := f.begin(false); err != nil {
		return born{fd: -1}, err
	}
	defer f.fs.end()
	d, err := f.dir(b.node)
	if err != nil {
		return born{fd: -1}, err
	}
	defer d.put()
	unlock := f.fs.locks.lock(d.h)
	defer unlock()
	n, err := f.fs.makeIn(d, b)
	if err != nil {
		return n, err
	}
	f.fs.fillEntry(d.h, b.name, n.h, &n.st, out)
	return n, nil
}

// makeIn does the work of make under the parent's lock.
func (fs *fileset) makeIn(d *dir, b *birth) (n born, err error) {
	n.fd = -1
	if fs.hiddenName(d.h, b.name) {
		return n, unix.EPERM
	}
	parentID, err := fs.ids.ofHandle(d.h)
	if err != nil {
		return n, err
	}
	before, err := statFD(d.fd)
	if err != nil {
		return n, err
	}
	acl, err := hasDefaultACL(d.fd)
	if err != nil {
		return n, err
	}
	mode := b.mode
	if !acl {
		mode &^= b.umask
	}
	gid := b.caller.Gid
	if before.Mode&unix.S_ISGID != 0 {
		gid = before.Gid
	}
	// Recovery takes an object under this name for the one made here.
	if _, err := fs.b.handleAt(d.fd, b.name); err == nil {
		return n, unix.EEXIST
	}
	in := intent{op: b.op, pid: b.caller.Pid, uid: b.caller.Uid, gid: b.caller.Gid, parent: d.h, name: b.name,
		mode: mode, owner: b.caller.Uid, grp: gid}
	slot, err := fs.intend(&in)
	if err != nil {
		return n, err
	}
	defer fs.clearIntent(slot)
	if n.fd, err = createAt(d.fd, b, mode); err != nil {
		return n, err
	}
	if err := fs.finishBirth(d, b, &n, b.caller.Uid, gid); err != nil {
		fs.unmake(d, b, &n)
		return n, err
	}
	n.hint = kml.Name{Parent: parentID, Name: b.name}
	r := kml.Record{Op: b.op, Time: in.time, Cred: credOf(b.caller), Object: n.id, Where: n.hint, Attr: attrOf(&n.st),
		After: versionOf(&n.st), ParentBefore: versionOf(&before), Target: b.target}
	err = fs.recordBirth(d, &r, acl)
	return n, err
}

func (fs *fileset) clearIntent(slot int) {
	if err := fs.lml.clear(slot); err != nil {
		fs.log.Warn("clear intent", "fileset", fs.name, "err", err)
	}
}

// createAt makes the object on the bottom, still root's.
func createAt(dirfd int, b *birth, mode uint32) (fd int, err error) {
	switch b.op {
	case kml.OpMkdir:
		return -1, unix.Mkdirat(dirfd, b.name, mode&0o7777)
	case kml.OpSymlink:
		return -1, unix.Symlinkat(b.target, dirfd, b.name)
	case kml.OpCreate:
		return openRetry(dirfd, b.name, bottomFlags(b.openFlags)|unix.O_CREAT|unix.O_EXCL, mode&0o7777)
	}
	return -1, unix.Mknodat(dirfd, b.name, mode, int(unix.Mkdev(b.major, b.minor)))
}

func openRetry(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// finishBirth gives the new object its owner before anybody can see it: the
// kernel holds the parent until we reply.
func (fs *fileset) finishBirth(d *dir, b *birth, n *born, uid, gid uint32) error {
	st, err := statAt(d.fd, b.name)
	if err != nil {
		return err
	}
	if st.Uid != uid || st.Gid != gid {
		if err := unix.Fchownat(d.fd, b.name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if b.op != kml.OpMkdir && b.op != kml.OpSymlink && st.Mode&0o6000 != 0 { // cleared by chown
			if err := unix.Fchmodat(d.fd, b.name, uint32(st.Mode)&0o7777, 0); err != nil {
				return err
			}
		}
	}
	if n.h, err = fs.b.handleAt(d.fd, b.name); err != nil {
		return err
	}
	if n.st, err = statAt(d.fd, b.name); err != nil {
		return err
	}
	fd := n.fd
	if fd < 0 {
		if fd, err = openRetry(d.fd, b.name, unix.O_PATH, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	n.id, err = fs.ids.born(n.h, fd, nanos(n.st.Btime))
	return err
}

// unmake takes back what could not be finished and was not logged.
func (fs *fileset) unmake(d *dir, b *birth, n *born) {
	flags := 0
	if b.op == kml.OpMkdir {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(d.fd, b.name, flags); err != nil {
		fs.log.Error("take back unfinished object", "fileset", fs.name, "name", b.name, "err", err)
	}
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

func (fs *fileset) recordBirth(d *dir, r *kml.Record, inherited bool) error {
	if inherited {
		fd, err := openRetry(d.fd, r.Where.Name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if r.Xattrs, err = aclsOf(fd); err != nil {
			return err
		}
	}
	after, err := statFD(d.fd)
	if err != nil {
		return err
	}
	r.ParentAfter = versionOf(&after)
	_, err = fs.record(r)
	return err
}

func attrOf(st *unix.Statx_t) kml.Attr {
	a := kml.Attr{Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Size: int64(st.Size), Mtime: nanos(st.Mtime)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK, unix.S_IFCHR:
		a.Rdev = uint64(st.Rdev_major)<<32 | uint64(st.Rdev_minor)
	case unix.S_IFDIR:
		a.Size = 0 // a directory's size is the bottom's affair
	}
	return a
}

func (f *filter) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	b := &birth{op: kml.OpCreate, node: in.NodeId, name: name, mode: unix.S_IFREG | in.Mode&0o7777, umask: in.Umask,
		openFlags: int(in.Flags), caller: &in.InHeader}
	n, err := f.make(b, &out.EntryOut)
	if errors.Is(err, unix.EEXIST) && in.Flags&unix.O_EXCL == 0 {
		// The name came into being since the kernel looked: it has to look again,
		// and check whether the caller may open what is there.
		return fuse.Status(unix.ESTALE)
	}
	if err != nil {
		return status(err)
	}
	return status(f.hand(&n, in, out))
}

// hand enters the new file as open.
func (f *filter) hand(n *born, in *fuse.CreateIn, out *fuse.CreateOut) error {
	fl := &file{fd: n.fd, h: n.h}
	if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
		w, err := f.fs.openForWrite(n.h, n.id, &n.st, credOf(&in.InHeader), n.hint)
		if err != nil {
			unix.Close(n.fd)
			return err
		}
		fl.w = w
	}
	out.Fh = f.enter(fl)
	out.OpenFlags = f.openFlags(fl, in.Flags)
	return nil
}

// Tmpfile makes a file without a name. It is logged when it gets one.
func (f *filter) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	if err := f.begin(false); err != nil {
		return status(err)
	}
	defer f.fs.end()
	d, err := f.dir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer d.put()
	n, err := f.fs.makeTmpfile(d, in)
	if err != nil {
		return status(err)
	}
	f.fs.fillEntry(d.h, ".", n.h, &n.st, &out.EntryOut)
	return status(f.hand(&n, in, out))
}

func (fs *fileset) makeTmpfile(d *dir, in *fuse.CreateIn) (n born, err error) {
	st, err := statFD(d.fd)
	if err != nil {
		return n, err
	}
	acl, err := hasDefaultACL(d.fd)
	if err != nil {
		return n, err
	}
	mode, gid := in.Mode&0o7777, in.Gid
	if !acl {
		mode &^= in.Umask
	}
	if st.Mode&unix.S_ISGID != 0 {
		gid = st.Gid
	}
	if n.fd, err = openRetry(d.fd, ".", bottomFlags(int(in.Flags))|unix.O_TMPFILE, mode); err != nil {
		return n, err
	}
	if err = fs.ownTmpfile(&n, in.Uid, gid); err != nil {
		unix.Close(n.fd)
	}
	return n, err
}

// ownTmpfile gives a file without a name its owner and identity.
func (fs *fileset) ownTmpfile(n *born, uid, gid uint32) error {
	st, err := statFD(n.fd)
	if err != nil {
		return err
	}
	if err := chownFD(n.fd, int(uid), int(gid)); err != nil {
		return err
	}
	if st.Mode&0o6000 != 0 {
		if err := unix.Fchmod(n.fd, uint32(st.Mode)&0o7777); err != nil {
			return err
		}
	}
	if n.st, err = statFD(n.fd); err != nil {
		return err
	}
	if n.h, err = fs.b.handleOf(n.fd); err != nil {
		return err
	}
	n.id, err = fs.ids.born(n.h, n.fd, nanos(n.st.Btime))
	return err
}
