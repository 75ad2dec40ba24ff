package kml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	firstBlock = 32 << 10 // what is read at first
	lastBlock  = 1 << 20  // and, doubling, at most
)

// window reads a file in blocks that grow while it is read on and on.
type window struct {
	f     *os.File
	buf   []byte
	off   int64 // of buf[0] in the file
	block int   // size of the next read
}

// drop forgets what was read: it may have changed since.
func (w *window) drop() {
	w.buf = w.buf[:0]
	w.block = 0
}

// bytes gives n bytes of the file from off on, valid until the next call. Where
// the file ends before that it gives fewer, and no error.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if !w.has(off, n) {
		if err := w.fill(off, max(n, w.nextBlock())); err != nil {
			return nil, err
		}
	}
	b := w.buf[off-w.off:]
	return b[:min(n, len(b))], nil
}

// bytesBefore is bytes for the n bytes before off, where off-n is not negative.
// It reads blocks that end at off.
func (w *window) bytesBefore(off int64, n int) ([]byte, error) {
	start := off - int64(n)
	if !w.has(start, n) {
		from := min(start, max(0, off-int64(w.nextBlock())))
		if err := w.fill(from, int(off-from)); err != nil {
			return nil, err
		}
	}
	b := w.buf[min(start-w.off, int64(len(w.buf))):]
	return b[:min(n, len(b))], nil
}

// has reports whether the n bytes from off on have been read.
func (w *window) has(off int64, n int) bool {
	return off >= w.off && off+int64(n) <= w.off+int64(len(w.buf))
}

func (w *window) nextBlock() int {
	w.block = min(max(firstBlock, 2*w.block), lastBlock)
	return w.block
}

// fill reads want bytes from off on, or what there is of them.
func (w *window) fill(off int64, want int) error {
	if cap(w.buf) < want || cap(w.buf) > max(want, 2*lastBlock) {
		w.buf = make([]byte, want)
	}
	w.buf, w.off = w.buf[:want], off
	got, err := w.f.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && err != io.EOF {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// errEnd says that the file ends cleanly where a frame would begin.
var errEnd = errors.New("end of file")

// read reads the frame at off, which comes after before, and checks it wholly.
// The errors are errEnd, *CorruptError, or that of the file system.
func (fr *framer) read(w *window, off int64, before Pos) (Frame, error) {
	b, err := fr.readWhole(w, off, before.Seq+1)
	if err != nil {
		return Frame{}, err
	}
	f, what := fr.parse(b)
	whole := what == ""
	if whole {
		what = fr.follows(&f, b, before)
	}
	if what != "" {
		return Frame{}, &CorruptError{File: fr.file, What: what, Seq: before.Seq + 1, Offset: off, whole: whole}
	}
	f.Offset = off
	return f, nil
}

// readWhole reads the bytes of the frame at off, unchecked but for its length.
func (fr *framer) readWhole(w *window, off int64, seq uint64) ([]byte, error) {
	bad := func(what string) ([]byte, error) {
		return nil, &CorruptError{File: fr.file, What: what, Seq: seq, Offset: off}
	}
	b, err := w.bytes(off, frameMin)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, errEnd
	case len(b) < frameMin:
		return bad("file ends inside the frame")
	}
	size := frameSizeOf(binary.LittleEndian.Uint32(b))
	if size == 0 {
		return bad("length is impossible")
	}
	if b, err = w.bytes(off, int(size)); err != nil {
		return nil, err
	}
	if int64(len(b)) < size {
		return bad("file ends inside the frame")
	}
	return b, nil
}

// nextWhole looks for a frame of this log that is intact in itself, after the
// bad one at off that should have followed the number seq. It gives the offset,
// or -1. Frames begin at multiples of 8, and carry the tag of the log.
func (fr *framer) nextWhole(f *os.File, off int64, seq uint64) (int64, error) {
	w := window{f: f, block: lastBlock}
	one := window{f: f}
	le := binary.LittleEndian
	for at := off + frameAlign; ; at += frameAlign {
		b, err := w.bytes(at, frameHead)
		if err != nil || len(b) < frameHead {
			return -1, err
		}
		if le.Uint32(b[12:]) != fr.tag {
			continue
		}
		n := le.Uint64(b[16:])
		if n <= seq || n-seq > uint64(at-off)/frameMin+1 {
			continue // more frames than there is room for
		}
		one.drop()
		whole, err := fr.readWhole(&one, at, n)
		if errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return -1, err
		}
		if _, what := fr.parse(whole); what == "" {
			return at, nil
		}
	}
}
