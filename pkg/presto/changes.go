package presto

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// applier puts the records of foreign groups into the tree. It runs with mu
// held exclusively; recovery runs it before anything is served.
type applier struct {
	fs    *fileset
	stale invalidation

	// later has, for an object, the last CLOSE of the unit that brings bytes:
	// versions before it are never seen and need not be there.
	later map[kml.ObjectID]version
	// removed are objects that lose their last name within the unit.
	removed map[kml.ObjectID]bool
	// filled are objects that already hold their bytes of later.
	filled map[kml.ObjectID]bool
	// roots are the bytes that the MANIFESTs of the unit name.
	roots map[version]kml.Content
	// cannot says what this bottom can't hold at all, empty if there is nothing.
	cannot string
	// kept are the times of directories that pending changes of ours set.
	kept map[handle]int64
	// recovering: a staged file may have been used up already.
	recovering bool
	// used are staged files that were copied from, to be removed once the
	// position says so.
	used []string
	// redo is set for the one record that a crash may have left done or not.
	redo bool
}

// version is a CLOSE: whose, which, and how many bytes.
type version struct {
	origin kml.UUID
	seq    uint64
	size   int64
}

// invalidation collects what the kernel has to forget afterwards.
type invalidation struct {
	content []handle
	attrs   []handle
}

func (v *invalidation) tell(k *kernelCaches) {
	if k == nil {
		return
	}
	seen := make(map[handle]bool, len(v.content)+len(v.attrs))
	for _, h := range v.content {
		if !seen[h] {
			seen[h] = true
			k.content(h)
		}
	}
	for _, h := range v.attrs {
		if !seen[h] {
			seen[h] = true
			k.attributes(h)
		}
	}
}

func newApplier(fs *fileset, groups []kml.Group) *applier {
	a := &applier{fs: fs, later: map[kml.ObjectID]version{}, removed: map[kml.ObjectID]bool{}, filled: map[kml.ObjectID]bool{},
		roots: map[version]kml.Content{}, kept: map[handle]int64{}}
	for i := range groups {
		if groups[i].Origin == fs.owner {
			continue
		}
		for j := range groups[i].Records {
			a.foresee(groups[i].Origin, &groups[i].Records[j])
		}
	}
	return a
}

func (a *applier) foresee(origin kml.UUID, r *kml.Record) {
	switch r.Op {
	case kml.OpSymlink:
		if limit := a.fs.b.maxTarget(); len(r.Target) > limit {
			a.cannot = fmt.Sprintf("%s holds symbolic links of %d bytes at most, and %q has %d", a.fs.b.fsType, limit, r.Where.Name, len(r.Target))
		}
	case kml.OpClose:
		v := version{origin, r.Seq, r.After.Size}
		a.later[r.Object] = v
		if !r.Content.IsZero() {
			a.roots[v] = r.Content
		}
	case kml.OpManifest:
		a.roots[version{origin, r.CloseSeq, r.After.Size}] = r.Content
	case kml.OpUnlink:
		if r.Last {
			a.removed[r.Object] = true
		}
	case kml.OpRename:
		if r.ReplacedLast {
			a.removed[r.Replaced] = true
		}
	}
}

// ready makes sure that the content of every version that will be seen is
// staged, while nothing has been done yet.
func (a *applier) ready() error {
	if a.cannot != "" {
		return &channel.Error{Code: channel.ErrInvalid, Text: a.cannot}
	}
	for id, v := range a.later {
		if v.size == 0 || a.removed[id] {
			continue
		}
		name := channel.StageName(v.origin, v.seq)
		var st unix.Stat_t
		err := unix.Fstatat(int(a.fs.stage.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Size == v.size {
			continue
		}
		return &channel.Error{Code: channel.ErrInvalid, Text: fmt.Sprintf("content of CLOSE %d of %s, %d bytes, is not staged", v.seq, id, v.size)}
	}
	return nil
}

// unexpected is a tree that is not what the log says: never guessed at.
func unexpected(r *kml.Record, format string, args ...any) error {
	return &channel.Error{Code: channel.ErrDamaged,
		Text: fmt.Sprintf("%s %s of %s: the tree is not as the log says: %s", r.Op, r.Where.Name, r.Object, fmt.Sprintf(format, args...))}
}

// apply does one record. With redo set it may have been done already.
func (a *applier) apply(origin kml.UUID, r *kml.Record) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		return a.create(origin, r)
	case kml.OpUnlink, kml.OpRmdir:
		return a.remove(r)
	case kml.OpRename, kml.OpExchange:
		return a.rename(r)
	case kml.OpLink:
		return a.link(r)
	case kml.OpSetattr:
		return a.setattr(r)
	case kml.OpSetxattr, kml.OpDelxattr:
		return a.xattr(r)
	case kml.OpClose:
		return a.close(origin, r)
	case kml.OpManifest, kml.OpNoop, kml.OpConflict, kml.OpResolved:
		return nil
	}
	return &channel.Error{Code: channel.ErrInvalid, Text: fmt.Sprintf("record %s is not known to this version", r.Op)}
}

// parent opens the directory that a name is in. Where a pending change of ours
// sets its time, that time is kept through what is done here.
func (a *applier) parent(r *kml.Record, id kml.ObjectID) (*dir, error) {
	h := a.fs.rootH
	if id != kml.RootID {
		fd, found, err := a.fs.ids.find(id)
		if err != nil {
			return nil, unexpected(r, "directory %s: %v", id, err)
		}
		unix.Close(fd)
		h = found
	}
	d, err := a.fs.dirs.get(h)
	if err != nil {
		return nil, err
	}
	if _, ok := a.kept[h]; !ok && a.fs.pending.DirTouched(id) {
		st, err := statFD(d.fd)
		if err != nil {
			d.put()
			return nil, err
		}
		a.kept[h] = nanos(st.Mtime)
	}
	return d, nil
}

// entryID says which object a name leads to, the zero id if there is none.
func (a *applier) entryID(d *dir, name string) (named, error) {
	n, err := a.fs.at(d, name)
	if err == unix.ENOENT {
		return named{}, nil
	}
	return n, err
}

// stamp gives a directory the time that the record says, unless a pending
// change of ours comes after it (hard-points R10).
func (a *applier) stamp(d *dir, id kml.ObjectID, v kml.Version) error {
	a.stale.content = append(a.stale.content, d.h)
	mtime := v.Mtime
	if kept, ok := a.kept[d.h]; ok {
		mtime = kept
	} else if v == (kml.Version{}) {
		return nil
	}
	fd, err := a.fs.b.open(d.h, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setMtime(fd, mtime)
}

func (a *applier) remove(r *kml.Record) error {
	d, err := a.parent(r, r.Where.Parent)
	if err != nil {
		return err
	}
	defer d.put()
	n, err := a.entryID(d, r.Where.Name)
	if err != nil {
		return err
	}
	if n.id != r.Object {
		if a.redo {
			return a.stamp(d, r.Where.Parent, r.ParentAfter)
		}
		return unexpected(r, "the name leads to %s", n.id)
	}
	flags := 0
	if r.Op == kml.OpRmdir {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(d.fd, r.Where.Name, flags); err != nil {
		return fmt.Errorf("remove %q: %w", r.Where.Name, err)
	}
	a.stale.attrs = append(a.stale.attrs, n.h)
	a.fs.lostName(n.h, r.Where)
	if n.last() {
		if err := a.fs.forgetObject(n.id, n.h); err != nil {
			return err
		}
	}
	return a.stamp(d, r.Where.Parent, r.ParentAfter)
}

func (a *applier) rename(r *kml.Record) error {
	from, err := a.parent(r, r.Where.Parent)
	if err != nil {
		return err
	}
	defer from.put()
	to, err := a.parent(r, r.To.Parent)
	if err != nil {
		return err
	}
	defer to.put()
	n, err := a.entryID(from, r.Where.Name)
	if err != nil {
		return err
	}
	m, err := a.entryID(to, r.To.Name)
	if err != nil {
		return err
	}
	switch {
	case a.redo && m.id == r.Object:
	case n.id != r.Object:
		return unexpected(r, "the old name leads to %s", n.id)
	case r.Attr.Mode != 0 && r.Attr.Mode != uint32(n.st.Mode)&unix.S_IFMT:
		return unexpected(r, "the object is not of the type that the record says")
	case m.id != r.Replaced:
		return unexpected(r, "the new name leads to %s, not %s", m.id, r.Replaced)
	default:
		if err := a.move(r, from, to, &n, &m); err != nil {
			return err
		}
	}
	if err := a.stamp(from, r.Where.Parent, r.ParentAfter); err != nil {
		return err
	}
	if r.To.Parent == r.Where.Parent {
		return nil
	}
	return a.stamp(to, r.To.Parent, r.ToAfter)
}

func (a *applier) move(r *kml.Record, from, to *dir, n, m *named) error {
	flags := uint(0)
	switch {
	case r.Op == kml.OpExchange:
		flags = unix.RENAME_EXCHANGE
	case m.id.IsZero():
		flags = unix.RENAME_NOREPLACE
	}
	if err := unix.Renameat2(from.fd, r.Where.Name, to.fd, r.To.Name, flags); err != nil {
		return fmt.Errorf("rename %q to %q: %w", r.Where.Name, r.To.Name, err)
	}
	a.stale.attrs = append(a.stale.attrs, n.h)
	a.fs.hints.put(n.h, r.To)
	if m.id.IsZero() {
		return nil
	}
	a.stale.attrs = append(a.stale.attrs, m.h)
	if r.Op == kml.OpExchange {
		a.fs.hints.put(m.h, r.Where)
		return nil
	}
	a.fs.lostName(m.h, r.To)
	if m.last() {
		return a.fs.forgetObject(m.id, m.h)
	}
	return nil
}

func (a *applier) link(r *kml.Record) error {
	d, err := a.parent(r, r.To.Parent)
	if err != nil {
		return err
	}
	defer d.put()
	fd, h, err := a.fs.ids.find(r.Object)
	if err != nil {
		return unexpected(r, "no such object: %v", err)
	}
	defer unix.Close(fd)
	there, err := a.entryID(d, r.To.Name)
	if err != nil {
		return err
	}
	if there.id.IsZero() {
		if err := unix.Linkat(fd, "", d.fd, r.To.Name, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("link %q: %w", r.To.Name, err)
		}
	} else if !a.redo || there.id != r.Object {
		return unexpected(r, "the new name leads to %s", there.id)
	}
	a.stale.attrs = append(a.stale.attrs, h)
	return a.stamp(d, r.To.Parent, r.ToAfter)
}

// object opens what a record is about.
func (a *applier) object(r *kml.Record) (int, handle, error) {
	if r.Object == kml.RootID {
		fd, err := a.fs.b.open(a.fs.rootH, unix.O_PATH)
		return fd, a.fs.rootH, err
	}
	fd, h, err := a.fs.ids.find(r.Object)
	if err == nil {
		return fd, h, nil
	}
	if a.redo {
		if fd, h, err := a.byName(r); err == nil {
			return fd, h, nil
		}
	}
	return -1, h, unexpected(r, "no such object: %v", err)
}

// byName finds an object that the index lost in a crash, where the record says
// that it is.
func (a *applier) byName(r *kml.Record) (int, handle, error) {
	d, err := a.parent(r, r.Where.Parent)
	if err != nil {
		return -1, handle{}, err
	}
	defer d.put()
	n, err := a.entryID(d, r.Where.Name)
	if err != nil {
		return -1, n.h, err
	}
	if n.id != r.Object {
		return -1, n.h, unix.ENOENT
	}
	if err := a.fs.ids.index.put(n.id, n.h); err != nil {
		return -1, n.h, err
	}
	fd, err := a.fs.b.open(n.h, unix.O_PATH)
	return fd, n.h, err
}
