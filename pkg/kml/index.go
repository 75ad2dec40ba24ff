package kml

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
)

// indexEvery is how far apart marks are, in bytes of log, at least.
const indexEvery = 64 << 10

// index is a sparse list of places in a log, in order. It is derived from the
// log and is never believed without a look at the frame that a mark names.
type index struct {
	marks []mark
}

// find gives the last mark at or before the number seq; ok is false if there is
// none.
func (x *index) find(seq uint64) (m mark, ok bool) {
	i := x.after(seq)
	if i == 0 {
		return mark{}, false
	}
	return x.marks[i-1], true
}

// after gives the number of marks at or before seq.
func (x *index) after(seq uint64) int {
	if n := len(x.marks); n == 0 || x.marks[n-1].pos.Seq <= seq {
		return n // where most are asked for
	}
	i, found := slices.BinarySearchFunc(x.marks, seq, func(m mark, seq uint64) int { return cmp.Compare(m.pos.Seq, seq) })
	if found {
		i++
	}
	return i
}

// add takes m in if no mark is near, and reports whether it did.
func (x *index) add(m mark) bool {
	i := x.after(m.pos.Seq)
	before, after := int64(headerSize), int64(1<<62)
	if i > 0 {
		before = x.marks[i-1].off
	}
	if i < len(x.marks) {
		after = x.marks[i].off
	}
	if m.off-before < indexEvery || after-m.off < indexEvery {
		return false
	}
	x.marks = slices.Insert(x.marks, i, m)
	return true
}

// remove takes the mark of the number seq out.
func (x *index) remove(seq uint64) {
	if i := x.after(seq); i > 0 && x.marks[i-1].pos.Seq == seq {
		x.marks = slices.Delete(x.marks, i-1, i)
	}
}

// check remembers that the mark of the number seq was found to be right.
func (x *index) check(seq uint64) {
	if i := x.after(seq); i > 0 && x.marks[i-1].pos.Seq == seq {
		x.marks[i-1].checked = true
	}
}

const (
	sidecarMagic   = "\x89IZOIDX\n"
	sidecarVersion = 1
	sidecarHead    = 64
	sidecarEntry   = 40
)

// sidecar is the file that keeps the marks of a log. Whatever is wrong with it
// only costs time: it is written again from the log.
type sidecar struct {
	own  *os.File // what to close
	f    *os.File // nil: there is none, or it can't be written
	head []byte
	n    int64 // entries in it
}

func newSidecar(f *os.File, h *Header) sidecar {
	b := make([]byte, sidecarHead)
	le := binary.LittleEndian
	copy(b, sidecarMagic)
	le.PutUint32(b[8:], sidecarVersion)
	le.PutUint32(b[12:], indexEvery)
	copy(b[16:], h.Owner[:])
	log := h.encode()
	le.PutUint32(b[32:], le.Uint32(log[headerSize-4:])) // says which log, base and all
	le.PutUint64(b[40:], uint64(h.Created))
	le.PutUint32(b[sidecarHead-4:], crc32.Checksum(b[:sidecarHead-4], castagnoli()))
	return sidecar{own: f, f: f, head: b}
}

// load reads the marks up to the first that can't be right for a log of this
// epoch and size. A sidecar of another log gives none.
func (s *sidecar) load(base Pos, epoch uint32, size int64) ([]mark, error) {
	if s.f == nil {
		return nil, nil
	}
	b, err := s.read(size)
	if err != nil {
		return nil, err
	}
	if len(b) < sidecarHead || string(b[:sidecarHead]) != string(s.head) {
		return nil, nil
	}
	var marks []mark
	last := mark{pos: base, off: headerSize}
	for b = b[sidecarHead:]; len(b) >= sidecarEntry; b = b[sidecarEntry:] {
		m, ok := s.decode(b[:sidecarEntry], epoch)
		if !ok || m.pos.Seq <= last.pos.Seq || m.off < last.off+indexEvery || m.off > size {
			break
		}
		marks = append(marks, m)
		last = m
	}
	s.n = int64(len(marks))
	return marks, nil
}

// read reads as much as an index of a log of this size can have.
func (s *sidecar) read(size int64) ([]byte, error) {
	w := window{f: s.f}
	most := sidecarHead + (size/indexEvery+1)*sidecarEntry
	st, err := s.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return w.bytes(0, int(min(st.Size(), most)))
}

func (s *sidecar) encode(m mark) []byte {
	b := make([]byte, sidecarEntry)
	le := binary.LittleEndian
	le.PutUint64(b, m.pos.Seq)
	le.PutUint64(b[8:], uint64(m.off))
	copy(b[16:], m.pos.Chain[:])
	le.PutUint32(b[36:], s.sum(b))
	return b
}

func (s *sidecar) decode(b []byte, epoch uint32) (m mark, ok bool) {
	le := binary.LittleEndian
	m = mark{pos: Pos{Epoch: epoch, Seq: le.Uint64(b), Chain: Chain(b[16:32])}, off: int64(le.Uint64(b[8:]))}
	return m, le.Uint32(b[32:]) == 0 && le.Uint32(b[36:]) == s.sum(b)
}

// sum is the checksum of an entry. It covers the head too, so that an entry that
// another log left behind is not taken for one of this.
func (s *sidecar) sum(entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(s.head, castagnoli()), castagnoli(), entry[:36])
}

// cut makes the sidecar have the first n entries and no more. If that fails, it
// is left alone from now on.
func (s *sidecar) cut(n int) {
	if s.f == nil {
		return
	}
	if err := s.f.Truncate(sidecarHead + int64(n)*sidecarEntry); err != nil {
		s.f = nil
		return
	}
	if n == 0 {
		if _, err := s.f.WriteAt(s.head, 0); err != nil {
			s.f = nil
		}
	}
	s.n = int64(n)
}

// append writes one more entry. If that fails, the sidecar is left alone from
// now on, and is completed when the log is opened again.
func (s *sidecar) append(m mark) {
	if s.f == nil {
		return
	}
	if _, err := s.f.WriteAt(s.encode(m), sidecarHead+s.n*sidecarEntry); err != nil {
		s.f = nil
		return
	}
	s.n++
}
