package presto

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

func (a *applier) setattr(r *kml.Record) error {
	fd, h, err := a.object(r)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 {
		uid, gid := -1, -1
		if r.Valid&kml.ValidUID != 0 {
			uid = int(r.Attr.UID)
		}
		if r.Valid&kml.ValidGID != 0 {
			gid = int(r.Attr.GID)
		}
		st, err := statFD(fd)
		if err != nil {
			return err
		}
		if err := chownFD(fd, uid, gid); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
		// chown clears setuid; whether that is wanted is in the record
		if st.Mode&0o6000 != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && r.Valid&kml.ValidMode == 0 {
			if err := chmodFD(fd, uint32(st.Mode)); err != nil {
				return err
			}
		}
	}
	if r.Valid&kml.ValidMode != 0 && r.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := chmodFD(fd, r.Attr.Mode); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	a.stale.attrs = append(a.stale.attrs, h)
	if r.Valid&kml.ValidMtime == 0 || a.fs.pending.DirTouched(r.Object) {
		return nil
	}
	return setMtime(fd, r.Attr.Mtime)
}

func (a *applier) xattr(r *kml.Record) error {
	if !merge.ReplicatesXattr(r.Xattr.Name) {
		return nil
	}
	fd, h, err := a.object(r)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a.stale.content = append(a.stale.content, h)
	if r.Op == kml.OpSetxattr {
		return a.setXattr(fd, r.Object, r.Xattr)
	} else if err = unix.Removexattr(procPath(fd), r.Xattr.Name); noXattr(err) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Op, r.Xattr.Name, err)
	}
	return nil
}

// setXattr sets an attribute as another host has it. One that this bottom can't
// hold, whatever room there is (ext4 takes a block for all of an inode's), is
// left out and logged: the rest of the fileset must not wait for it. A full file
// system is an error.
func (a *applier) setXattr(fd int, id kml.ObjectID, x kml.Xattr) error {
	err := unix.Setxattr(procPath(fd), x.Name, x.Value, 0)
	if err == nil {
		return nil
	}
	tooBig := errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.ENOSPC) && a.fs.b.hasRoom()
	if !tooBig {
		return fmt.Errorf("set %s: %w", x.Name, err)
	}
	a.fs.log.Error("this file system can't hold an xattr; it is missing here", "fileset", a.fs.name, "path", a.fs.path(id),
		"object", id.String(), "xattr", x.Name, "bytes", len(x.Value), "err", err)
	return nil
}

// hasRoom reports whether the bottom has blocks to give.
func (b *bottom) hasRoom() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(b.mountFD, &st) == nil && st.Bavail > 64
}
