package kml

import (
	"errors"
	"fmt"
	"os"
)

// Verify reads the whole log in f: header, every frame with its checksum and
// chain value, and every record in them. Each problem is given to report, which
// says whether to go on: a *CorruptError, or a *TornError, which is always the
// last. After a bad frame it goes on at the next good one. report may be nil.
//
// end is the position after the last frame before the first bad one. err is not
// nil where the log could not be checked at all: a bad header (*CorruptError,
// ErrVersion), or an error of the file system. Blocks on disk for as long as it
// takes to read the file.
func Verify(f *os.File, report func(problem error) bool) (end Pos, err error) {
	if report == nil {
		report = func(error) bool { return true }
	}
	w, err := newWalk(f)
	if err != nil {
		return Pos{}, fmt.Errorf("verify log: %w", err)
	}
	end, broken := w.header.Base, false
	for {
		fr, err := w.next()
		problem := err
		switch {
		case err == errEnd:
			return end, nil
		case err == nil:
			problem = w.decode(&fr)
			if !broken {
				end = fr.Pos
			}
		case !isProblem(err):
			return end, fmt.Errorf("verify log: %w", err)
		default:
			broken = true
		}
		if problem != nil && !report(problem) {
			return end, nil
		}
	}
}

func isProblem(err error) bool { return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTorn) }

// walk goes through all frames of a log, and past bad ones.
type walk struct {
	f      *os.File
	header Header
	fr     framer
	win    window
	at     mark
	adrift bool // the frame at this place is good in itself; what was before it isn't
	done   bool
}

func newWalk(f *os.File) (*walk, error) {
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	return &walk{
		f: f, header: h, fr: newFramer(&h, f.Name()), win: window{f: f},
		at: mark{pos: h.Base, off: headerSize},
	}, nil
}

// next gives the next frame, or says what is wrong there and moves on to the
// next good frame: *CorruptError, *TornError, or an error of the file system.
// errEnd says that there is no more.
func (w *walk) next() (Frame, error) {
	if w.done {
		return Frame{}, errEnd
	}
	f, err := w.read()
	if err == nil {
		w.at = mark{pos: f.Pos, off: f.Offset + f.Size()}
		return f, nil
	}
	if bad, ok := err.(*CorruptError); ok {
		err = w.resume(bad)
	}
	w.done = !w.adrift
	return Frame{}, err
}

// read reads the frame at the present place.
func (w *walk) read() (Frame, error) {
	if !w.adrift {
		return w.fr.read(&w.win, w.at.off, w.at.pos)
	}
	w.adrift = false
	b, err := w.fr.readWhole(&w.win, w.at.off, 0)
	if err != nil {
		return Frame{}, err
	}
	f, what := w.fr.parse(b)
	if what != "" {
		return Frame{}, &CorruptError{File: w.fr.file, What: what, Offset: w.at.off}
	}
	f.Offset = w.at.off
	return f, nil
}

// resume moves to the next good frame, which is not proved by the chain, and
// gives the problem to report. Without one there is no more to read.
func (w *walk) resume(bad *CorruptError) error {
	if bad.whole {
		w.adrift = true
		return bad
	}
	next, err := w.fr.nextWhole(w.f, w.at.off, w.at.pos.Seq)
	if err != nil {
		return err
	}
	if next >= 0 {
		bad.What += fmt.Sprintf("; the next good frame is at offset %d", next)
		w.at.off, w.adrift = next, true
		return bad
	}
	st, err := w.f.Stat()
	if err != nil {
		return err
	}
	return &TornError{File: w.fr.file, Seq: w.at.pos.Seq, Offset: w.at.off, Length: st.Size() - w.at.off}
}

// decode reports what is wrong with the body of a good frame.
func (w *walk) decode(f *Frame) error {
	var err error
	if f.Kind == FrameRecord {
		_, err = f.Record()
	} else {
		_, err = f.Group()
	}
	return w.located(err, f)
}

// located completes an error that the body of f gave.
func (w *walk) located(err error, f *Frame) error {
	if bad, ok := err.(*CorruptError); ok {
		bad.Seq = f.Pos.Seq
	}
	return inFile(err, w.fr.file, f.Offset+frameHead)
}
