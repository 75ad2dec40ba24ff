package merge

import (
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Optimise leaves out what cancels: files and directories that were made and
// removed again, contents and registers that were set again, links that were
// taken away again, and renames of what was renamed before. What lies between
// the first and the last record of an elision becomes one run, so that no state
// is ever seen that never was. The tree after the list is the same.
//
// The runs given are not changed. Runs that are Changed stay so. Cost is in
// proportion to the records.
func Optimise(runs []Run) []Run {
	o := newOptimiser(runs)
	o.lives()
	o.registers()
	o.times()
	return o.runs()
}

// Records of an object that is made and removed within the list go, unless it
// was exchanged, linked over, or a record that stays names it as a parent.
type optimiser struct {
	in    []Run
	recs  []optimised
	joins []int // joins[i] = j: everything from record i to record j is one run
	lifes map[kml.ObjectID]*life
	extra map[int][]kml.Record // behind a record
}

type optimised struct {
	r    kml.Record
	run  int
	gone bool
	bent bool
}

// life is what the list tells of an object.
type life struct {
	recs        []int // records about it, as Object or as Replaced
	born, died  int   // -1: not in the list
	inside      []int // records that name it as a parent
	complicated bool
}

func newOptimiser(runs []Run) *optimiser {
	o := &optimiser{in: runs, lifes: make(map[kml.ObjectID]*life), extra: make(map[int][]kml.Record)}
	for i := range runs {
		for _, r := range runs[i].Records {
			o.recs = append(o.recs, optimised{r: r, run: i})
		}
	}
	o.joins = make([]int, len(o.recs))
	for i := range o.recs {
		o.joins[i] = i
		o.note(i, &o.recs[i].r)
	}
	return o
}

func (o *optimiser) life(id kml.ObjectID) *life {
	l := o.lifes[id]
	if l == nil {
		l = &life{born: -1, died: -1}
		o.lifes[id] = l
	}
	return l
}

func (o *optimiser) note(i int, r *kml.Record) {
	l := o.life(r.Object)
	l.recs = append(l.recs, i)
	if !r.Replaced.IsZero() && r.Op != kml.OpConflict {
		p := o.life(r.Replaced)
		p.recs = append(p.recs, i)
		if r.ReplacedLast {
			p.died = i
		}
	}
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		l.complicated = l.complicated || l.born >= 0 || l.died >= 0
		l.born = i
		o.inside(i, r.Where.Parent)
	case kml.OpUnlink, kml.OpRmdir:
		if r.Last || r.Op == kml.OpRmdir {
			l.died = i
		}
		o.inside(i, r.Where.Parent)
	case kml.OpLink:
		l.complicated = l.complicated || !r.Replaced.IsZero()
		o.inside(i, r.To.Parent)
	case kml.OpRename, kml.OpExchange:
		o.inside(i, r.Where.Parent)
		o.inside(i, r.To.Parent)
		if r.Op == kml.OpExchange {
			l.complicated = true
			o.life(r.Replaced).complicated = true
		}
	case kml.OpConflict, kml.OpResolved, kml.OpWrite:
		l.complicated = true
	}
}

func (o *optimiser) inside(i int, dir kml.ObjectID) {
	l := o.life(dir)
	l.inside = append(l.inside, i)
}

// lives leaves out objects that were made and removed, in the order in which they
// died, so that what was in a directory goes before it.
func (o *optimiser) lives() {
	var dead []kml.ObjectID
	for id, l := range o.lifes {
		if l.born >= 0 && l.died > l.born && !l.complicated {
			dead = append(dead, id)
		}
	}
	slices.SortFunc(dead, func(a, b kml.ObjectID) int {
		if d := o.lifes[a].died - o.lifes[b].died; d != 0 {
			return d
		}
		return compareIDs(a, b)
	})
	for _, id := range dead {
		o.forget(id, o.lifes[id])
	}
}

// forget leaves out all records of an object, if that is possible.
func (o *optimiser) forget(id kml.ObjectID, l *life) {
	for _, i := range l.inside {
		if !o.recs[i].gone {
			return
		}
	}
	var over []int // renames by which it replaced others
	for _, i := range l.recs {
		if r := &o.recs[i].r; r.Object == id && !r.Replaced.IsZero() && !o.recs[i].gone {
			over = append(over, i)
		}
	}
	heir := o.recs[l.died].r.Op == kml.OpRename
	switch {
	case len(over) == 0:
	case len(over) == 1 && heir && o.keepsName(id, l, over[0]):
		// It replaced one, and was replaced there: its successor replaces that.
		first, last := &o.recs[over[0]].r, &o.recs[l.died].r
		last.Replaced, last.ReplacedLast = first.Replaced, first.ReplacedLast
		o.recs[l.died].bent = true
		p := o.lifes[first.Replaced]
		p.recs = append(p.recs, l.died)
		if p.died == over[0] {
			p.died = l.died
		}
		o.drop(id, l)
		return
	default:
		return
	}
	for _, i := range l.recs {
		if d := &o.recs[i]; d.r.Replaced == id {
			d.r.Replaced, d.r.ReplacedLast, d.bent = kml.ObjectID{}, false, true
		}
	}
	o.drop(id, l)
}

// keepsName reports whether an object stays, under its only name, where the rename
// i brought it, until it dies there, and whether nothing else is done meanwhile to
// who it replaced.
func (o *optimiser) keepsName(id kml.ObjectID, l *life, i int) bool {
	to := o.recs[i].r.To
	if o.recs[l.died].r.To != to {
		return false
	}
	for _, k := range l.recs {
		switch r := &o.recs[k].r; {
		case r.Op == kml.OpLink, r.Op == kml.OpUnlink:
			return false
		case r.Op == kml.OpRename && r.Object == id && k > i, r.Replaced == id && k < l.died:
			return false
		}
	}
	for _, k := range o.lifes[o.recs[i].r.Replaced].recs {
		if k > i && k <= l.died && !o.recs[k].gone {
			return false
		}
	}
	return true
}

// drop takes out the records of an object that has no part in others.
func (o *optimiser) drop(id kml.ObjectID, l *life) {
	for _, i := range l.recs {
		if o.recs[i].r.Object == id {
			o.recs[i].gone = true
		}
	}
	o.join(l.born, l.died)
}

func (o *optimiser) join(i, j int) { o.joins[i] = max(o.joins[i], j) }

// register is one thing that a record sets anew, whatever it was.
type register struct {
	id   kml.ObjectID
	kind Facet
	name string
}

// registers leaves out contents and attributes that are set again.
func (o *optimiser) registers() {
	acl := make(map[kml.ObjectID]bool)
	for i := range o.recs {
		r := &o.recs[i].r
		acl[r.Object] = acl[r.Object] || r.Xattr.Name == xattrACL || slices.ContainsFunc(r.Xattrs, func(x kml.Xattr) bool { return x.Name == xattrACL })
	}
	bound := make(map[uint64]int) // MANIFEST of a CLOSE
	for i := range o.recs {
		if r := &o.recs[i].r; r.Op == kml.OpManifest {
			bound[r.CloseSeq] = i
		}
	}
	last := make(map[kml.ObjectID]int)
	attrs := make(map[register]int)
	for i := range o.recs {
		e := &o.recs[i]
		if e.gone {
			continue
		}
		switch e.r.Op {
		case kml.OpClose:
			o.closeAgain(i, last, bound, attrs)
		case kml.OpSetattr:
			// A change of owner clears bits and the capability: it is left alone.
			if e.r.Valid&^(kml.ValidMode|kml.ValidMtime) == 0 && !acl[e.r.Object] {
				o.setAgain(i, attrs)
				delete(last, e.r.Object)
			} else {
				o.barrier(e.r.Object, attrs, last)
			}
		case kml.OpSetxattr, kml.OpDelxattr:
			if e.r.Xattr.Name == xattrACL || e.r.Xattr.Name == xattrCapability {
				o.barrier(e.r.Object, attrs, last)
			} else {
				o.setXattrAgain(i, attrs)
			}
		default:
			o.barrierOf(&e.r, attrs, last)
		}
	}
}

// barrier makes what was set so far stay.
func (o *optimiser) barrier(id kml.ObjectID, attrs map[register]int, last map[kml.ObjectID]int) {
	delete(attrs, register{id: id, kind: FacetMode})
	delete(last, id)
}

// barrierOf keeps what a record about names says of an object as it was.
func (o *optimiser) barrierOf(r *kml.Record, attrs map[register]int, last map[kml.ObjectID]int) {
	if r.Op == kml.OpUnlink || r.Op == kml.OpRmdir {
		o.barrier(r.Object, attrs, last)
	}
}

// closeAgain leaves out the CLOSE before this one.
func (o *optimiser) closeAgain(i int, last map[kml.ObjectID]int, bound map[uint64]int, attrs map[register]int) {
	r := &o.recs[i].r
	if was, ok := last[r.Object]; ok && o.recs[was].r.Attr.Mode == 0 {
		w := &o.recs[was]
		w.gone = true
		if k, ok := bound[w.r.Seq]; ok {
			o.recs[k].gone = true
		}
		r.Before, o.recs[i].bent = w.r.Before, true
		o.join(was, i)
	}
	last[r.Object] = i
	delete(attrs, register{id: r.Object, kind: FacetMode})
}

// setAgain leaves out the SETATTR before this one, if this sets all that it did.
func (o *optimiser) setAgain(i int, attrs map[register]int) {
	r := &o.recs[i].r
	key := register{id: r.Object, kind: FacetMode}
	if was, ok := attrs[key]; ok {
		w := &o.recs[was]
		if w.r.Valid&^r.Valid == 0 {
			w.gone, o.recs[i].bent = true, true
			if w.r.Valid&kml.ValidMode != 0 {
				r.Old.Mode = w.r.Old.Mode
			}
			if w.r.Valid&kml.ValidMtime != 0 {
				r.Old.Mtime = w.r.Old.Mtime
			}
			o.join(was, i)
		}
	}
	attrs[key] = i
}

// setXattrAgain leaves out the setting of an xattr before this one, and both if
// there is none in the end as there was none before.
func (o *optimiser) setXattrAgain(i int, attrs map[register]int) {
	e := &o.recs[i]
	key := register{id: e.r.Object, kind: FacetXattr, name: e.r.Xattr.Name}
	if was, ok := attrs[key]; ok {
		w := &o.recs[was]
		w.gone, e.bent = true, true
		e.r.OldXattr = w.r.OldXattr
		o.join(was, i)
		if e.r.Op == kml.OpDelxattr && e.r.OldXattr == nil {
			e.gone = true
			delete(attrs, key)
			return
		}
	}
	attrs[key] = i
}

// times keeps the times of directories of which a changing record was left out:
// if none that stays in its run comes after it, the time is set by itself.
func (o *optimiser) times() {
	stamped := make(map[kml.ObjectID]int) // the last record that stays and sets the time of a directory
	for i := range o.recs {
		if !o.recs[i].gone {
			stamps(&o.recs[i].r, func(dir kml.ObjectID, _ int64) { stamped[dir] = i })
		}
	}
	seen := make(map[kml.ObjectID]bool)
	for i := len(o.recs) - 1; i >= 0; i-- {
		e := &o.recs[i]
		if !e.gone {
			continue
		}
		r := e.r
		stamps(&r, func(dir kml.ObjectID, mtime int64) {
			if at, ok := stamped[dir]; seen[dir] || ok && at > i || !o.remains(dir) {
				return
			}
			seen[dir] = true
			o.put(i, kml.Record{Op: kml.OpSetattr, Time: r.Time, Cred: r.Cred,
				Object: dir, Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: mtime}})
		})
	}
}

// put gives a record the place, and the number, of one that was left out: that at
// i or the next. Only if there is none it shares a number.
func (o *optimiser) put(i int, r kml.Record) {
	for k, end := i, o.ends()[i]; k <= end; k++ {
		if e := &o.recs[k]; e.gone {
			r.Seq = e.r.Seq
			e.r, e.gone, e.bent = r, false, true
			return
		}
	}
	r.Seq = o.recs[i].r.Seq
	o.extra[i] = append(o.extra[i], r)
}

// remains reports whether a directory is there after the list.
func (o *optimiser) remains(id kml.ObjectID) bool {
	l := o.lifes[id]
	return l == nil || l.died < 0 || l.born > l.died
}

// stamps calls add for every directory whose time r sets.
func stamps(r *kml.Record, add func(kml.ObjectID, int64)) {
	one := func(id kml.ObjectID, v kml.Version) {
		if v != (kml.Version{}) {
			add(id, v.Mtime)
		}
	}
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod, kml.OpUnlink, kml.OpRmdir:
		one(r.Where.Parent, r.ParentAfter)
	case kml.OpLink:
		one(r.To.Parent, r.ToAfter)
	case kml.OpRename, kml.OpExchange:
		one(r.Where.Parent, r.ParentAfter)
		if r.To.Parent != r.Where.Parent {
			one(r.To.Parent, r.ToAfter)
		}
	case kml.OpSetattr:
		if r.Valid&kml.ValidMtime != 0 {
			add(r.Object, r.Attr.Mtime)
		}
	}
}

// ends gives, for each record, the last record of the run that it comes to be in.
func (o *optimiser) ends() []int {
	n := len(o.joins)
	ends := make([]int, n)
	for i := 0; i < n; {
		end := o.joins[i]
		for k := i; k <= end; k++ {
			end = max(end, o.joins[k])
			for end+1 < n && o.recs[end+1].run == o.recs[end].run {
				end++ // a run that was one stays one
			}
		}
		for ; i <= end; i++ {
			ends[i] = end
		}
	}
	return ends
}

func (o *optimiser) runs() []Run {
	n := len(o.joins)
	ends := o.ends()
	var out []Run
	for i, next := 0, 0; i < n; i = next {
		end := ends[i]
		run := Run{First: o.in[o.recs[i].run].First, Last: o.in[o.recs[end].run].Last}
		for k := i; k <= end; k++ {
			run.Changed = run.Changed || o.recs[k].gone || o.recs[k].bent || o.in[o.recs[k].run].Changed
			if !o.recs[k].gone {
				run.Records = append(run.Records, o.recs[k].r)
			}
			run.Records = append(run.Records, o.extra[k]...)
		}
		out, next = append(out, run), end+1
	}
	return o.cover(out)
}

// cover gives the numbers of runs that had no records, and of those that have
// none left, to the run that follows.
func (o *optimiser) cover(out []Run) []Run {
	if len(o.in) == 0 {
		return nil
	}
	next := o.in[0].First
	for i := range out {
		if out[i].First != next {
			out[i].First, out[i].Changed = next, true
		}
		next = out[i].Last + 1
	}
	if last := o.in[len(o.in)-1].Last; next <= last {
		out = append(out, Run{First: next, Last: last, Changed: true})
	}
	return absorb(out)
}
