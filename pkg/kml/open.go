package kml

import (
	"errors"
	"fmt"
	"os"
)

// Open opens the log in f, which must have been made by Format, for reading and
// appending. It takes both files over, and closes them if it fails. index is
// the log's sidecar, may be empty, and may be nil.
//
// The frames after the last place that the index knows are checked, all of them
// without an index. What follows the last good frame is a torn tail if no good
// frame comes after it: then Open succeeds, and Torn tells. Otherwise, and where
// the header is bad, the error is a *CorruptError with the place, or ErrVersion.
func Open(f, index *os.File) (*Log, error) {
	l, err := open(f, index)
	if err != nil {
		f.Close()
		if index != nil {
			index.Close()
		}
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

func open(f, index *os.File) (*Log, error) {
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l := &Log{f: f, header: h, fr: newFramer(&h, f.Name()), side: newSidecar(index, &h)}
	if err := l.loadIndex(st.Size()); err != nil {
		return nil, err
	}
	if err := l.findEnd(st.Size()); err != nil {
		return nil, err
	}
	return l, nil
}

// loadIndex takes the marks of the sidecar up to the last one that is true, and
// makes the sidecar have no others. The valid end is at the last, for now.
func (l *Log) loadIndex(size int64) error {
	marks, err := l.side.load(l.header.Base, l.header.Epoch, size)
	if err != nil {
		// An index that can't be read is no reason not to read the log.
		l.side.f = nil
	}
	w := window{f: l.f}
	for len(marks) > 0 {
		last := &marks[len(marks)-1]
		ok, err := l.fr.holds(&w, *last)
		if err != nil {
			return err
		}
		if ok {
			last.checked = true
			break
		}
		marks = marks[:len(marks)-1]
	}
	l.side.cut(len(marks))
	l.index.marks = marks
	l.end = mark{pos: l.header.Base, off: headerSize, checked: true}
	if len(marks) > 0 {
		l.end = marks[len(marks)-1]
	}
	return nil
}

// findEnd checks the frames from the end as known so far, and moves the end
// behind the last good one.
func (l *Log) findEnd(size int64) error {
	w := window{f: l.f}
	for {
		f, err := l.fr.read(&w, l.end.off, l.end.pos)
		var bad *CorruptError
		switch {
		case err == nil:
			l.publish(mark{pos: f.Pos, off: f.Offset + f.Size(), checked: true})
		case err == errEnd:
			return nil
		case errors.As(err, &bad):
			return l.tornAt(bad, size)
		default:
			return err
		}
	}
}

// tornAt decides what the bad frame at the end as known so far is.
func (l *Log) tornAt(bad *CorruptError, size int64) error {
	if bad.whole {
		return bad
	}
	next, err := l.fr.nextWhole(l.f, l.end.off, l.end.pos.Seq)
	if err != nil {
		return err
	}
	if next >= 0 {
		bad.What += fmt.Sprintf(", and a good frame follows at offset %d", next)
		return bad
	}
	l.torn = size - l.end.off
	return nil
}
