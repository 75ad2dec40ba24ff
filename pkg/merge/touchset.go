package merge

import (
	"fmt"
	"hash/maphash"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// TouchSet is what a number of records touch, to be asked whether others
// overlap with them. presto keeps one of its own records that are not yet
// confirmed, under their numbers in the KML; the server makes one of the
// groups of others since the position a push was made on, under positions.
//
// It holds 64-bit hashes of keys, not the keys: two keys with one hash make an
// overlap where none is, which is allowed, and does not happen in practice.
type TouchSet struct {
	seed  maphash.Seed
	keys  map[uint64]touch
	floor uint64 // what has a lower or this number is forgotten
	swept uint64 // the floor when keys was last cleaned
	last  uint64 // highest number that was added
}

// touch says which record was the last to write and to need a key; see stamp.
type touch struct{ write, need stamp }

// stamp is a record's number and opcode in one word: number<<8 | opcode. 0 is
// nobody.
type stamp uint64

func newStamp(seq uint64, op kml.Op) stamp { return stamp(seq<<8 | uint64(op)) }
func (s stamp) seq() uint64                { return uint64(s) >> 8 }
func (s stamp) op() kml.Op                 { return kml.Op(s & 0xff) }

// NewTouchSet returns an empty set.
func NewTouchSet() *TouchSet {
	return &TouchSet{seed: maphash.MakeSeed(), keys: make(map[uint64]touch)}
}

// Overlap is a key at which two records meet, and how each touches it. Held is
// the record in the TouchSet, Met the one that was asked about.
type Overlap struct {
	Key      Key
	Held     Touch
	Met      Touch
	MetIndex int // of the record in the group asked about
}

// Touch is one side of an Overlap. Seq is the number that the record was added
// under, for Held, and the record's own for Met.
type Touch struct {
	Seq  uint64
	Op   kml.Op
	Mode Mode
}

func (o Overlap) String() string {
	return fmt.Sprintf("%v: record %d (%v) %v it, record %d (%v) %v it", o.Key,
		o.Held.Seq, o.Held.Op, o.Held.Mode, o.Met.Seq, o.Met.Op, o.Met.Mode)
}

// AddRecord adds what r touches, under the number seq (from 1, below 2^56).
func (t *TouchSet) AddRecord(seq uint64, r *kml.Record) {
	s := newStamp(seq, r.Op)
	Touches(r, func(k Key, m Mode) { t.note(k, m, s) })
	DirTimes(r, func(dir kml.ObjectID) { t.note(of(dirTimes, dir), Write, s) })
	t.last = max(t.last, seq)
}

// Add adds all records of g under the number seq.
func (t *TouchSet) Add(seq uint64, g *kml.Group) {
	for i := range g.Records {
		t.AddRecord(seq, &g.Records[i])
	}
}

func (t *TouchSet) note(k Key, m Mode, s stamp) {
	h := t.hash(k)
	e := t.keys[h]
	if m == Write {
		e.write = max(e.write, s)
	} else {
		e.need = max(e.need, s)
	}
	t.keys[h] = e
}

func (t *TouchSet) hash(k Key) uint64 { return maphash.Comparable(t.seed, k) }

// OverlapsRecord reports whether r overlaps with a record of the set, and where.
func (t *TouchSet) OverlapsRecord(r *kml.Record) (Overlap, bool) {
	return t.OverlapsAfter(t.floor, r)
}

// OverlapsAfter is OverlapsRecord with the records that were added under numbers
// higher than after.
func (t *TouchSet) OverlapsAfter(after uint64, r *kml.Record) (Overlap, bool) {
	if len(t.keys) == 0 {
		return Overlap{}, false
	}
	after = max(after, t.floor)
	var o Overlap
	found := false
	Touches(r, func(k Key, m Mode) {
		if found {
			return
		}
		e := t.keys[t.hash(k)]
		switch {
		case e.write.seq() > after:
			o.Held = Touch{Seq: e.write.seq(), Op: e.write.op(), Mode: Write}
		case m == Write && e.need.seq() > after:
			o.Held = Touch{Seq: e.need.seq(), Op: e.need.op(), Mode: Need}
		default:
			return
		}
		o.Key, o.Met, found = k, Touch{Seq: r.Seq, Op: r.Op, Mode: m}, true
	})
	return o, found
}

// Overlaps reports whether any record of g overlaps with a record of the set.
func (t *TouchSet) Overlaps(g *kml.Group) (Overlap, bool) {
	for i := range g.Records {
		if o, ok := t.OverlapsRecord(&g.Records[i]); ok {
			o.MetIndex = i
			return o, true
		}
	}
	return Overlap{}, false
}

// DirTouched reports whether a record of the set sets the times of the directory
// dir, by changing an entry or by setting its mtime. A record that comes from
// elsewhere and goes beneath those of the set must then leave the mtime of dir
// alone, whether it would change an entry or set the mtime itself.
func (t *TouchSet) DirTouched(dir kml.ObjectID) bool {
	return t.keys[t.hash(of(dirTimes, dir))].write.seq() > t.floor
}

// Empty reports whether nothing is in the set.
func (t *TouchSet) Empty() bool { return t.last <= t.floor }

// Forget takes out the records that were added under numbers up to upTo. It may
// be called after every confirmation: memory is given back now and then, at a
// cost in proportion to what is forgotten.
func (t *TouchSet) Forget(upTo uint64) {
	t.floor = max(t.floor, upTo)
	if t.floor >= t.last {
		// A map keeps the room of its greatest size, so take a new one.
		if len(t.keys) > 0 {
			t.keys = make(map[uint64]touch)
		}
		t.swept = t.floor
		return
	}
	if t.floor-t.swept >= t.last-t.floor {
		t.sweep()
	}
}

// sweep leaves only what is above the floor.
func (t *TouchSet) sweep() {
	kept := make(map[uint64]touch)
	for h, e := range t.keys {
		if e.write.seq() > t.floor || e.need.seq() > t.floor {
			kept[h] = e
		}
	}
	t.keys, t.swept = kept, t.floor
}
