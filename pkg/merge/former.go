package merge

import (
	"container/list"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Former finds units in a run of groups: it is fed with the groups in order and
// told which contents are at hand, and says after which groups a cut leaves a
// state that the origin really had.
//
// A CLOSE stands in the way of a cut unless, in the groups up to the cut,
//   - it is bound, at birth or by a MANIFEST, and its content is at hand, or
//   - its object was closed again (that CLOSE counts then), or
//   - its object lost its last name, or
//   - it is of no bytes.
//
// Adding a group costs time in proportion to its records, all else the logarithm
// of the run's length.
type Former struct {
	groups  int // in the run
	blocked int // CLOSEs in the way of a cut at the end
	cover   cover
	closes  map[closeName]*closing
	latest  map[kml.ObjectID]*closing // the last CLOSE of an object in the run
	born    []*closing                // all of closes, in order
	wanted  *list.List                // of *closing: what Missing answers
}

// Want is content that has to be at hand for a cut further on. Content is zero
// while the CLOSE is not bound yet. Size is in bytes.
type Want struct {
	Origin   kml.UUID
	CloseSeq uint64
	Object   kml.ObjectID
	Content  kml.Content
	Size     int64
}

type closeName struct {
	origin kml.UUID
	seq    uint64
}

// closing is a CLOSE in the run. It stands in the way of cuts from the group
// with index from on, to before the group until; while until is open, without
// end.
type closing struct {
	Want
	from, until int
	bound       int // index of the group that bound it, open: not bound
	have, gone  bool
	lost        bool          // until is where the object lost its last name
	want        *list.Element // in Former.wanted, nil: not wanted
}

const open = int(^uint(0) >> 1)

// NewFormer returns a Former with an empty run.
func NewFormer() *Former {
	f := &Former{}
	f.Reset()
	return f
}

// Reset makes the run empty.
func (f *Former) Reset() {
	*f = Former{
		closes: make(map[closeName]*closing),
		latest: make(map[kml.ObjectID]*closing),
		wanted: list.New(),
	}
}

// Len is the number of groups in the run.
func (f *Former) Len() int { return f.groups }

// Whole reports whether the whole run is a unit. An empty run is none.
func (f *Former) Whole() bool { return f.groups > 0 && f.blocked == 0 }

// Cut returns how many groups from the start of the run make the longest unit,
// 0 if there is none yet.
func (f *Former) Cut() int {
	if f.blocked == 0 {
		return f.groups
	}
	return f.cover.lastZero() + 1
}

// Add appends g to the run. It keeps nothing of g.
func (f *Former) Add(g *kml.Group) {
	for i := range g.Records {
		f.add(g.Origin, &g.Records[i])
	}
	f.cover.push(f.blocked)
	f.groups++
}

func (f *Former) add(origin kml.UUID, r *kml.Record) {
	switch r.Op {
	case kml.OpClose:
		f.addClose(origin, r)
	case kml.OpManifest:
		if c := f.closes[closeName{origin, r.CloseSeq}]; c != nil && c.bound == open {
			c.bound, c.Content, c.Size = f.groups, r.Content, r.After.Size
			f.ready(c)
		}
	case kml.OpUnlink:
		if r.Last {
			f.lose(r.Object)
		}
	case kml.OpRmdir:
		f.lose(r.Object)
	case kml.OpRename, kml.OpLink:
		f.found(r.Object)
		if r.ReplacedLast {
			f.lose(r.Replaced)
		}
	}
}

func (f *Former) addClose(origin kml.UUID, r *kml.Record) {
	if old := f.latest[r.Object]; old != nil {
		f.settle(old)
		delete(f.latest, r.Object)
	}
	if r.After.Size == 0 {
		return
	}
	c := &closing{bound: open, Want: Want{
		Origin: origin, CloseSeq: r.Seq, Object: r.Object, Content: r.Content, Size: r.After.Size,
	}}
	if !r.Content.IsZero() {
		c.bound = f.groups
	}
	f.block(c)
}

// block puts c into the run, in the way of cuts from the group being added on.
func (f *Former) block(c *closing) {
	c.from, c.until = f.groups, open
	f.blocked++
	f.closes[closeName{c.Origin, c.CloseSeq}] = c
	f.latest[c.Object] = c
	f.born = append(f.born, c)
	if !c.gone {
		c.want = f.wanted.PushBack(c)
	}
}

// settle ends c's standing in the way, from the group being added on.
func (f *Former) settle(c *closing) {
	if c.until != open {
		return
	}
	c.until = f.groups
	f.blocked--
	f.unwant(c)
}

func (f *Former) unwant(c *closing) {
	if c.want != nil {
		f.wanted.Remove(c.want)
		c.want = nil
	}
}

// lose is for an object whose last name is gone.
func (f *Former) lose(id kml.ObjectID) {
	if c := f.latest[id]; c != nil {
		f.settle(c)
		c.lost = true
	}
}

// found is for an object that is given a name. One that had lost its last name
// in the run is back, and its content is needed once more.
func (f *Former) found(id kml.ObjectID) {
	c := f.latest[id]
	if c == nil || !c.lost {
		return
	}
	again := &closing{Want: c.Want, bound: c.bound, have: c.have, gone: c.gone}
	f.block(again)
	f.ready(again)
}

// ready takes c out of the way of the cuts from its binding on, if it is bound
// and its content is at hand.
func (f *Former) ready(c *closing) {
	if c.bound == open || !c.have && c.Size > 0 {
		return
	}
	from := max(c.from, c.bound)
	f.cover.add(from, min(c.until, f.groups), -1)
	if c.until == open {
		f.blocked--
	}
	c.until = min(c.until, from)
	f.unwant(c)
}

// Missing returns what has to be at hand for a cut at the end of the run, in
// order, without what is Gone.
func (f *Former) Missing() []Want {
	if f.wanted.Len() == 0 {
		return nil
	}
	out := make([]Want, 0, f.wanted.Len())
	for e := f.wanted.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*closing).Want)
	}
	return out
}

// Have says that the content of a CLOSE in the run is at hand. It is without
// effect for one that is not in the run.
func (f *Former) Have(origin kml.UUID, closeSeq uint64) {
	c := f.closes[closeName{origin, closeSeq}]
	if c == nil || c.have {
		return
	}
	c.have = true
	f.unwant(c)
	f.ready(c)
}

// Gone says that the content of a CLOSE in the run can't be had any more, so
// that only a later CLOSE of the object, or the loss of its last name, will do.
func (f *Former) Gone(origin kml.UUID, closeSeq uint64) {
	if c := f.closes[closeName{origin, closeSeq}]; c != nil {
		c.gone = true
		f.unwant(c)
	}
}

// Take removes the first n groups from the run, if a cut is possible there (as
// at n = Cut()), and reports whether it was.
func (f *Former) Take(n int) bool {
	if n <= 0 || n > f.groups || f.cover.at(n-1) != 0 {
		return n == 0
	}
	i := 0
	for ; i < len(f.born) && f.born[i].from < n; i++ {
		f.drop(f.born[i])
	}
	f.born = append([]*closing(nil), f.born[i:]...)
	for _, c := range f.born {
		c.from -= n
		c.until = shift(c.until, n)
		c.bound = shift(c.bound, n)
	}
	f.cover.drop(n)
	f.groups -= n
	return true
}

// drop forgets a CLOSE, unless another stands under its names by now.
func (f *Former) drop(c *closing) {
	name := closeName{c.Origin, c.CloseSeq}
	if f.closes[name] == c {
		delete(f.closes, name)
	}
	if f.latest[c.Object] == c {
		delete(f.latest, c.Object)
	}
	f.unwant(c)
}

func shift(i, n int) int {
	if i == open {
		return open
	}
	return max(i-n, 0)
}
