package presto

import (
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// file is an open regular file.
type file struct {
	fd    int
	h     handle
	w     *writing // nil: open for reading only
	wrote atomic.Bool
}

// bottomFlags are the flags of an application's open that the bottom gets: what
// the kernel has done already, or does with offsets of its own, is left out.
func bottomFlags(flags int) int {
	return flags & (unix.O_ACCMODE | unix.O_SYNC | unix.O_DSYNC)
}

func (f *filter) enter(v any) uint64 {
	n := f.nextF.Add(1)
	f.files.Store(n, v)
	return n
}

func (f *filter) file(fh uint64) *file {
	v, _ := f.files.Load(fh)
	fl, _ := v.(*file)
	return fl
}

// openFlags tells the kernel how to treat an open file: its pages stay valid,
// because changes from elsewhere are told; who can't write needs no FLUSH.
func (f *filter) openFlags(fl *file, flags uint32) uint32 {
	out := uint32(fuse.FOPEN_KEEP_CACHE)
	if fl.w == nil {
		out |= fuse.FOPEN_NOFLUSH
	}
	return out
}

func (f *filter) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	write := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	if write {
		if err := f.begin(false); err != nil {
			return status(err)
		}
	} else {
		f.fs.mu.RLock()
	}
	defer f.fs.end()
	h, ok := f.fs.nodes.handle(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	fl := &file{h: h}
	var err error
	if fl.fd, err = f.fs.b.open(h, bottomFlags(int(in.Flags))); err != nil {
		return status(err)
	}
	if write {
		if err := f.openWriter(fl, in); err != nil {
			unix.Close(fl.fd)
			return status(err)
		}
	}
	out.Fh = f.enter(fl)
	out.OpenFlags = f.openFlags(fl, in.Flags)
	return fuse.OK
}

// openWriter enters the file as being written before the first write can come.
// The kernel empties it, where that was asked for, by a SETATTR.
func (f *filter) openWriter(fl *file, in *fuse.OpenIn) error {
	st, err := statFD(fl.fd)
	if err != nil {
		return err
	}
	id, err := f.fs.ids.of(fl.fd, fl.h, nanos(st.Btime))
	if err != nil {
		return err
	}
	if f.fs.isOldVersion(id, fl.h, &st) {
		return unix.ESTALE
	}
	w, err := f.fs.openForWrite(fl.h, id, &st, credOf(&in.InHeader), f.fs.hint(fl.h, kml.Name{}))
	if err != nil {
		return err
	}
	fl.w = w
	return nil
}

// isOldVersion reports whether an inode was swapped out: its object has another
// one by now, and what is changed in this one would be in no tree and no log.
func (fs *fileset) isOldVersion(id kml.ObjectID, h handle, st *unix.Statx_t) bool {
	if st.Nlink > 0 {
		return false
	}
	now, ok := fs.handleOfID(id)
	return ok && now != h && fs.writerOf(h) == nil
}

func (f *filter) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	fl := f.file(in.Fh)
	if fl == nil {
		return nil, fuse.EBADF
	}
	if int(in.Size) < len(buf) {
		buf = buf[:in.Size]
	}
	for {
		n, err := unix.Pread(fl.fd, buf, int64(in.Offset))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, status(err)
		}
		return fuse.ReadResultData(buf[:n]), fuse.OK
	}
}

// change does something to the content of an open file. While it does, no
// foreign content can come, and no CLOSE be logged.
func (f *filter) change(fh uint64, do func(fl *file) error) error {
	fl := f.file(fh)
	if fl == nil || fl.w == nil {
		return unix.EBADF
	}
	if err := f.begin(false); err != nil {
		return err
	}
	defer f.fs.end()
	fl.w.gate.RLock()
	defer fl.w.gate.RUnlock()
	fl.w.dirty.Store(true)
	fl.wrote.Store(true)
	return do(fl)
}

func (f *filter) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	var done int
	err := f.change(in.Fh, func(fl *file) error {
		for done < len(data) {
			n, err := unix.Pwrite(fl.fd, data[done:], int64(in.Offset)+int64(done))
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			done += n
		}
		return nil
	})
	if done > 0 {
		return uint32(done), fuse.OK
	}
	return 0, status(err)
}

func (f *filter) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return status(f.change(in.Fh, func(fl *file) error {
		return unix.Fallocate(fl.fd, in.Mode, int64(in.Offset), int64(in.Length))
	}))
}

func (f *filter) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from := f.file(in.FhIn)
	if from == nil {
		return 0, fuse.EBADF
	}
	var n int
	err := f.change(in.FhOut, func(fl *file) error {
		off, to := int64(in.OffIn), int64(in.OffOut)
		var err error
		n, err = unix.CopyFileRange(from.fd, &off, fl.fd, &to, int(min(in.Len, 1<<30)), int(in.Flags))
		return err
	})
	return uint32(n), status(err)
}

func (f *filter) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	fl := f.file(in.Fh)
	if fl == nil {
		return fuse.EBADF
	}
	off, err := unix.Seek(fl.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return status(err)
}

// Flush comes before close() returns: what was written is logged here, so that
// nothing the application does next can come before it in the log.
func (f *filter) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	fl := f.file(in.Fh)
	if fl == nil {
		return fuse.EBADF
	}
	if fl.w == nil || !fl.wrote.Swap(false) {
		return fuse.OK
	}
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	return status(f.fs.logClose(fl.w))
}

// Release ends an open file. What a mapping wrote after the last FLUSH is
// logged here.
func (f *filter) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	v, ok := f.files.LoadAndDelete(in.Fh)
	if !ok {
		return
	}
	fl := v.(*file)
	if fl.w != nil {
		f.fs.mu.RLock()
		if err := f.fs.logClose(fl.w); err != nil && err != unix.ESTALE {
			f.fs.log.Error("log close", "fileset", f.fs.name, "object", fl.w.id.String(), "err", err)
		}
		f.fs.closeWriter(fl.w)
		f.fs.mu.RUnlock()
	}
	unix.Close(fl.fd)
}

// Fsync logs what was written, and makes the file and its records durable.
func (f *filter) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	fl := f.file(in.Fh)
	if fl == nil {
		return fuse.EBADF
	}
	err := func() error {
		if fl.w == nil {
			return nil
		}
		f.fs.mu.RLock()
		defer f.fs.mu.RUnlock()
		return f.fs.logClose(fl.w)
	}()
	if err != nil {
		return status(err)
	}
	if in.FsyncFlags&1 != 0 {
		err = unix.Fdatasync(fl.fd)
	} else {
		err = unix.Fsync(fl.fd)
	}
	if err != nil {
		return status(err)
	}
	return status(f.fs.syncLogs())
}

// syncLogs makes the logs durable as far as they are.
func (fs *fileset) syncLogs() error {
	if err := fs.kml.Sync(); err != nil {
		return err
	}
	fs.logMu.Lock()
	order := fs.order
	fs.logMu.Unlock()
	if order == nil || !fs.server() {
		return nil
	}
	return order.Sync()
}
