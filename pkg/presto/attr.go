package presto

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// SetAttr changes attributes. A change of size is a change of content and is
// logged as CLOSE; the rest is one SETATTR with what it really led to.
func (f *filter) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if err := f.begin(false); err != nil {
		return status(err)
	}
	defer f.fs.end()
	fd, h, err := f.inode(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	unlock := f.fs.locks.lock(h)
	defer unlock()
	st, err := f.setAttr(in, fd, h)
	if err != nil {
		return status(err)
	}
	fillAttr(&out.Attr, &st)
	out.SetTimeout(cacheTimeout)
	return fuse.OK
}

func (f *filter) setAttr(in *fuse.SetAttrIn, fd int, h handle) (st unix.Statx_t, err error) {
	was, err := statFD(fd)
	if err != nil {
		return st, err
	}
	id, err := f.fs.ids.of(fd, h, nanos(was.Btime))
	if err != nil {
		return st, err
	}
	if f.fs.isOldVersion(id, h, &was) {
		return st, unix.ESTALE
	}
	if size, ok := in.GetSize(); ok {
		if err := f.truncate(in, fd, h, id, &was, int64(size)); err != nil {
			return st, err
		}
	}
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 {
		return statFD(fd)
	}
	it := attrIntent(in, h, id)
	slot, err := f.fs.intend(it)
	if err != nil {
		return st, err
	}
	defer f.fs.clearIntent(slot)
	if err := applyAttr(in, fd); err != nil {
		return st, err
	}
	if st, err = statFD(fd); err != nil {
		return st, err
	}
	return st, f.fs.recordAttr(in, it, &was, &st)
}

func attrIntent(in *fuse.SetAttrIn, h handle, id kml.ObjectID) *intent {
	it := &intent{op: kml.OpSetattr, pid: in.Pid, uid: in.InHeader.Uid, gid: in.InHeader.Gid, object: h, objectID: id}
	if in.Valid&fuse.FATTR_MODE != 0 {
		it.valid |= kml.ValidMode
	}
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		it.valid |= kml.ValidUID | kml.ValidGID | kml.ValidMode
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		it.valid |= kml.ValidMtime
	}
	return it
}

// applyAttr does the change on the bottom.
func applyAttr(in *fuse.SetAttrIn, fd int) error {
	uid, gid := -1, -1
	if u, ok := in.GetUID(); ok {
		uid = int(u)
	}
	if g, ok := in.GetGID(); ok {
		gid = int(g)
	}
	if uid != -1 || gid != -1 {
		if err := chownFD(fd, uid, gid); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := chmodFD(fd, mode); err != nil {
			return err
		}
	}
	return applyTimes(in, fd)
}

// maxSeconds is the farthest from 1970, both ways, that the log can say to the
// nanosecond: 292 years. A farther mtime becomes that one here too, so that all
// replicas have the same.
const maxSeconds = 9_223_372_035

func applyTimes(in *fuse.SetAttrIn, fd int) error {
	var at, mt *unix.Timespec
	now := &unix.Timespec{Nsec: unix.UTIME_NOW}
	in.Mtime = uint64(min(max(int64(in.Mtime), -maxSeconds), maxSeconds))
	if in.Valid&fuse.FATTR_ATIME != 0 {
		at = &unix.Timespec{Sec: int64(in.Atime), Nsec: int64(in.Atimensec)}
		if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
			at = now
		}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		mt = &unix.Timespec{Sec: int64(in.Mtime), Nsec: int64(in.Mtimensec)}
		if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
			mt = now
		}
	}
	if at == nil && mt == nil {
		return nil
	}
	return utimeFD(fd, at, mt)
}

// recordAttr logs what has changed, side effects included (a new owner clears
// the setuid bit). The access time does not replicate.
func (fs *fileset) recordAttr(in *fuse.SetAttrIn, it *intent, was, st *unix.Statx_t) error {
	if st.Nlink == 0 {
		return nil
	}
	var valid kml.Valid
	if in.Valid&fuse.FATTR_MODE != 0 || was.Mode != st.Mode {
		valid |= kml.ValidMode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		valid |= kml.ValidUID
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		valid |= kml.ValidGID
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		valid |= kml.ValidMtime
	}
	if valid == 0 {
		return nil
	}
	r := kml.Record{Op: kml.OpSetattr, Time: it.time, Cred: credOf(&in.InHeader), Object: it.objectID, Where: fs.hint(it.object, kml.Name{}),
		Before: versionOf(was), After: versionOf(st), Valid: valid, Attr: picked(valid, st), Old: picked(valid, was)}
	_, err := fs.record(&r)
	return err
}

// picked has the fields of valid only: what is not set is not logged.
func picked(valid kml.Valid, st *unix.Statx_t) kml.Attr {
	var a kml.Attr
	if valid&kml.ValidMode != 0 {
		a.Mode = uint32(st.Mode)
	}
	if valid&kml.ValidUID != 0 {
		a.UID = st.Uid
	}
	if valid&kml.ValidGID != 0 {
		a.GID = st.Gid
	}
	if valid&kml.ValidMtime != 0 {
		a.Mtime = nanos(st.Mtime)
	}
	return a
}

// truncate sets the size. Through an open file it joins the file's CLOSE; by name
// it is one.
func (f *filter) truncate(in *fuse.SetAttrIn, fd int, h handle, id kml.ObjectID, was *unix.Statx_t, size int64) error {
	w, err := f.fs.openForWrite(h, id, was, credOf(&in.InHeader), f.fs.hint(h, kml.Name{}))
	if err != nil {
		return err
	}
	defer f.fs.closeWriter(w)
	err = func() error {
		w.gate.RLock()
		defer w.gate.RUnlock()
		w.dirty.Store(true)
		return unix.Truncate(procPath(fd), size)
	}()
	if err != nil {
		return err
	}
	if fl := f.file(in.Fh); in.Valid&fuse.FATTR_FH != 0 && fl != nil {
		fl.wrote.Store(true)
		return nil
	}
	return f.fs.logCloseLocked(w)
}

const (
	xattrCapability = "security.capability"
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
)

// getXattr reads a whole xattr of an open file of any kind.
func getXattr(fd int, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Getxattr(procPath(fd), name, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
		if n, err = unix.Getxattr(procPath(fd), name, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+256)
	}
}

func noXattr(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP)
}

func hasDefaultACL(dirfd int) (bool, error) {
	_, err := unix.Getxattr(procPath(dirfd), xattrDefaultACL, nil)
	if err != nil && noXattr(err) {
		return false, nil
	}
	return err == nil, err
}

// aclsOf is what an object inherited.
func aclsOf(fd int) ([]kml.Xattr, error) {
	var xs []kml.Xattr
	for _, name := range []string{xattrACL, xattrDefaultACL} {
		v, err := getXattr(fd, name)
		if err == nil {
			xs = append(xs, kml.Xattr{Name: name, Value: v})
		} else if !noXattr(err) {
			return nil, err
		}
	}
	return xs, nil
}

// replicatedXattrs are all xattrs of an open file that are part of the fileset.
func replicatedXattrs(fd int) ([]kml.Xattr, error) {
	names, err := listXattrs(fd)
	if err != nil {
		return nil, err
	}
	var xs []kml.Xattr
	for _, name := range names {
		if !merge.ReplicatesXattr(name) {
			continue
		}
		v, err := getXattr(fd, name)
		if err != nil {
			return nil, err
		}
		xs = append(xs, kml.Xattr{Name: name, Value: v})
	}
	return xs, nil
}

func listXattrs(fd int) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.Listxattr(procPath(fd), buf)
		if err == nil {
			return splitNames(buf[:n]), nil
		}
		if err != unix.ERANGE {
			if noXattr(err) {
				return nil, nil
			}
			return nil, err
		}
		if n, err = unix.Listxattr(procPath(fd), nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+1024)
	}
}

func splitNames(b []byte) []string {
	var names []string
	start := 0
	for i, c := range b {
		if c == 0 {
			names = append(names, string(b[start:i]))
			start = i + 1
		}
	}
	return names
}

func (f *filter) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if ourXattr(name) {
		return 0, fuse.ENODATA
	}
	fd, _, err := f.inode(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer unix.Close(fd)
	n, err := unix.Getxattr(procPath(fd), name, dest)
	if err != nil {
		return 0, status(err)
	}
	return uint32(n), fuse.OK
}

func (f *filter) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	fd, _, err := f.inode(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	defer unix.Close(fd)
	names, err := listXattrs(fd)
	if err != nil {
		return 0, status(err)
	}
	var b []byte
	for _, name := range names {
		if !ourXattr(name) {
			b = append(append(b, name...), 0)
		}
	}
	if len(dest) == 0 {
		return uint32(len(b)), fuse.OK
	}
	if len(b) > len(dest) {
		return uint32(len(b)), fuse.ERANGE
	}
	return uint32(copy(dest, b)), fuse.OK
}

func (f *filter) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	return status(f.changeXattr(&in.InHeader, kml.OpSetxattr, name, data, int(in.Flags)))
}

func (f *filter) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(f.changeXattr(in, kml.OpDelxattr, name, nil, 0))
}

func (f *filter) changeXattr(in *fuse.InHeader, op kml.Op, name string, data []byte, flags int) error {
	if ourXattr(name) {
		return unix.EPERM
	}
	if err := f.begin(false); err != nil {
		return err
	}
	defer f.fs.end()
	fd, h, err := f.inode(in.NodeId)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unlock := f.fs.locks.lock(h)
	defer unlock()
	return f.fs.xattrChange(in, fd, h, &kml.Record{Op: op, Xattr: kml.Xattr{Name: name, Value: data}}, flags)
}

func (fs *fileset) xattrChange(in *fuse.InHeader, fd int, h handle, r *kml.Record, flags int) error {
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	if r.Object, err = fs.ids.of(fd, h, nanos(st.Btime)); err != nil {
		return err
	}
	logged := merge.ReplicatesXattr(r.Xattr.Name) && st.Nlink > 0
	if logged {
		old, err := getXattr(fd, r.Xattr.Name)
		if err == nil {
			r.OldXattr = &kml.Xattr{Name: r.Xattr.Name, Value: old}
		} else if !noXattr(err) {
			return err
		}
	}
	it := intent{op: r.Op, pid: in.Pid, uid: in.Uid, gid: in.Gid, object: h, objectID: r.Object, name: r.Xattr.Name}
	slot, err := fs.intend(&it)
	if err != nil {
		return err
	}
	defer fs.clearIntent(slot)
	if r.Op == kml.OpSetxattr {
		err = unix.Setxattr(procPath(fd), r.Xattr.Name, r.Xattr.Value, flags)
	} else {
		err = unix.Removexattr(procPath(fd), r.Xattr.Name)
	}
	if err != nil || !logged {
		return err
	}
	r.Time, r.Cred, r.Where = it.time, credOf(in), fs.hint(h, kml.Name{})
	r.Before, r.After = versionOf(&st), versionOf(&st)
	_, err = fs.record(r)
	return err
}
