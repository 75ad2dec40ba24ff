package presto

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// named is a directory entry and the object it leads to.
type named struct {
	h  handle
	id kml.ObjectID
	st unix.Statx_t
}

// at looks an entry up for a change of it. ENOENT if there is none.
func (fs *fileset) at(d *dir, name string) (n named, err error) {
	fd, err := openRetry(d.fd, name, unix.O_PATH, 0)
	if err != nil {
		return n, err
	}
	defer unix.Close(fd)
	if n.h, err = fs.b.handleOf(fd); err != nil {
		return n, err
	}
	if n.st, err = statFD(fd); err != nil {
		return n, err
	}
	n.id, err = fs.ids.of(fd, n.h, nanos(n.st.Btime))
	return n, err
}

func (n *named) last() bool { return n.st.Nlink == 1 || n.st.Mode&unix.S_IFMT == unix.S_IFDIR }

func (f *filter) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(f.remove(in, name, kml.OpUnlink))
}

func (f *filter) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return status(f.remove(in, name, kml.OpRmdir))
}

func (f *filter) remove(in *fuse.InHeader, name string, op kml.Op) error {
	if err := f.begin(true); err != nil {
		return err
	}
	defer f.fs.end()
	d, err := f.dir(in.NodeId)
	if err != nil {
		return err
	}
	defer d.put()
	if f.fs.hiddenName(d.h, name) {
		return unix.ENOENT
	}
	h, err := f.fs.b.handleAt(d.fd, name)
	if err != nil {
		return err
	}
	unlock := f.fs.locks.lock(d.h, h)
	defer unlock()
	return f.fs.removeIn(in, d, name, op)
}

func (fs *fileset) removeIn(in *fuse.InHeader, d *dir, name string, op kml.Op) error {
	parentID, err := fs.ids.ofHandle(d.h)
	if err != nil {
		return err
	}
	n, err := fs.at(d, name)
	if err != nil {
		return err
	}
	before, err := statFD(d.fd)
	if err != nil {
		return err
	}
	r := kml.Record{Op: op, Cred: credOf(in), Object: n.id, Where: kml.Name{Parent: parentID, Name: name},
		Before: versionOf(&n.st), ParentBefore: versionOf(&before), Old: attrOf(&n.st), Last: op == kml.OpUnlink && n.last()}
	if n.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if r.Target, err = readlinkAt(d.fd, name); err != nil {
			return err
		}
	}
	it := intent{op: op, pid: in.Pid, uid: in.Uid, gid: in.Gid, parent: d.h, name: name, object: n.h, objectID: n.id,
		mode: uint32(n.st.Mode)}
	flags := 0
	if op == kml.OpRmdir {
		flags = unix.AT_REMOVEDIR
	} else if n.last() {
		it.flags = intentLast
	}
	slot, err := fs.intend(&it)
	if err != nil {
		return err
	}
	defer fs.clearIntent(slot)
	r.Time = it.time
	if err := unix.Unlinkat(d.fd, name, flags); err != nil {
		return err
	}
	after, err := statFD(d.fd)
	if err != nil {
		return err
	}
	r.ParentAfter = versionOf(&after)
	if _, err := fs.record(&r); err != nil {
		return err
	}
	fs.lostName(n.h, r.Where)
	if op == kml.OpRmdir || r.Last {
		return fs.forgetObject(n.id, n.h)
	}
	return nil
}

// forgetObject drops what we know of an object without names. One still being
// written keeps its identity until it is closed: it may get a name again.
func (fs *fileset) forgetObject(id kml.ObjectID, h handle) error {
	fs.dirs.cache.remove(h)
	if fs.writerOf(h) != nil {
		return nil
	}
	return fs.ids.gone(id, h)
}

// lostName drops the hint of a name that is no more.
func (fs *fileset) lostName(h handle, n kml.Name) {
	if was, ok := fs.hints.get(h); ok && was == n {
		fs.hints.remove(h)
	}
}

func readlinkAt(dirfd int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dirfd, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// move is a rename in the making.
type move struct {
	from, to        *dir
	name, toName    string
	obj, repl       named
	replaces        bool
	flags           uint32
	fromID, toID    kml.ObjectID
	before, before2 unix.Statx_t
}

func (f *filter) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, toName string) fuse.Status {
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fuse.EINVAL
	}
	if err := f.begin(false); err != nil {
		return status(err)
	}
	defer f.fs.end()
	m := &move{name: name, toName: toName, flags: in.Flags}
	var err error
	if m.from, err = f.dir(in.NodeId); err != nil {
		return status(err)
	}
	defer m.from.put()
	if m.to, err = f.dir(in.Newdir); err != nil {
		return status(err)
	}
	defer m.to.put()
	return status(f.fs.rename(&in.InHeader, m))
}

func (fs *fileset) rename(in *fuse.InHeader, m *move) error {
	if fs.hiddenName(m.from.h, m.name) {
		return unix.ENOENT
	}
	if fs.hiddenName(m.to.h, m.toName) {
		return unix.EPERM
	}
	hs := []handle{m.from.h, m.to.h}
	h, err := fs.b.handleAt(m.from.fd, m.name)
	if err != nil {
		return err
	}
	hs = append(hs, h)
	if h2, err := fs.b.handleAt(m.to.fd, m.toName); err == nil {
		if h2 == h {
			return fs.renameSame(m)
		}
		hs = append(hs, h2)
	}
	unlock := fs.locks.lock(hs...)
	defer unlock()
	if err := fs.lookAtMove(m); err != nil {
		return err
	}
	return fs.doMove(in, m)
}

// renameSame is a rename between two names of one object: POSIX has it do
// nothing.
func (fs *fileset) renameSame(m *move) error {
	return unix.Renameat2(m.from.fd, m.name, m.to.fd, m.toName, uint(m.flags))
}

// lookAtMove finds out what the move concerns, and logs what was written to it:
// nobody may see the new name with less than the whole content.
func (fs *fileset) lookAtMove(m *move) error {
	var err error
	if m.fromID, err = fs.ids.ofHandle(m.from.h); err != nil {
		return err
	}
	if m.toID, err = fs.ids.ofHandle(m.to.h); err != nil {
		return err
	}
	if m.obj, err = fs.at(m.from, m.name); err != nil {
		return err
	}
	m.repl, err = fs.at(m.to, m.toName)
	m.replaces = err == nil
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, h := range []handle{m.obj.h, m.repl.h} {
		if w := fs.writerOf(h); w != nil && (h == m.obj.h || m.flags&unix.RENAME_EXCHANGE != 0) {
			if err := fs.logCloseLocked(w); err != nil {
				return err
			}
		}
	}
	if m.before, err = statFD(m.from.fd); err != nil {
		return err
	}
	m.before2, err = statFD(m.to.fd)
	return err
}

func (fs *fileset) doMove(in *fuse.InHeader, m *move) error {
	r := kml.Record{Op: kml.OpRename, Cred: credOf(in), Object: m.obj.id,
		Where: kml.Name{Parent: m.fromID, Name: m.name}, To: kml.Name{Parent: m.toID, Name: m.toName},
		Before: versionOf(&m.obj.st), ParentBefore: versionOf(&m.before)}
	it := intent{op: kml.OpRename, pid: in.Pid, uid: in.Uid, gid: in.Gid, parent: m.from.h, toParent: m.to.h,
		name: m.name, toName: m.toName, object: m.obj.h, objectID: m.obj.id, mode: uint32(m.obj.st.Mode)}
	exchange := m.flags&unix.RENAME_EXCHANGE != 0
	if exchange {
		r.Op, it.op = kml.OpExchange, kml.OpExchange
	} else {
		r.Attr.Mode = uint32(m.obj.st.Mode) & unix.S_IFMT
	}
	if m.replaces {
		r.Replaced, it.replaced, it.replacedID = m.repl.id, m.repl.h, m.repl.id
		if !exchange && m.repl.last() {
			r.ReplacedLast, it.flags = true, intentReplacedLast
		}
	}
	slot, err := fs.intend(&it)
	if err != nil {
		return err
	}
	defer fs.clearIntent(slot)
	r.Time = it.time
	if err := unix.Renameat2(m.from.fd, m.name, m.to.fd, m.toName, uint(m.flags)); err != nil {
		return err
	}
	if err := fs.afterMove(m, &r); err != nil {
		return err
	}
	if _, err := fs.record(&r); err != nil {
		return err
	}
	fs.hints.put(m.obj.h, r.To)
	switch {
	case exchange:
		fs.hints.put(m.repl.h, r.Where)
	case m.replaces:
		fs.lostName(m.repl.h, r.To)
		if r.ReplacedLast {
			return fs.forgetObject(m.repl.id, m.repl.h)
		}
	}
	return nil
}

func (fs *fileset) afterMove(m *move, r *kml.Record) error {
	after, err := statFD(m.from.fd)
	if err != nil {
		return err
	}
	r.ParentAfter = versionOf(&after)
	if m.from.h == m.to.h {
		return nil
	}
	if after, err = statFD(m.to.fd); err != nil {
		return err
	}
	r.ToBefore, r.ToAfter = versionOf(&m.before2), versionOf(&after)
	return nil
}

func (f *filter) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if err := f.begin(false); err != nil {
		return status(err)
	}
	defer f.fs.end()
	d, err := f.dir(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer d.put()
	if f.fs.hiddenName(d.h, name) {
		return fuse.EPERM
	}
	fd, h, err := f.inode(in.Oldnodeid)
	if err != nil {
		return status(err)
	}
	defer unix.Close(fd)
	unlock := f.fs.locks.lock(d.h, h)
	defer unlock()
	if err := f.fs.link(&in.InHeader, d, name, fd, h); err != nil {
		return status(err)
	}
	return status(f.fs.entry(d, name, out))
}

func (fs *fileset) link(in *fuse.InHeader, d *dir, name string, fd int, h handle) error {
	parentID, err := fs.ids.ofHandle(d.h)
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	id, err := fs.ids.of(fd, h, nanos(st.Btime))
	if err != nil {
		return err
	}
	w := fs.writerOf(h)
	if w != nil {
		if err := fs.logCloseLocked(w); err != nil {
			return err
		}
	}
	before, err := statFD(d.fd)
	if err != nil {
		return err
	}
	if _, err := fs.b.handleAt(d.fd, name); err == nil {
		return unix.EEXIST
	}
	it := intent{op: kml.OpLink, pid: in.Pid, uid: in.Uid, gid: in.Gid, toParent: d.h, toName: name, object: h, objectID: id}
	slot, err := fs.intend(&it)
	if err != nil {
		return err
	}
	defer fs.clearIntent(slot)
	if err := unix.Linkat(fd, "", d.fd, name, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	r := kml.Record{Op: kml.OpLink, Time: it.time, Cred: credOf(in), Object: id, Where: fs.hint(h, kml.Name{}),
		To: kml.Name{Parent: parentID, Name: name}, Before: versionOf(&st), ToBefore: versionOf(&before)}
	after, err := statFD(d.fd)
	if err != nil {
		return err
	}
	r.ToAfter = versionOf(&after)
	if st.Nlink == 0 {
		return fs.recordFirstName(&r, fd, &st, w)
	}
	_, err = fs.record(&r)
	return err
}

// recordFirstName logs a file that had no name until now (O_TMPFILE, or removed
// while open): for others it is born here, with its content.
func (fs *fileset) recordFirstName(r *kml.Record, fd int, st *unix.Statx_t, w *writing) error {
	r.Op, r.Where, r.To = kml.OpCreate, r.To, kml.Name{}
	r.ParentBefore, r.ParentAfter, r.ToBefore, r.ToAfter = r.ToBefore, r.ToAfter, kml.Version{}, kml.Version{}
	r.Attr, r.After, r.Before = attrOf(st), versionOf(st), kml.Version{}
	var err error
	if r.Xattrs, err = replicatedXattrs(fd); err != nil {
		return err
	}
	if _, err := fs.record(r); err != nil {
		return err
	}
	if h, err := fs.b.handleOf(fd); err == nil {
		fs.hints.put(h, r.Where)
	}
	if st.Size == 0 {
		return nil
	}
	if w != nil {
		w.dirty.Store(true)
		return fs.logCloseLocked(w)
	}
	c := kml.Record{Op: kml.OpClose, Cred: r.Cred, Object: r.Object, Where: r.Where, After: versionOf(st)}
	rd, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(rd)
	if err := fs.fillClose(&c, rd, st); err != nil {
		return err
	}
	_, err = fs.record(&c)
	return err
}
