package presto

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// close brings an object's content to what the CLOSE of a foreign group says.
// Versions that nobody can see, because the unit has a later one or removes the
// object, are passed over.
func (a *applier) close(origin kml.UUID, r *kml.Record) error {
	if a.removed[r.Object] || a.later[r.Object] != (version{origin, r.Seq, r.After.Size}) {
		return nil
	}
	fd, h, err := a.object(r)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	a.stale.content = append(a.stale.content, h)
	if !a.filled[r.Object] {
		if h2, err := a.fill(origin, r, fd, h); err != nil {
			return err
		} else if h2 != h {
			fd2, err := a.fs.b.open(h2, unix.O_PATH)
			if err != nil {
				return err
			}
			unix.Close(fd)
			fd = fd2
		}
	}
	if err := a.closeAttr(fd, r); err != nil {
		return err
	}
	return setMtime(fd, r.After.Mtime)
}

// closeAttr sets what writing has changed besides the content, where the record
// says that it did: past presto the bottom clears setuid bits and capabilities by
// itself, and a CLOSE with a mode speaks of such writes.
func (a *applier) closeAttr(fd int, r *kml.Record) error {
	if r.Attr.Mode == 0 {
		return nil
	}
	if err := chmodFD(fd, r.Attr.Mode); err != nil {
		return err
	}
	for _, x := range r.Xattrs {
		if x.Name == xattrCapability {
			return unix.Setxattr(procPath(fd), x.Name, x.Value, 0)
		}
	}
	if err := unix.Removexattr(procPath(fd), xattrCapability); err != nil && !noXattr(err) {
		return err
	}
	return nil
}

// fill gives the object its new bytes, and says which inode it is then.
func (a *applier) fill(origin kml.UUID, r *kml.Record, fd int, h handle) (handle, error) {
	name := channel.StageName(origin, r.Seq)
	if r.After.Size == 0 {
		return h, unix.Truncate(procPath(fd), 0)
	}
	if !a.staged(name) {
		return h, a.mustHold(origin, r, fd)
	}
	st, err := statFD(fd)
	if err != nil {
		return h, err
	}
	if st.Nlink == 1 && a.fs.writerOf(h) == nil {
		if d := a.placeOf(r, h); d != nil {
			defer d.put()
			n, _ := a.fs.hints.get(h)
			if n.IsZero() || a.redo {
				n = r.Where
			}
			return a.swap(d, n.Name, name, r, fd, h, &st)
		}
	}
	return h, a.rewrite(name, r, fd)
}

// placeOf opens the directory where the object has its one name, nil if that is
// not known at small cost. The hint for h is the name there.
func (a *applier) placeOf(r *kml.Record, h handle) *dir {
	hint, ok := a.fs.hints.get(h)
	if !ok || a.redo {
		hint = r.Where
	}
	if hint.IsZero() {
		return nil
	}
	d, err := a.parent(r, hint.Parent)
	if err != nil {
		return nil
	}
	if at, err := a.fs.b.handleAt(d.fd, hint.Name); err != nil || at != h {
		d.put()
		return nil
	}
	return d
}

// swap puts the staged inode in the place of the object's: who reads it goes on
// reading the old version, everybody else sees the new one whole.
func (a *applier) swap(d *dir, name, staged string, r *kml.Record, fd int, h handle, st *unix.Statx_t) (handle, error) {
	xs, err := replicatedXattrs(fd)
	if err != nil {
		return h, err
	}
	stage := int(a.fs.stage.Fd())
	nfd, err := openRetry(stage, staged, unix.O_PATH, 0)
	if err != nil {
		return h, err
	}
	defer unix.Close(nfd)
	attr := attrOf(st)
	nh, err := a.fs.b.handleOf(nfd)
	if err != nil {
		return h, err
	}
	e := dirent{d.h, name}
	if err := a.dress(nfd, r.Object, &attr, r.After.Mtime, xs); err != nil {
		return h, err
	}
	before, err := statFD(d.fd)
	if err != nil {
		return h, err
	}
	if err := unix.Renameat(stage, staged, d.fd, e.name); err != nil {
		return h, fmt.Errorf("replace %q: %w", e.name, err)
	}
	a.fs.ids.known.remove(h)
	a.fs.hints.remove(h)
	if pid, err := a.fs.ids.ofHandle(d.h); err == nil {
		a.fs.hints.put(nh, kml.Name{Parent: pid, Name: name})
	}
	a.stale.content = append(a.stale.content, nh, d.h)
	// The directory's time is not part of a change of content.
	return nh, setMtime(d.fd, nanos(before.Mtime))
}

// rewrite copies the staged bytes into the inode: it has several names, or
// somebody holds it open for writing. The staged file stays until the position
// says that this is done, so that it can be done again.
func (a *applier) rewrite(name string, r *kml.Record, fd int) error {
	sfd, err := openRetry(int(a.fs.stage.Fd()), name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(sfd), name)
	defer src.Close()
	dfd, err := unix.Open(procPath(fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(dfd), "object")
	defer dst.Close()
	if err := copySparse(dst, src, r.After.Size); err != nil {
		return fmt.Errorf("rewrite %q: %w", r.Where.Name, err)
	}
	a.used = append(a.used, name)
	return nil
}

// copySparse makes dst be the size bytes of src, holes and all.
func copySparse(dst, src *os.File, size int64) error {
	extents, err := content.Extents(src, size)
	if err != nil {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for _, e := range extents {
		if err := copyRange(dst, src, e.Off, e.Len); err != nil {
			return err
		}
	}
	return nil
}

func copyRange(dst, src *os.File, off, n int64) error {
	for n > 0 {
		in, out := off, off
		k, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(min(n, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return errors.New("source is shorter than it was")
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// mustHold is for a version whose staged file is gone: it was used up before a
// crash, and the object has to hold it.
func (a *applier) mustHold(origin kml.UUID, r *kml.Record, fd int) error {
	rd, err := unix.Open(procPath(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(rd), "object")
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	want := a.roots[version{origin, r.Seq, r.After.Size}]
	if a.recovering && st.Size() == r.After.Size && want.IsZero() {
		return nil
	}
	if st.Size() == r.After.Size && !want.IsZero() {
		root, err := content.SumFile(a.fs.ctx, f, st.Size())
		if err != nil {
			return err
		}
		if root == want.Root {
			return nil
		}
	}
	return &channel.Error{Code: channel.ErrInvalid, Text: fmt.Sprintf("content of CLOSE %d of %s (%q) is not staged", r.Seq, r.Object, r.Where.Name)}
}
