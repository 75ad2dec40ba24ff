package kml

import (
	"fmt"
	"os"
	"sync"
)

// View reads a log that another process appends to. It never returns a frame
// beyond the end that it was told, because the file may have bytes there that
// are not part of the log. It remembers places as it reads. All methods may be
// called by any number of goroutines.
type View struct {
	f      *os.File
	header Header
	fr     framer

	mu    sync.Mutex // held for moments, never over I/O
	end   Pos
	index index
	last  mark // the latest place known to be right, at most end
}

// NewView makes a View of the log in f, which stays the caller's and must stay
// open. Until SetEnd is called it ends where the log begins.
func NewView(f *os.File) (*View, error) {
	h, err := readHeader(f)
	if err != nil {
		return nil, fmt.Errorf("view log: %w", err)
	}
	base := mark{pos: h.Base, off: headerSize, checked: true}
	return &View{f: f, header: h, fr: newFramer(&h, f.Name()), end: h.Base, last: base}, nil
}

// Header is what the file says of itself.
func (v *View) Header() Header { return v.header }

// SetEnd tells up to where the log is valid, as its owner said. Ends only grow:
// one before the present end, as it comes when messages overtake each other, is
// ignored.
func (v *View) SetEnd(end Pos) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if end.Seq > v.end.Seq {
		v.end = end
	}
}

// End is the position last told to SetEnd.
func (v *View) End() Pos { return v.validEnd() }

// ReadFrom gives a Reader whose first frame is the one after the number seq.
// The error is a *PosError with ErrBeyond or ErrCut if the log has no such
// place; a Reader at the end is none. Near the end it reads backwards from
// there, and near places read before forwards. Blocks on disk.
func (v *View) ReadFrom(seq uint64) (*Reader, error) {
	end := v.End()
	if err := inRange(v.fr.file, seq, v.header.Base, end); err != nil {
		return nil, err
	}
	from := v.near(seq)
	if ahead := seq - from.pos.Seq; ahead > recentFrames && ahead > 2*(end.Seq-seq) {
		m, ok, err := v.back(end, seq)
		if err != nil {
			return nil, err
		}
		if ok {
			from = m
		}
	}
	r := newReader(v, &v.fr, from, v.f)
	if err := r.skipTo(seq); err != nil {
		return nil, err
	}
	return r, nil
}

// PosAt gives the position with the number seq, with errors as ReadFrom.
func (v *View) PosAt(seq uint64) (Pos, error) {
	r, err := v.ReadFrom(seq)
	if err != nil {
		return Pos{}, err
	}
	return r.Pos(), nil
}

// Check is what (*Log).Check is, up to the end that was told.
func (v *View) Check(p Pos) error {
	return check(v.fr.file, p, v.header.Base, v.End(), v.PosAt)
}

// near gives the last place at or before seq that was read before.
func (v *View) near(seq uint64) mark {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last.pos.Seq <= seq {
		return v.last
	}
	if m, ok := v.index.find(seq); ok {
		return m
	}
	return mark{pos: v.header.Base, off: headerSize, checked: true}
}

// validEnd makes View a source.
func (v *View) validEnd() Pos {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.end
}

// passed makes View a source.
func (v *View) passed(m mark) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.index.add(m)
	if m.pos.Seq > v.last.pos.Seq {
		v.last = m
	}
}

// back walks from the end of the file backwards to the position end, and from
// there to seq. Every frame on the way is proved by the chain value of the one
// after it, the last by end, which the owner told. ok is false where the tail of
// the file can't be read like this; reading forwards will tell why.
func (v *View) back(end Pos, seq uint64) (m mark, ok bool, err error) {
	w := window{f: v.f}
	f, b, err := v.fr.lastFrame(&w)
	for err == nil && f.Pos.Seq > end.Seq {
		f, b, err = v.fr.readBack(&w, f.Offset)
	}
	if err != nil || f.Pos != end {
		return mark{}, false, ioError(err)
	}
	m = mark{pos: f.Pos, off: f.Offset + f.Size(), checked: true}
	v.passed(m)
	var hold []byte // the frame to prove, while its predecessor is read
	for m.pos.Seq > seq {
		hold = append(hold[:0], b...)
		later, _ := v.fr.parse(hold)
		before := mark{pos: v.header.Base, off: headerSize, checked: true}
		off := m.off - later.Size()
		if f, b, err = v.fr.readBack(&w, off); err == nil {
			before = mark{pos: f.Pos, off: off, checked: true}
		} else if err != errEnd {
			return mark{}, false, ioError(err)
		}
		if v.fr.follows(&later, hold, before.pos) != "" {
			return mark{}, false, nil
		}
		m = before
		v.passed(m)
	}
	return m, m.pos.Seq == seq, nil
}
