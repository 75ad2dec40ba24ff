package presto

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

func failedOpen(err error) channel.Opened {
	var e unix.Errno
	if !errors.As(err, &e) {
		e = unix.EIO
	}
	return channel.Opened{Errno: int(e)}
}

// content opens the present content of an object for the daemon.
func (fs *fileset) content(id kml.ObjectID, capture bool) channel.Opened {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	fd, h, err := fs.ids.find(id)
	if err != nil {
		return failedOpen(err)
	}
	defer unix.Close(fd)
	unlock := fs.locks.lock(h)
	defer unlock()
	if w := fs.writerOf(h); w != nil && w.dirty.Load() {
		if !capture {
			return channel.Opened{Errno: int(unix.ETXTBSY)}
		}
		return fs.capture(w)
	}
	rd, err := fs.b.open(h, unix.O_RDONLY|unix.O_NOATIME)
	if err != nil {
		return failedOpen(err)
	}
	st, err := statFD(rd)
	if err != nil {
		unix.Close(rd)
		return failedOpen(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink == 0 {
		unix.Close(rd)
		return channel.Opened{Errno: int(unix.ENOENT)}
	}
	fs.logMu.Lock()
	seq := fs.unbound[id]
	fs.logMu.Unlock()
	return channel.Opened{File: os.NewFile(uintptr(rd), "content"), Token: tokenOf(&st), CloseSeq: seq}
}

func tokenOf(st *unix.Statx_t) channel.Token {
	return channel.Token{Ino: st.Ino, Size: int64(st.Size), Mtime: nanos(st.Mtime), Ctime: nanos(st.Ctime)}
}

// capture logs a CLOSE of a file that is being written and takes a copy of it
// while its writers wait, so that these bytes can be told from what follows.
func (fs *fileset) capture(w *writing) channel.Opened {
	w.gate.Lock()
	defer w.gate.Unlock()
	if err := fs.logCloseGated(w); err != nil {
		return failedOpen(err)
	}
	src, err := fs.b.open(w.h, unix.O_RDONLY|unix.O_NOATIME)
	if err != nil {
		return failedOpen(err)
	}
	from := os.NewFile(uintptr(src), "content")
	defer from.Close()
	dst, err := openRetry(int(fs.stage.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return failedOpen(err)
	}
	to := os.NewFile(uintptr(dst), "capture")
	st, err := statFD(src)
	if err == nil && st.Nlink == 0 {
		err = unix.ENOENT // removed: nobody else gets these bytes
	}
	if err == nil {
		err = copySparse(to, from, int64(st.Size))
	}
	if err != nil {
		to.Close()
		return failedOpen(err)
	}
	token := tokenOf(&st)
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	seq := fs.unbound[w.id]
	if seq != 0 {
		fs.captured[seq] = token
	}
	return channel.Opened{File: to, Token: token, CloseSeq: seq}
}

// bind appends the MANIFEST for a CLOSE of ours, if the bytes that the daemon
// read are still, or were kept as, what that CLOSE means.
func (fs *fileset) bind(b *channel.Binding) (bool, error) {
	if err := fs.begin(false); err != nil {
		return false, err
	}
	defer fs.end()
	fs.logMu.Lock()
	kept, isKept := fs.captured[b.CloseSeq]
	last := fs.unbound[b.Object] == b.CloseSeq
	fs.logMu.Unlock()
	if isKept && kept == b.Token {
		return fs.appendManifest(b, kml.Name{})
	}
	if !last {
		return false, nil
	}
	fd, h, err := fs.ids.find(b.Object)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	unlock := fs.locks.lock(h)
	defer unlock()
	if w := fs.writerOf(h); w != nil {
		w.gate.Lock()
		defer w.gate.Unlock()
		if w.dirty.Load() {
			return false, nil
		}
	}
	st, err := statFD(fd)
	if err != nil {
		return false, err
	}
	now := tokenOf(&st)
	// ctime moves with every chmod and link too: those do not change the bytes,
	// and a write would have made the file dirty or logged a later CLOSE.
	if now.Ino != b.Token.Ino || now.Size != b.Token.Size {
		return false, nil
	}
	return fs.appendManifest(b, fs.hint(h, kml.Name{}))
}

func (fs *fileset) appendManifest(b *channel.Binding, hint kml.Name) (bool, error) {
	r := kml.Record{Op: kml.OpManifest, Object: b.Object, Where: hint, CloseSeq: b.CloseSeq,
		After: kml.Version{Size: b.Token.Size, Mtime: b.Token.Mtime, Ctime: b.Token.Ctime}, Content: b.Content}
	_, err := fs.record(&r)
	return err == nil, err
}

// path is a present path of an object, "" where none is known.
func (fs *fileset) path(id kml.ObjectID) string {
	if id == kml.RootID {
		return "/"
	}
	var parts []string
	for depth := 0; id != kml.RootID && depth < 4096; depth++ {
		h, ok := fs.handleOfID(id)
		if !ok {
			return ""
		}
		n, ok := fs.hints.get(h)
		if !ok {
			return ""
		}
		parts = append(parts, n.Name)
		id = n.Parent
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteString("/" + parts[i])
	}
	return b.String()
}
