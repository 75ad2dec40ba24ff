package kml

import (
	"errors"
	"io"
	"os"
)

// mark is a place in a log file: the frame that begins at off is the one after
// pos.
type mark struct {
	pos     Pos
	off     int64
	checked bool // the frame that ends here has been looked at
}

// source is where a Reader learns how far it may read.
type source interface {
	// validEnd is the position up to which frames may be returned.
	validEnd() Pos
	// passed tells of a frame that was checked and ends at m.
	passed(m mark)
}

// Reader returns the frames of a log in order, each one checked. It must not be
// used by two goroutines at once; any number of Readers may read one log, also
// while it grows.
type Reader struct {
	src source
	fr  *framer
	win window
	at  mark // after the last frame returned
	end Pos  // valid end when the window was filled, or later
}

func newReader(src source, fr *framer, from mark, f *os.File) *Reader {
	return &Reader{src: src, fr: fr, win: window{f: f}, at: from, end: src.validEnd()}
}

// Pos is the position after the last frame returned.
func (r *Reader) Pos() Pos { return r.at.pos }

// Next returns the next frame. Its Body is valid until the next call. io.EOF
// means that the valid end is reached; when the log has grown, a later call goes
// on. Any other error leaves the Reader where it is. Blocks on disk.
func (r *Reader) Next() (Frame, error) {
	if r.at.pos.Seq >= r.end.Seq {
		end := r.src.validEnd()
		if end.Seq <= r.at.pos.Seq {
			return Frame{}, io.EOF
		}
		// What was read beyond the former end may have been half written.
		r.end = end
		r.win.drop()
	}
	f, err := r.fr.read(&r.win, r.at.off, r.at.pos)
	if err == errEnd {
		err = &CorruptError{File: r.fr.file, What: "file ends before the end of the log", Seq: r.at.pos.Seq + 1, Offset: r.at.off}
	}
	if err == nil && f.Pos.Seq == r.end.Seq && f.Pos != r.end {
		err = &PosError{File: r.fr.file, Seq: f.Pos.Seq, End: r.end.Seq, Err: ErrForked}
	}
	if err != nil {
		r.win.drop()
		return Frame{}, err
	}
	r.at = mark{pos: f.Pos, off: f.Offset + f.Size(), checked: true}
	r.src.passed(r.at)
	return f, nil
}

// skipTo reads up to the frame seq, which is below the valid end.
func (r *Reader) skipTo(seq uint64) error {
	for r.at.pos.Seq < seq {
		if _, err := r.Next(); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether the frame that ends at m.off is the one that m says.
func (fr *framer) holds(w *window, m mark) (bool, error) {
	f, _, err := fr.readBack(w, m.off)
	if errors.Is(err, ErrCorrupt) || err == errEnd {
		return false, nil
	}
	return err == nil && f.Pos == m.pos, err
}
