package kml

import (
	"errors"
	"fmt"
)

// ReadFrom gives a Reader whose first frame is the one after the number seq.
// The error is a *PosError with ErrBeyond or ErrCut if the log has no such
// place; a Reader at the end is none. Near the end, and near a place that the
// index knows, it costs a read of little. Blocks on disk.
func (l *Log) ReadFrom(seq uint64) (*Reader, error) {
	if err := inRange(l.fr.file, seq, l.header.Base, l.End()); err != nil {
		return nil, err
	}
	from, err := l.near(seq)
	if err != nil {
		return nil, err
	}
	r := newReader(l, &l.fr, from, l.f)
	if err := r.skipTo(seq); err != nil {
		return nil, err
	}
	return r, nil
}

// PosAt gives the position with the number seq, with errors as ReadFrom.
func (l *Log) PosAt(seq uint64) (Pos, error) {
	l.state.Lock()
	m := l.recent[seq%recentFrames]
	l.state.Unlock()
	if m.pos.Seq == seq && m.off != 0 {
		return m.pos, nil
	}
	r, err := l.ReadFrom(seq)
	if err != nil {
		return Pos{}, err
	}
	return r.Pos(), nil
}

// Check reports whether p is a position of this log. A *PosError with ErrForked
// says that it is not: epoch or chain value differ there, or it is beyond the
// end. ErrCut says that it is too old to tell. Blocks on disk.
func (l *Log) Check(p Pos) error {
	return check(l.fr.file, p, l.header.Base, l.End(), l.PosAt)
}

// near gives a place at or before seq that is known to be right.
func (l *Log) near(seq uint64) (mark, error) {
	for {
		l.state.Lock()
		m, ok := l.recent[seq%recentFrames], true
		if m.pos.Seq != seq || m.off == 0 {
			m, ok = l.index.find(seq)
		}
		l.state.Unlock()
		switch {
		case !ok:
			return mark{pos: l.header.Base, off: headerSize, checked: true}, nil
		case m.checked:
			return m, nil
		}
		good, err := l.fr.holds(&window{f: l.f}, m)
		if err != nil {
			return mark{}, err
		}
		l.state.Lock()
		if good {
			l.index.check(m.pos.Seq)
		} else {
			l.index.remove(m.pos.Seq)
		}
		l.state.Unlock()
	}
}

// validEnd makes Log a source.
func (l *Log) validEnd() Pos { return l.End() }

// passed makes Log a source. Its index is complete without it.
func (l *Log) passed(mark) {}

// inRange reports whether a log from base to end has the position seq.
func inRange(file string, seq uint64, base, end Pos) error {
	switch {
	case seq < base.Seq:
		return &PosError{File: file, Seq: seq, Base: base.Seq, End: end.Seq, Err: ErrCut}
	case seq > end.Seq:
		return &PosError{File: file, Seq: seq, Base: base.Seq, End: end.Seq, Err: ErrBeyond}
	}
	return nil
}

// check is Check for a log from base to end whose positions posAt gives.
func check(file string, p, base, end Pos, posAt func(uint64) (Pos, error)) error {
	forked := &PosError{File: file, Seq: p.Seq, Base: base.Seq, End: end.Seq, Err: ErrForked}
	if p.Seq == 0 && base.Seq == 0 {
		// Before the first frame there is no history to differ in.
		if p.Chain != (Chain{}) {
			return forked
		}
		return nil
	}
	at, err := posAt(p.Seq)
	switch {
	case errors.Is(err, ErrBeyond):
		return forked
	case err != nil:
		return fmt.Errorf("check position %v: %w", p, err)
	case at != p:
		return forked
	}
	return nil
}
