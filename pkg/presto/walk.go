package presto

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// walk visits every object of the fileset, directories before what is in them.
// Other file systems and what is not the fileset's are passed over. Only for the
// two scans there are: adopting a tree and rebuilding the index.
func (fs *fileset) walk(visit func(d *dir, name string, n *named) error) error {
	todo := []handle{fs.rootH}
	for len(todo) > 0 {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		below, err := fs.walkDir(h, visit)
		if err != nil {
			return err
		}
		todo = append(todo, below...)
	}
	return nil
}

func (fs *fileset) walkDir(h handle, visit func(d *dir, name string, n *named) error) ([]handle, error) {
	d, err := fs.dirs.get(h)
	if err != nil {
		return nil, err
	}
	defer d.put()
	names, err := fs.b.list(h)
	if err != nil {
		return nil, err
	}
	var below []handle
	for _, name := range names {
		if fs.hiddenName(h, name) {
			continue
		}
		n, err := fs.at(d, name)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		if unix.Mkdev(n.st.Dev_major, n.st.Dev_minor) != fs.b.device {
			return nil, fmt.Errorf("%q is on another file system; a fileset lies on one", name)
		}
		if err := visit(d, name, &n); err != nil {
			return nil, err
		}
		if n.st.Mode&unix.S_IFMT == unix.S_IFDIR {
			below = append(below, n.h)
		}
	}
	return below, nil
}

// rebuildIndex finds every object that is not native.
func (fs *fileset) rebuildIndex() error {
	start, found := time.Now(), 0
	err := fs.walk(func(_ *dir, _ string, n *named) error {
		if n.id.Space == fs.owner && n.id.Ino == n.h.ino && n.id.Gen == n.h.gen {
			return nil
		}
		found++
		return fs.ids.index.put(n.id, n.h)
	})
	fs.log.Info("index of object ids rebuilt", "fileset", fs.name, "objects", found, "took", time.Since(start))
	return err
}

// adopt logs a tree that was there before the fileset was, if there is one. Up
// to the end of it nobody has seen the log, so that a scan that was interrupted
// is begun again with an empty one.
func (fs *fileset) adopt() error {
	if !fs.info.Adopt {
		return nil
	}
	fs.applyMu.Lock()
	defer fs.applyMu.Unlock()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.kml.End().Seq > fs.kml.Header().Base.Seq {
		if err := fs.emptyKML(); err != nil {
			return err
		}
	}
	start, objects := time.Now(), 0
	linked := map[handle]bool{}
	err := fs.walk(func(d *dir, name string, n *named) error {
		objects++
		return fs.adoptObject(d, name, n, linked)
	})
	if err != nil {
		return err
	}
	if err := fs.kml.Sync(); err != nil {
		return err
	}
	info := fs.info
	info.Adopt = false
	if err := fs.dir.SetInfo(info); err != nil {
		return err
	}
	fs.info.Adopt = false
	fs.log.Info("tree adopted", "fileset", fs.name, "objects", objects, "took", time.Since(start))
	return nil
}

// emptyKML begins the log again.
func (fs *fileset) emptyKML() error {
	if err := fs.restartKML(fs.kml.Header().Base, ""); err != nil {
		return err
	}
	fs.pendingN = 0
	clear(fs.unbound)
	return nil
}

// restartKML begins a new log after base. The old one gets the name keep, or is
// removed if that is empty.
func (fs *fileset) restartKML(base kml.Pos, keep string) error {
	head := fs.kml.Header()
	head.Base, head.Epoch, head.Created = base, max(base.Epoch, head.Epoch), time.Now().UnixNano()
	if err := errors.Join(fs.kml.Close(), fs.kmlSpace.close()); err != nil {
		return err
	}
	f, err := fs.file(cache.KMLFile+".new", unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	if err := errors.Join(kml.Format(f, head), f.Sync(), f.Close()); err != nil {
		return err
	}
	control := int(fs.control.Fd())
	if keep != "" {
		if err := unix.Linkat(control, cache.KMLFile, control, keep, 0); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(control, cache.KMLIndex, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := unix.Renameat(control, cache.KMLFile+".new", control, cache.KMLFile); err != nil {
		return err
	}
	fs.kml, err = fs.openLog(cache.KMLFile, cache.KMLIndex, &fs.kmlSpace)
	return err
}

// birthOp is the opcode that makes an object of that mode.
func birthOp(mode uint16) kml.Op {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return kml.OpCreate
	case unix.S_IFDIR:
		return kml.OpMkdir
	case unix.S_IFLNK:
		return kml.OpSymlink
	}
	return kml.OpMknod
}

func (fs *fileset) adoptObject(d *dir, name string, n *named, linked map[handle]bool) error {
	parentID, err := fs.ids.ofHandle(d.h)
	if err != nil {
		return err
	}
	dst, err := statFD(d.fd)
	if err != nil {
		return err
	}
	if err := fs.room(false); err != nil {
		return err
	}
	where := kml.Name{Parent: parentID, Name: name}
	r := kml.Record{Object: n.id, Before: versionOf(&n.st), ParentAfter: versionOf(&dst)}
	if linked[n.h] {
		r.Op, r.To, r.ToAfter, r.ParentAfter = kml.OpLink, where, r.ParentAfter, kml.Version{}
		_, err := fs.record(&r)
		return err
	}
	fd, err := openRetry(d.fd, name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r.Op, r.Where, r.Attr, r.Before, r.After = birthOp(n.st.Mode), where, attrOf(&n.st), kml.Version{}, versionOf(&n.st)
	if r.Xattrs, err = replicatedXattrs(fd); err != nil {
		return err
	}
	if r.Op == kml.OpSymlink {
		if r.Target, err = readlinkFD(fd); err != nil {
			return err
		}
	}
	if n.st.Nlink > 1 && r.Op != kml.OpMkdir {
		linked[n.h] = true
	}
	if _, err := fs.record(&r); err != nil {
		return err
	}
	if r.Op != kml.OpCreate || n.st.Size == 0 {
		return nil
	}
	w := &writing{openFile: openFile{h: n.h, id: n.id, hint: where}, slot: -1}
	w.dirty.Store(true)
	return fs.logCloseGated(w)
}
