package presto

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openDir is an open directory of an application.
type openDir struct {
	mu   sync.Mutex
	fd   int
	h    handle
	next uint64 // offset of the first entry of rest
	rest []byte // entries read from the bottom and not yet passed on
	buf  []byte
}

func (f *filter) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h, ok := f.fs.nodes.handle(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	fd, err := f.fs.b.open(h, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	out.Fh = f.enter(&openDir{fd: fd, h: h})
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (f *filter) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(in, func(_ *dir, e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

func (f *filter) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	return f.readDir(in, func(d *dir, e fuse.DirEntry) bool {
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." {
			return true
		}
		if f.fs.entry(d, e.Name, eo) != nil {
			*eo = fuse.EntryOut{} // gone since: no node id, so the kernel only lists it
		}
		return true
	})
}

// readDir passes entries on until add has no more room.
func (f *filter) readDir(in *fuse.ReadIn, add func(*dir, fuse.DirEntry) bool) fuse.Status {
	v, _ := f.files.Load(in.Fh)
	od, _ := v.(*openDir)
	if od == nil {
		return fuse.EBADF
	}
	d, err := f.fs.dirs.get(od.h)
	if err != nil {
		return status(err)
	}
	defer d.put()
	od.mu.Lock()
	defer od.mu.Unlock()
	if in.Offset != od.next {
		if _, err := unix.Seek(od.fd, int64(in.Offset), 0); err != nil {
			return status(err)
		}
		od.rest, od.next = nil, in.Offset
	}
	for {
		if len(od.rest) == 0 {
			if err := od.fill(); err != nil {
				return status(err)
			}
			if len(od.rest) == 0 {
				return fuse.OK
			}
		}
		var e fuse.DirEntry
		n := e.Parse(od.rest)
		if !f.fs.hiddenName(od.h, e.Name) && !add(d, e) {
			return fuse.OK
		}
		od.rest, od.next = od.rest[n:], e.Off
	}
}

func (od *openDir) fill() error {
	if od.buf == nil {
		od.buf = make([]byte, 32<<10)
	}
	for {
		n, err := unix.Getdents(od.fd, od.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		od.rest = od.buf[:n]
		return nil
	}
}

func (f *filter) ReleaseDir(in *fuse.ReleaseIn) {
	if v, ok := f.files.LoadAndDelete(in.Fh); ok {
		unix.Close(v.(*openDir).fd)
	}
}

func (f *filter) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	v, _ := f.files.Load(in.Fh)
	od, _ := v.(*openDir)
	if od == nil {
		return fuse.EBADF
	}
	if err := unix.Fsync(od.fd); err != nil {
		return status(err)
	}
	return status(f.fs.syncLogs())
}

// list reads the names in a directory.
func (b *bottom) list(h handle) ([]string, error) {
	fd, err := b.open(h, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
