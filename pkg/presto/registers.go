package presto

import (
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
		err = unix.Setxattr(procPath(fd), r.Xattr.Name, r.Xattr.Value, 0)
	} else if err = unix.Removexattr(procPath(fd), r.Xattr.Name); noXattr(err) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Op, r.Xattr.Name, err)
	}
	return nil
}
