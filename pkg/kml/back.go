package kml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readBack reads the frame that ends at off, whose bytes it gives too, and
// checks all of it but its place in the chain. errEnd means that the header ends
// there.
func (fr *framer) readBack(w *window, off int64) (Frame, []byte, error) {
	bad := func(what string) (Frame, []byte, error) {
		return Frame{}, nil, &CorruptError{File: fr.file, What: what, Offset: off}
	}
	if off <= headerSize {
		return Frame{}, nil, errEnd
	}
	if off%frameAlign != 0 || off < headerSize+frameMin {
		return bad("no frame ends here")
	}
	b, err := w.bytesBefore(off, frameTail)
	if err != nil {
		return Frame{}, nil, err
	}
	if len(b) < frameTail {
		return bad("file ends before this")
	}
	size := frameSizeOf(binary.LittleEndian.Uint32(b))
	if size == 0 || size > off-headerSize {
		return bad("no frame ends here")
	}
	if ok, err := fr.beginsAt(w, off-size, size); !ok {
		if err != nil {
			return Frame{}, nil, err
		}
		return bad("no frame ends here")
	}
	if b, err = w.bytesBefore(off, int(size)); err != nil {
		return Frame{}, nil, err
	}
	if int64(len(b)) < size {
		return bad("file ends before this")
	}
	f, what := fr.parse(b)
	if what != "" {
		return bad(what)
	}
	f.Offset = off - size
	return f, b, nil
}

// beginsAt reports whether a frame of this log and size seems to begin at off.
// It reads 16 bytes, where what comes next may be a large frame.
func (fr *framer) beginsAt(w *window, off, size int64) (bool, error) {
	var small [16]byte
	b := small[:]
	if w.has(off, len(b)) {
		b = w.buf[off-w.off:]
	} else if n, err := w.f.ReadAt(b, off); n < len(b) {
		if err == io.EOF {
			return false, nil
		}
		return false, fmt.Errorf("read log: %w", err)
	}
	le := binary.LittleEndian
	return frameSizeOf(le.Uint32(b)) == size && le.Uint32(b[12:]) == fr.tag, nil
}

// lastFrame looks for the last intact frame that ends in the last block of the
// file. Its bytes are valid until w is used again.
func (fr *framer) lastFrame(w *window) (Frame, []byte, error) {
	st, err := w.f.Stat()
	if err != nil {
		return Frame{}, nil, fmt.Errorf("read log: %w", err)
	}
	end := st.Size() &^ (frameAlign - 1)
	for off := end; off > max(headerSize, end-firstBlock); off -= frameAlign {
		last, b, err := fr.readBack(w, off)
		if err == nil {
			return last, b, nil
		}
		if _, bad := err.(*CorruptError); !bad {
			return Frame{}, nil, err
		}
	}
	return Frame{}, nil, errEnd
}

// ioError gives err where it is the file system's, and nil where it only says
// that the bytes are not what was looked for.
func ioError(err error) error {
	if err == errEnd || errors.Is(err, ErrCorrupt) {
		return nil
	}
	return err
}
