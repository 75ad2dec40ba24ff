package merge

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/intermezzofs/intermezzo/pkg/kml"
	"pgregory.net/rapid"
)

var origin = kml.UUID{5}

func closeOf(seq uint64, id kml.ObjectID, size int64) kml.Record {
	return kml.Record{Op: kml.OpClose, Seq: seq, Object: id, After: kml.Version{Size: size}}
}

func boundClose(seq uint64, id kml.ObjectID, size int64) kml.Record {
	r := closeOf(seq, id, size)
	r.Content.Root[0] = byte(seq)
	return r
}

func manifest(seq, closeSeq uint64, id kml.ObjectID, size int64) kml.Record {
	r := kml.Record{Op: kml.OpManifest, Seq: seq, Object: id, CloseSeq: closeSeq, After: kml.Version{Size: size}}
	r.Content.Root[0] = byte(closeSeq)
	return r
}

func TestFormer_Cases(t *testing.T) {
	removal := kml.Record{Op: kml.OpUnlink, Object: idF, Where: atRoot("f"), Last: true}
	oneOfTwo := kml.Record{Op: kml.OpUnlink, Object: idF, Where: atRoot("f")}
	over := kml.Record{Op: kml.OpRename, Object: idG, Where: atRoot("g"), To: atRoot("f"), Replaced: idF, ReplacedLast: true}
	overOne := kml.Record{Op: kml.OpRename, Object: idG, Where: atRoot("g"), To: atRoot("f"), Replaced: idF}
	linkOver := kml.Record{Op: kml.OpLink, Object: idG, Where: atRoot("g"), To: atRoot("f"), Replaced: idF, ReplacedLast: true}
	relink := kml.Record{Op: kml.OpLink, Object: idF, To: atRoot("f")}
	tests := []struct {
		name    string
		groups  [][]kml.Record // each by itself
		have    []uint64
		gone    []uint64
		cut     int
		missing []uint64
	}{
		{name: "nothing"},
		{name: "no content at all", groups: [][]kml.Record{{changes["mkdir D/x"]}, {changes["mv f f3"]}}, cut: 2},
		{name: "of no bytes", groups: [][]kml.Record{{closeOf(1, idF, 0)}}, cut: 1},
		{name: "content missing", groups: [][]kml.Record{{changes["mkdir D/x"]}, {boundClose(2, idF, 9)}, {changes["mv f f3"]}}, cut: 1, missing: []uint64{2}},
		{name: "content at hand", groups: [][]kml.Record{{boundClose(1, idF, 9)}, {changes["mv f f3"]}}, have: []uint64{1}, cut: 2},
		{name: "at hand but not bound", groups: [][]kml.Record{{closeOf(1, idF, 9)}}, have: []uint64{1}, cut: 0},
		{name: "bound but not at hand", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {manifest(2, 1, idF, 9)}}, cut: 0, missing: []uint64{1}},
		{name: "bound later", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {changes["noop"]}, {manifest(3, 1, idF, 9)}, {boundClose(4, idG, 1)}}, have: []uint64{1}, cut: 3, missing: []uint64{4}},
		{name: "manifest of something else", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {manifest(2, 7, idF, 9)}}, have: []uint64{1}, cut: 0},
		{name: "superseded by one at hand", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {boundClose(2, idF, 9)}}, have: []uint64{2}, cut: 2},
		{name: "superseded by one missing", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {boundClose(2, idF, 9)}}, cut: 0, missing: []uint64{2}},
		{name: "at hand, superseded by one missing", groups: [][]kml.Record{{boundClose(1, idF, 9)}, {boundClose(2, idF, 9)}}, have: []uint64{1}, cut: 1, missing: []uint64{2}},
		{name: "superseded by one of no bytes", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {closeOf(2, idF, 0)}}, cut: 2},
		{name: "superseded in its own group", groups: [][]kml.Record{{closeOf(1, idF, 9), boundClose(2, idF, 3)}}, have: []uint64{2}, cut: 1},
		{name: "removed", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {removal}}, cut: 2},
		{name: "one of two names removed", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {oneOfTwo}}, cut: 0, missing: []uint64{1}},
		{name: "replaced", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {over}}, cut: 2},
		{name: "replaced in one of two names", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {overOne}}, cut: 0, missing: []uint64{1}},
		{name: "replaced by a link", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {linkOver}}, cut: 2},
		{name: "moved over another", groups: [][]kml.Record{{closeOf(1, idG, 9)}, {over}}, cut: 0, missing: []uint64{1}},
		{name: "removed and given a name again", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {removal}, {relink}}, cut: 2, missing: []uint64{1}},
		{name: "removed, back, and at hand", groups: [][]kml.Record{{boundClose(1, idF, 9)}, {removal}, {relink}}, have: []uint64{1}, cut: 3},
		{name: "gone", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {boundClose(2, idG, 9)}}, gone: []uint64{1}, cut: 0, missing: []uint64{2}},
		{name: "gone and superseded", groups: [][]kml.Record{{closeOf(1, idF, 9)}, {boundClose(2, idF, 9)}}, gone: []uint64{1}, have: []uint64{2}, cut: 2},
		{name: "gone, and at hand after all", groups: [][]kml.Record{{boundClose(1, idF, 9)}}, gone: []uint64{1}, have: []uint64{1}, cut: 1},
		{name: "unknown to the run", groups: [][]kml.Record{{boundClose(1, idF, 9)}}, have: []uint64{3}, gone: []uint64{4}, cut: 0, missing: []uint64{1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := NewFormer()
			for _, records := range tt.groups {
				f.Add(&kml.Group{Origin: origin, Records: records})
			}
			for _, seq := range tt.gone {
				f.Gone(origin, seq)
			}
			for _, seq := range tt.have {
				f.Have(origin, seq)
				f.Have(kml.UUID{6}, seq) // another's is not meant
			}
			if got := f.Cut(); got != tt.cut {
				t.Errorf("cut at %d, want %d", got, tt.cut)
			}
			if got := f.Whole(); got != (tt.cut == len(tt.groups) && tt.cut > 0) {
				t.Errorf("whole: %v", got)
			}
			var missing []uint64
			for _, w := range f.Missing() {
				missing = append(missing, w.CloseSeq)
			}
			if !slices.Equal(missing, tt.missing) {
				t.Errorf("missing %v, want %v", missing, tt.missing)
			}
		})
	}
}

func TestFormer_MissingSaysWhatIsKnown(t *testing.T) {
	f := NewFormer()
	f.Add(&kml.Group{Origin: origin, Records: []kml.Record{closeOf(4, idF, 9)}})
	if got := f.Missing(); len(got) != 1 || got[0] != (Want{origin, 4, idF, kml.Content{}, 9}) {
		t.Fatalf("unbound: %+v", got)
	}
	m := manifest(5, 4, idF, 9)
	f.Add(&kml.Group{Origin: origin, Records: []kml.Record{m}})
	if got := f.Missing(); len(got) != 1 || got[0] != (Want{origin, 4, idF, m.Content, 9}) {
		t.Fatalf("bound: %+v", got)
	}
	f.Reset()
	if f.Len() != 0 || f.Whole() || f.Cut() != 0 || f.Missing() != nil {
		t.Error("not empty after Reset")
	}
}

func TestFormer_TakeRefusesWhatIsNoCut(t *testing.T) {
	f := NewFormer()
	f.Add(&kml.Group{Origin: origin, Records: []kml.Record{boundClose(1, idF, 9)}})
	f.Add(&kml.Group{Origin: origin, Records: []kml.Record{boundClose(2, idF, 9)}})
	f.Have(origin, 2)
	for _, n := range []int{-1, 1, 3} {
		if f.Take(n) {
			t.Errorf("took %d", n)
		}
	}
	if !f.Take(0) || !f.Take(2) || f.Len() != 0 {
		t.Error("did not take what it could")
	}
}

// writer is an origin: what it has under which name, and the log of how it came
// to that. A version is the number of the CLOSE.
type writer struct {
	roll   dice
	names  map[string]int // object
	last   map[int]uint64 // object: version
	size   map[uint64]int64
	log    []kml.Record
	states []map[string]uint64 // after each record: name to version
	closes []uint64
}

func (w *writer) id(object int) kml.ObjectID {
	return kml.ObjectID{Space: origin, Ino: uint64(object)}
}

func (w *writer) links(object int) (n int) {
	for _, o := range w.names {
		if o == object {
			n++
		}
	}
	return n
}

func (w *writer) write(r kml.Record) {
	r.Seq = uint64(len(w.log) + 1)
	w.log = append(w.log, r)
	if r.Op == kml.OpClose {
		w.last[int(r.Object.Ino)] = r.Seq
		w.size[r.Seq] = r.After.Size
		w.closes = append(w.closes, r.Seq)
	}
	state := make(map[string]uint64, len(w.names))
	for name, o := range w.names {
		state[name] = w.last[o]
	}
	w.states = append(w.states, state)
}

func (w *writer) step(objects *int) {
	name := []string{"a", "b", "c", "d"}[w.roll(4)]
	other := []string{"a", "b", "c", "d"}[w.roll(4)]
	object, there := w.names[name]
	victim, replaces := w.names[other]
	switch {
	case !there:
		*objects++
		w.names[name] = *objects
		w.write(kml.Record{Op: kml.OpCreate, Object: w.id(*objects), Where: atRoot(name)})
	case w.roll(7) == 0:
		delete(w.names, name)
		w.write(kml.Record{Op: kml.OpUnlink, Object: w.id(object), Where: atRoot(name), Last: w.links(object) == 0})
	case w.roll(6) == 0 && victim != object:
		r := kml.Record{Op: kml.OpRename, Object: w.id(object), Where: atRoot(name), To: atRoot(other)}
		delete(w.names, name)
		w.names[other] = object
		if replaces {
			r.Replaced, r.ReplacedLast = w.id(victim), w.links(victim) == 0
		}
		w.write(r)
	case w.roll(6) == 0 && !replaces:
		w.names[other] = object
		w.write(kml.Record{Op: kml.OpLink, Object: w.id(object), Where: atRoot(name), To: atRoot(other)})
	case w.roll(3) == 0 && len(w.closes) > 0:
		old := w.closes[w.roll(len(w.closes))]
		w.write(manifest(0, old, w.log[old-1].Object, w.size[old]))
	default:
		r := closeOf(0, w.id(object), int64(w.roll(4)))
		if w.roll(2) == 0 {
			r.Content.Root[0] = 1
		}
		w.write(r)
	}
}

// reader is a replica that performs units. bad stands for content that it can't
// have.
type reader struct {
	names map[string]kml.ObjectID
	has   map[kml.ObjectID]uint64
}

const bad = ^uint64(0)

func (d *reader) perform(unit []kml.Record, have map[uint64]bool) {
	bound := make(map[uint64]bool)
	for _, r := range unit {
		if r.Op == kml.OpManifest {
			bound[r.CloseSeq] = true
		}
	}
	for _, r := range unit {
		switch r.Op {
		case kml.OpCreate:
			d.names[r.Where.Name], d.has[r.Object] = r.Object, 0
		case kml.OpUnlink:
			delete(d.names, r.Where.Name)
		case kml.OpRename:
			delete(d.names, r.Where.Name)
			d.names[r.To.Name] = r.Object
		case kml.OpLink:
			d.names[r.To.Name] = r.Object
		case kml.OpClose:
			d.has[r.Object] = bad
			if r.After.Size == 0 || have[r.Seq] && (bound[r.Seq] || !r.Content.IsZero()) {
				d.has[r.Object] = r.Seq
			}
		}
	}
}

func (d *reader) state() map[string]uint64 {
	state := make(map[string]uint64, len(d.names))
	for name, id := range d.names {
		state[name] = d.has[id]
	}
	return state
}

// checkUnits lets a replica follow a random log, with content coming when it
// will: after every unit it has a state that the origin had, and the cut it is
// given is the furthest that the definition allows.
func checkUnits(roll dice) error {
	w := &writer{roll: roll, names: map[string]int{}, last: map[int]uint64{}, size: map[uint64]int64{}}
	objects := 0
	for range 2 + roll(40) {
		w.step(&objects)
	}
	f := NewFormer()
	d := &reader{names: map[string]kml.ObjectID{}, has: map[kml.ObjectID]uint64{}}
	have := make(map[uint64]bool)
	var run [][]kml.Record // of the Former
	done := 0              // records in d
	for next := 0; next < len(w.log) || roll(8) > 0; {
		if next < len(w.log) && roll(2) == 0 {
			n := min(1+roll(3), len(w.log)-next)
			records := w.log[next : next+n]
			f.Add(&kml.Group{Origin: origin, First: records[0].Seq, Last: records[n-1].Seq, Records: records})
			run, next = append(run, records), next+n
		} else if missing := f.Missing(); len(missing) > 0 {
			seq := missing[roll(len(missing))].CloseSeq
			if roll(3) == 0 {
				f.Gone(origin, seq)
			} else {
				f.Have(origin, seq)
				have[seq] = true
			}
		}
		cut := f.Cut()
		if want := furthest(run, have); cut != want {
			return fmt.Errorf("cut at %d of %d, want %d", cut, len(run), want)
		}
		if f.Whole() != (cut == len(run) && cut > 0) {
			return fmt.Errorf("whole: %v with a cut at %d of %d", f.Whole(), cut, len(run))
		}
		if cut == 0 || roll(2) == 0 {
			continue
		}
		unit := slices.Concat(run[:cut]...)
		d.perform(unit, have)
		done += len(unit)
		if !maps.Equal(d.state(), w.states[done-1]) {
			return fmt.Errorf("after %d records the replica has %v, the origin had %v", done, d.state(), w.states[done-1])
		}
		if !f.Take(cut) || f.Len() != len(run)-cut {
			return fmt.Errorf("did not take %d of %d", cut, len(run))
		}
		run = run[cut:]
	}
	return nil
}

// furthest is the definition of a cut, word by word.
func furthest(run [][]kml.Record, have map[uint64]bool) int {
	for n := len(run); n > 0; n-- {
		if isUnit(slices.Concat(run[:n]...), have) {
			return n
		}
	}
	return 0
}

func isUnit(unit []kml.Record, have map[uint64]bool) bool {
	for i, r := range unit {
		if r.Op != kml.OpClose || r.After.Size == 0 {
			continue
		}
		bound, settled := !r.Content.IsZero(), false
		for _, later := range unit[i+1:] {
			switch {
			case later.Op == kml.OpManifest && later.CloseSeq == r.Seq:
				bound = true
			case later.Op == kml.OpClose && later.Object == r.Object,
				later.Op == kml.OpUnlink && later.Object == r.Object && later.Last,
				later.Replaced == r.Object && later.ReplacedLast:
				settled = true
			}
		}
		if !settled && !(bound && have[r.Seq]) {
			return false
		}
	}
	return true
}

func TestFormer_UnitsAreStatesOfTheOrigin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := checkUnits(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "roll") }); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFormer_UnitsAreStatesOfTheOriginOften(t *testing.T) {
	for seed := range 3000 {
		if err := checkUnits(rand.New(rand.NewPCG(3, uint64(seed))).IntN); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// BenchmarkFormer is a long run that is held up by its first content.
func BenchmarkFormer(b *testing.B) {
	b.ReportAllocs()
	f := NewFormer()
	f.Add(&kml.Group{Origin: origin, Records: []kml.Record{boundClose(1, idF, 1)}})
	g := &kml.Group{Origin: origin, Records: []kml.Record{boundClose(1, idG, 1)}}
	seq := uint64(1)
	for b.Loop() {
		seq++
		g.Records[0].Seq, g.Records[0].Object.Ino = seq, seq+1000
		f.Add(g)
		f.Have(origin, seq)
		if f.Cut() != 0 || len(f.Missing()) != 1 {
			b.Fatal("not held up")
		}
	}
}
