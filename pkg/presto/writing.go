package presto

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// writing is an inode being written: from its first open for write until its
// last writer is gone and the last CLOSE is logged. LML has it all that time.
type writing struct {
	openFile
	gate    sync.RWMutex // shared by writes
	slot    int
	writers int // under wmu
	dirty   atomic.Bool
}

// bindAtBirth is the size up to which the bytes of a CLOSE are named at once:
// reading so little back costs less than a second record.
const bindAtBirth = 16 << 10

// openForWrite enters an inode, or one more writer of it. The caller gives the
// writer back with closeWriter.
func (fs *fileset) openForWrite(h handle, id kml.ObjectID, st *unix.Statx_t, cred kml.Cred, hint kml.Name) (*writing, error) {
	fs.wmu.Lock()
	defer fs.wmu.Unlock()
	if w := fs.writing[h]; w != nil {
		w.writers++
		return w, nil
	}
	w := &writing{openFile: openFile{h: h, id: id, cred: cred, was: versionOf(st), hint: hint}, writers: 1}
	slot, err := fs.lml.take(slotWriting, w.encode())
	if err != nil {
		return nil, err
	}
	w.slot = slot
	fs.writing[h] = w
	return w, nil
}

// closeWriter gives a writer back; with the last one the entry goes. The caller
// has logged the CLOSE, and holds mu shared.
func (fs *fileset) closeWriter(w *writing) {
	fs.wmu.Lock()
	defer fs.wmu.Unlock()
	if w.writers--; w.writers > 0 {
		return
	}
	delete(fs.writing, w.h)
	if err := fs.lml.clear(w.slot); err != nil {
		fs.log.Warn("clear lml", "fileset", fs.name, "err", err)
	}
}

func (fs *fileset) writerOf(h handle) *writing {
	fs.wmu.Lock()
	defer fs.wmu.Unlock()
	return fs.writing[h]
}

// dirtyWriters are the files that have content no CLOSE speaks of yet.
func (fs *fileset) dirtyWriters() []*writing {
	fs.wmu.Lock()
	defer fs.wmu.Unlock()
	var d []*writing
	for _, w := range fs.writing {
		if w.dirty.Load() {
			d = append(d, w)
		}
	}
	return d
}

// logClose logs a CLOSE if content changed since the last one. The caller holds
// mu shared.
func (fs *fileset) logClose(w *writing) error {
	if !w.dirty.Load() {
		return nil
	}
	unlock := fs.locks.lock(w.h)
	defer unlock()
	return fs.logCloseLocked(w)
}

// logCloseLocked is logClose for who holds the object's lock.
func (fs *fileset) logCloseLocked(w *writing) error {
	w.gate.Lock()
	defer w.gate.Unlock()
	return fs.logCloseGated(w)
}

// logCloseGated is logClose while no write can come between.
func (fs *fileset) logCloseGated(w *writing) error {
	if !w.dirty.Load() {
		return nil
	}
	fd, err := fs.b.open(w.h, unix.O_RDONLY|unix.O_NOATIME)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	if st.Nlink == 0 {
		return nil // no name, no record; it may still get one
	}
	r := kml.Record{Op: kml.OpClose, Cred: w.cred, Object: w.id, Where: fs.hint(w.h, w.hint),
		Before: w.was, After: versionOf(&st)}
	if err := fs.fillClose(&r, fd, &st); err != nil {
		return err
	}
	if _, err := fs.record(&r); err != nil {
		return err
	}
	w.dirty.Store(false)
	w.was = r.After
	if w.slot < 0 {
		return nil // of recovery: there is no writer
	}
	return fs.lml.write(w.slot, slotWriting, w.encode())
}

// fillClose adds the name of the bytes when there are few. That writing cleared a
// setuid bit or a capability needs no mention: the kernel asks for that by a
// SETATTR and a DELXATTR of their own.
func (fs *fileset) fillClose(r *kml.Record, fd int, st *unix.Statx_t) error {
	if st.Size == 0 || st.Size > bindAtBirth {
		return nil
	}
	buf := make([]byte, st.Size)
	n, err := readFull(fd, buf)
	if err != nil {
		return err
	}
	if int64(n) == int64(st.Size) {
		r.Content = kml.Content{Root: content.SumBytes(buf)}
	}
	return nil
}

func readFull(fd int, buf []byte) (int, error) {
	done := 0
	for done < len(buf) {
		n, err := unix.Pread(fd, buf[done:], int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}

func versionOf(st *unix.Statx_t) kml.Version {
	return kml.Version{Size: int64(st.Size), Mtime: nanos(st.Mtime), Ctime: nanos(st.Ctime)}
}

// barrier logs a CLOSE of everything that is being written and has changed.
func (fs *fileset) barrier() error {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	for _, w := range fs.dirtyWriters() {
		if err := fs.logClose(w); err != nil && err != unix.ESTALE {
			return err
		}
	}
	return nil
}
