package presto

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// notAnObject is the id that the files of the control folder carry: whoever says
// that he means the object that such an inode would be natively is told that
// there is none.
var notAnObject = kml.ObjectID{Ino: 2}

// seal gives every file of the control folder an id that is no object's. Trees
// of filesets in it are passed over.
func (p *Presto) seal() error {
	dirs := []*os.File{p.cache.Control()}
	for len(dirs) > 0 {
		d := dirs[0]
		dirs = dirs[1:]
		more, err := p.sealIn(d)
		if d != p.cache.Control() {
			err = errors.Join(err, d.Close())
		}
		if err != nil {
			for _, m := range append(dirs, more...) {
				m.Close()
			}
			return fmt.Errorf("seal control folder: %w", err)
		}
		dirs = append(dirs, more...)
	}
	return nil
}

func (p *Presto) sealIn(d *os.File) (below []*os.File, err error) {
	h, err := p.bottom.handleOf(int(d.Fd()))
	if err != nil {
		return nil, err
	}
	names, err := p.bottom.list(h)
	if err != nil {
		return nil, err
	}
	for _, name := range append(names, ".") {
		if name == cache.RootName {
			continue
		}
		fd, err := openRetry(int(d.Fd()), name, unix.O_PATH, 0)
		if err != nil {
			return below, err
		}
		st, err := p.sealOne(fd)
		if err == nil && name != "." && name != cache.StageDir && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			var sub int
			if sub, err = openRetry(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
				below = append(below, os.NewFile(uintptr(sub), name))
			}
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return below, err
		}
	}
	return below, nil
}

// sealOne marks one inode, unless it is marked, or is an object on its way in.
func (p *Presto) sealOne(fd int) (unix.Statx_t, error) {
	st, err := statFD(fd)
	if err != nil {
		return st, err
	}
	h, err := p.bottom.handleOf(fd)
	if err != nil {
		return st, err
	}
	if _, err := unix.Getxattr(procPath(fd), cache.XattrID, nil); err == nil {
		return st, nil
	}
	return st, unix.Setxattr(procPath(fd), cache.XattrID, encodeIDXattr(notAnObject, h, nanos(st.Btime)), 0)
}

// inside reports whether an object that a peer names can be one of this fileset:
// in a cache with several, the ids of all of them can be opened. A directory is
// one if the way up leads to the root; anything else if the name that the record
// gives for it leads to it. What is not there yet is made by the group itself.
func (fs *fileset) inside(id kml.ObjectID, at ...kml.Name) bool {
	if fs.alone || id.IsZero() || id == kml.RootID {
		return true
	}
	fd, h, err := fs.ids.find(id)
	if err != nil {
		return true
	}
	st, err := statFD(fd)
	unix.Close(fd)
	if err != nil {
		return false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fs.below(id, kml.RootID)
	}
	for _, n := range append(at, fs.hint(h, kml.Name{})) {
		if n.IsZero() || !fs.below(n.Parent, kml.RootID) {
			continue
		}
		if ph, ok := fs.handleOfID(n.Parent); ok && fs.leadsTo(ph, n.Name, h) {
			return true
		}
	}
	return false
}

func (fs *fileset) leadsTo(parent handle, name string, h handle) bool {
	d, err := fs.dirs.get(parent)
	if err != nil {
		return false
	}
	defer d.put()
	at, err := fs.b.handleAt(d.fd, name)
	return err == nil && at == h
}
