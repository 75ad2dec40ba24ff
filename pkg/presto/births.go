package presto

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// create makes an object in the stage folder with everything that belongs to
// it, and gives it its name last.
func (a *applier) create(origin kml.UUID, r *kml.Record) error {
	d, err := a.parent(r, r.Where.Parent)
	if err != nil {
		return err
	}
	defer d.put()
	there, err := a.entryID(d, r.Where.Name)
	if err != nil {
		return err
	}
	if there.id == r.Object {
		if !a.redo {
			return unexpected(r, "it is there already")
		}
		return a.stamp(d, r.Where.Parent, r.ParentAfter)
	}
	if !there.id.IsZero() {
		return unexpected(r, "the name is taken by %s", there.id)
	}
	tmp, err := a.makeStaged(origin, r)
	if err != nil {
		return err
	}
	stage := int(a.fs.stage.Fd())
	if err := unix.Renameat2(stage, tmp, d.fd, r.Where.Name, unix.RENAME_NOREPLACE); err != nil {
		if !a.filled[r.Object] {
			err = errors.Join(err, unlinkAny(stage, tmp))
		}
		return fmt.Errorf("give %q its name: %w", r.Where.Name, err)
	}
	return a.stamp(d, r.Where.Parent, r.ParentAfter)
}

// makeStaged makes the object under a name of the stage folder, which it
// returns.
func (a *applier) makeStaged(origin kml.UUID, r *kml.Record) (string, error) {
	stage := int(a.fs.stage.Fd())
	tmp := fmt.Sprintf("new.%d", a.fs.made.Add(1))
	mtime := r.Attr.Mtime
	mode := r.Attr.Mode
	var err error
	switch r.Op {
	case kml.OpMkdir:
		err = unix.Mkdirat(stage, tmp, 0o700)
	case kml.OpSymlink:
		err = unix.Symlinkat(r.Target, stage, tmp)
	case kml.OpMknod:
		err = unix.Mknodat(stage, tmp, mode&unix.S_IFMT|0o600, int(unix.Mkdev(uint32(r.Attr.Rdev>>32), uint32(r.Attr.Rdev))))
	default:
		if v, ok := a.later[r.Object]; ok && v.size > 0 && !a.removed[r.Object] {
			if name := channel.StageName(v.origin, v.seq); a.staged(name) {
				tmp = name
				a.filled[r.Object] = true
				break
			}
		}
		err = a.emptyStaged(tmp)
	}
	if err != nil {
		return "", fmt.Errorf("make %s %q: %w", r.Op, r.Where.Name, err)
	}
	fd, err := openRetry(stage, tmp, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := a.dress(fd, r.Object, &r.Attr, mtime, r.Xattrs); err != nil {
		if !a.filled[r.Object] {
			err = errors.Join(err, unlinkAny(stage, tmp))
		}
		return "", err
	}
	return tmp, nil
}

// unlinkAny removes a name, of an empty directory too.
func unlinkAny(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
	}
	return err
}

func (a *applier) emptyStaged(name string) error {
	fd, err := openRetry(int(a.fs.stage.Fd()), name, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (a *applier) staged(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(a.fs.stage.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// dress gives a staged inode identity, owner, mode, xattrs and time.
func (a *applier) dress(fd int, id kml.ObjectID, attr *kml.Attr, mtime int64, xs []kml.Xattr) error {
	h, err := a.fs.b.handleOf(fd)
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	if err := a.fs.ids.give(fd, h, nanos(st.Btime), id); err != nil {
		return err
	}
	if attr.UID != st.Uid || attr.GID != st.Gid {
		if err := chownFD(fd, int(attr.UID), int(attr.GID)); err != nil {
			return err
		}
	}
	if attr.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := chmodFD(fd, attr.Mode); err != nil {
			return err
		}
	}
	for _, x := range xs {
		if !merge.ReplicatesXattr(x.Name) {
			continue
		}
		if err := a.setXattr(fd, id, x); err != nil {
			return err
		}
	}
	return setMtime(fd, mtime)
}
