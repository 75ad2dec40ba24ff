package merge

import (
	"fmt"
	"reflect"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Merge puts foreign groups beneath our pending records.
//
// It keeps five states of the tree, each a thin layer over another: the local
// tree as it is; the prefix both sides know (pending records undone); theirs
// (the prefix and the foreign groups); ours as it was when each pending record
// was made; and the merged one, theirs with what has become of our records. Our
// records are replayed as intentions one by one, each in as much of its old form
// as the merged state allows. What is to be done here is the difference between
// the merged state and the local tree.
//
// Cost is in proportion to the records on both sides.
func Merge(in Input) (*Result, error) {
	m, err := newMerger(in)
	if err != nil {
		return nil, err
	}
	if err := m.undoPending(); err != nil {
		return nil, err
	}
	if err := m.applyForeign(); err != nil {
		return nil, err
	}
	if err := m.replay(); err != nil {
		return nil, err
	}
	if err := m.pinTimes(); err != nil {
		return nil, err
	}
	steps := m.steps()
	if m.env.err != nil {
		return nil, fmt.Errorf("merge: ask the tree: %w", m.env.err)
	}
	if !m.env.need.empty() {
		return nil, &m.env.need
	}
	out := &Result{Steps: steps}
	out.Pending, out.Conflicts = m.collect()
	return out, nil
}

type merger struct {
	in  Input
	env *env

	local  *state // as it is
	base   *state // the prefix
	theirs *state // and the foreign groups
	ours   *state // the prefix and our records so far, as they were
	merged *state // theirs and what became of our records

	heir  map[kml.ObjectID]kml.ObjectID // theirs: who took the name and place of an object by rename-over
	same  map[kml.ObjectID]kml.ObjectID // an object of ours is one of theirs
	fork  map[kml.ObjectID]kml.ObjectID // our copy of an object whose content both changed
	moved map[kml.Name]*link            // where theirs moved a name of the prefix
	at    map[kml.Name][]kml.Name       // names of the prefix that are at a name of theirs
	touch map[kml.ObjectID]bool         // directories whose mtime theirs set by itself
	links map[kml.Name]*link            // what became of a name that ours has
	side  map[kml.ObjectID]*Side        // the last foreign record about an object
	done  map[conflictKey]bool          // conflicts that are settled elsewhere
	close map[uint64]kml.ObjectID       // what became of our CLOSEs: whose they are, zero: dropped

	bent  map[kml.ObjectID]bool     // of which not all our records were kept as they were
	roots map[closeName]kml.Content // what MANIFESTs of either side say
	held  map[uint64]Bytes          // what a CLOSE that was made for a revived object names

	runs   []Run // new pending list
	found  []*found
	listed map[conflictName]*found
	cause  *kml.Record
}

// link is a name of ours in the merged state: it leads to obj and is at a
// certain name there, none if it is gone.
type link struct {
	obj   kml.ObjectID
	at    kml.Name
	moved bool // by them
	named *found
}

// found is a conflict that may still go away.
type found struct {
	Conflict
	run   int
	void  bool
	cause *kml.Record
}

// conflictName is what makes two conflicts of a merge one.
type conflictName struct {
	kind   Kind
	object kml.ObjectID
	to     kml.Name
}

type conflictKey struct {
	object kml.ObjectID
	seq    uint64
}

func newMerger(in Input) (*merger, error) {
	e := &env{tree: in.Tree, own: in.Own, asked: map[kml.ObjectID]*Object{}, last: map[kml.ObjectID]Bytes{},
		names: map[kml.ObjectID]map[string]struct{}{}}
	m := &merger{in: in, env: e, heir: map[kml.ObjectID]kml.ObjectID{}, same: map[kml.ObjectID]kml.ObjectID{},
		fork: map[kml.ObjectID]kml.ObjectID{}, moved: map[kml.Name]*link{}, at: map[kml.Name][]kml.Name{},
		touch: map[kml.ObjectID]bool{}, links: map[kml.Name]*link{}, side: map[kml.ObjectID]*Side{},
		done: map[conflictKey]bool{}, close: map[uint64]kml.ObjectID{},
		roots: map[closeName]kml.Content{}, listed: map[conflictName]*found{}, held: map[uint64]Bytes{}, bent: map[kml.ObjectID]bool{}}
	m.local = newState(nil, e)
	m.base = newState(m.local, e)
	m.theirs, m.ours = newState(m.base, e), newState(m.base, e)
	m.merged = newState(m.theirs, e)
	for i := range in.Foreign {
		g := &in.Foreign[i]
		if g.Origin == in.Own {
			return nil, fmt.Errorf("merge: group %d-%d is our own: it has to be confirmed, not merged", g.First, g.Last)
		}
		for j := range g.Records {
			if what := supported(&g.Records[j]); what != "" {
				return nil, &UnsupportedError{g.Records[j].Seq, g.Records[j].Op, what}
			}
			if r := &g.Records[j]; r.Op == kml.OpManifest {
				m.roots[closeName{g.Origin, r.CloseSeq}] = r.Content
			}
		}
	}
	return m, m.readPending()
}

// readPending checks our records and notes which content each object has.
func (m *merger) readPending() error {
	var last uint64
	for i := range m.in.Pending {
		run := &m.in.Pending[i]
		if run.First == 0 || run.Last < run.First || i > 0 && run.First != last+1 {
			return fmt.Errorf("merge: pending run %d-%d does not follow %d", run.First, run.Last, last)
		}
		last = run.Last
		for j := range run.Records {
			r := &run.Records[j]
			if what := supported(r); what != "" {
				return &UnsupportedError{r.Seq, r.Op, what}
			}
			switch r.Op {
			case kml.OpClose:
				m.env.last[r.Object] = Bytes{Origin: m.in.Own, CloseSeq: r.Seq, Size: r.After.Size, Content: r.Content}
			case kml.OpManifest:
				m.roots[closeName{m.in.Own, r.CloseSeq}] = r.Content
			}
		}
	}
	return nil
}

func (m *merger) undoPending() error {
	for i := len(m.in.Pending) - 1; i >= 0; i-- {
		records := m.in.Pending[i].Records
		for j := len(records) - 1; j >= 0; j-- {
			if err := m.base.undo(&records[j]); err != nil {
				return fmt.Errorf("undo pending record %d (%v): %w", records[j].Seq, records[j].Op, err)
			}
		}
	}
	return nil
}

func (m *merger) applyForeign() error {
	for i := range m.in.Foreign {
		g := &m.in.Foreign[i]
		for j := range g.Records {
			r := &g.Records[j]
			m.follow(r)
			if err := m.theirs.apply(g.Origin, r); err != nil {
				return fmt.Errorf("foreign record %d of %v (%v): %w", r.Seq, g.Origin, r.Op, err)
			}
			m.note(g.Origin, r)
		}
	}
	return nil
}

// note keeps what a conflict will say of a foreign record.
func (m *merger) note(origin kml.UUID, r *kml.Record) {
	s := &Side{Origin: origin, Seq: r.Seq, Op: r.Op, Time: r.Time, UID: r.Cred.FSUID, Name: r.Where.Name}
	for _, id := range []kml.ObjectID{r.Object, r.Replaced, r.Where.Parent, r.To.Parent} {
		if !id.IsZero() {
			m.side[id] = s
		}
	}
	switch r.Op {
	case kml.OpSetattr:
		if r.Valid&kml.ValidMtime != 0 {
			m.touch[r.Object] = true
		}
	case kml.OpResolved:
		m.done[conflictKey{r.Object, r.CloseSeq}] = true
	}
}

// follow keeps account of where a foreign record takes names of the prefix. It
// is called before the record is applied.
func (m *merger) follow(r *kml.Record) {
	switch r.Op {
	case kml.OpUnlink, kml.OpRmdir:
		m.carry(m.origins(r.Where), kml.Name{}, r.Object)
	case kml.OpRename:
		was, over := m.origins(r.Where), []kml.Name(nil)
		if !r.Replaced.IsZero() {
			over = m.origins(r.To)
		}
		m.at[r.Where], m.at[r.To] = []kml.Name{}, []kml.Name{}
		if r.ReplacedLast {
			m.heir[r.Replaced] = r.Object
			m.carry(over, r.To, r.Object)
		} else {
			m.carry(over, kml.Name{}, r.Replaced)
		}
		m.carry(was, r.To, r.Object)
	case kml.OpExchange:
		a, b := m.origins(r.Where), m.origins(r.To)
		m.at[r.Where], m.at[r.To] = []kml.Name{}, []kml.Name{}
		m.carry(a, r.To, r.Object)
		m.carry(b, r.Where, r.Replaced)
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		m.at[r.Where] = []kml.Name{}
	case kml.OpLink:
		m.at[r.To] = []kml.Name{}
	}
}

// origins are the names of the prefix that led to what is at n now.
func (m *merger) origins(n kml.Name) []kml.Name {
	if known, ok := m.at[n]; ok {
		return known
	}
	if m.base.entry(n).IsZero() {
		return nil
	}
	return []kml.Name{n}
}

// carry says that names of the prefix are at a new place, and lead to obj.
func (m *merger) carry(origins []kml.Name, to kml.Name, obj kml.ObjectID) {
	for _, n := range origins {
		m.moved[n] = &link{obj: obj, at: to, moved: !to.IsZero() && to != n}
	}
	if !to.IsZero() {
		m.at[to] = append(m.at[to], origins...)
	}
}

// replay takes our records through the merged state, one by one.
func (m *merger) replay() error {
	for i := range m.in.Pending {
		run := &m.in.Pending[i]
		m.runs = append(m.runs, Run{First: run.First, Last: run.Last, Changed: run.Changed})
		for j := range run.Records {
			r := &run.Records[j]
			before := len(m.current().Records)
			m.cause = r
			if err := m.record(r); err != nil {
				return fmt.Errorf("merge pending record %d (%v): %w", r.Seq, r.Op, err)
			}
			made := m.current().Records[before:]
			if len(made) != 1 || !reflect.DeepEqual(&made[0], r) {
				m.current().Changed = true
				m.bent[r.Object] = true
				for k := range made {
					m.bent[made[k].Object] = true
				}
			}
			if err := m.ours.apply(m.in.Own, r); err != nil {
				return fmt.Errorf("redo pending record %d (%v): %w", r.Seq, r.Op, err)
			}
			if m.env.err != nil {
				return fmt.Errorf("merge: ask the tree: %w", m.env.err)
			}
		}
	}
	return nil
}

func (m *merger) current() *Run { return &m.runs[len(m.runs)-1] }

// emit does a record in the merged state and makes it pending. Seq, time and
// credentials of what is new are those of the record that caused it.
func (m *merger) emit(r kml.Record) error {
	if r.Seq == 0 {
		r.Seq, r.Time, r.Cred = m.cause.Seq, m.cause.Time, m.cause.Cred
	}
	m.refresh(&r)
	if err := m.merged.apply(m.in.Own, &r); err != nil {
		return err
	}
	run := m.current()
	run.Records = append(run.Records, r)
	if r.Op == kml.OpClose {
		m.close[r.Seq] = r.Object
	}
	return nil
}

// refresh brings what a record says of the state before it up to date. It leaves
// alone what nobody can tell, the times of directories, and what they did not touch.
func (m *merger) refresh(r *kml.Record) {
	o := m.merged.get(r.Object)
	if o == nil {
		return
	}
	last := len(o.names) == 1
	if r.Op == kml.OpUnlink {
		r.Last = last
	}
	// What they did not touch is as it was when we logged it.
	if _, theirs := m.theirs.nodes[r.Object]; !theirs && !m.bent[r.Object] && r.Object == m.cause.Object && r.Op == m.cause.Op {
		return
	}
	if t := m.theirs.get(r.Object); o.unk&unkAll != 0 && (m.bent[r.Object] || t != nil && len(t.later) > 0) {
		o = m.merged.full(r.Object)
	}
	if o.unk&unkAll == 0 && r.Op != kml.OpClose {
		o = m.settle(r.Object, o)
	}
	if o.unk&unkAll == 0 {
		refreshFrom(r, o, last)
	}
}

// refreshFrom is refresh for an object of which everything is known. last says
// that it has one name.
func refreshFrom(r *kml.Record, o *node, last bool) {
	switch r.Op {
	case kml.OpUnlink, kml.OpRmdir:
		if last {
			refreshOld(r, o)
		}
	case kml.OpSetattr:
		refreshAttr(r, o)
	case kml.OpSetxattr, kml.OpDelxattr:
		if r.Xattr.Name == xattrCapability && o.unk&unkCap != 0 {
			return
		}
		old, ok := o.xattrs[r.Xattr.Name]
		switch {
		case !ok:
			r.OldXattr = nil
		case r.OldXattr == nil || string(r.OldXattr.Value) != old:
			r.OldXattr = &kml.Xattr{Name: r.Xattr.Name, Value: []byte(old)}
		}
	case kml.OpClose:
		r.Before.Size, r.Before.Mtime = o.attr.Size, o.attr.Mtime
	}
}

// refreshOld is for the rollback data of a removal.
func refreshOld(r *kml.Record, o *node) {
	old := o.attr
	if o.isDir() {
		old.Size, old.Mtime = r.Old.Size, r.Old.Mtime
	}
	if o.unk&unkMode != 0 {
		old.Mode = r.Old.Mode
	}
	r.Old, r.Target = old, o.target
	if len(r.Xattrs) > 0 {
		r.Xattrs = o.xattrList()
	}
}

func refreshAttr(r *kml.Record, o *node) {
	if r.Valid&kml.ValidMode != 0 && o.unk&unkMode == 0 {
		r.Old.Mode = o.attr.Mode
	}
	if r.Valid&kml.ValidUID != 0 {
		r.Old.UID = o.attr.UID
	}
	if r.Valid&kml.ValidGID != 0 {
		r.Old.GID = o.attr.GID
	}
	if r.Valid&kml.ValidMtime != 0 && !o.isDir() {
		r.Old.Mtime = o.attr.Mtime
	}
}

// list notes a conflict, once for each kind and object.
func (m *merger) list(c Conflict) *found {
	key := conflictName{c.Kind, c.Object, c.To}
	if f := m.listed[key]; f != nil && !f.void {
		return f
	}
	r := m.cause
	c.Ours = Side{Origin: m.in.Own, Seq: r.Seq, Op: r.Op, Time: r.Time, UID: r.Cred.FSUID, Name: r.Where.Name}
	if s := m.side[c.Object]; s != nil {
		c.Theirs = *s
	}
	f := &found{Conflict: c, run: len(m.runs) - 1, cause: r}
	m.found, m.listed[key] = append(m.found, f), f
	return f
}

// collect gives the pending list without empty runs, with the conflicts that
// are left as records, and those conflicts.
func (m *merger) collect() ([]Run, []Conflict) {
	var conflicts []Conflict
	for _, f := range m.found {
		if f.void {
			continue
		}
		conflicts = append(conflicts, f.Conflict)
		run := &m.runs[f.run]
		run.Records = append(run.Records, kml.Record{Seq: f.cause.Seq, Op: kml.OpConflict, Time: f.cause.Time, Cred: f.cause.Cred,
			Object: f.Object, Where: f.Where, To: f.To, Replaced: f.Other, CloseSeq: f.Theirs.Seq})
		run.Changed = true
	}
	return absorb(m.runs), conflicts
}

// absorb gives the numbers of empty runs to the run that follows. Those at the
// end make a run without records: a run that is not changed may be on its way
// already, and must not grow.
func absorb(runs []Run) []Run {
	var out []Run
	var from uint64
	for _, r := range runs {
		if from != 0 {
			r.First, r.Changed = from, true
		}
		if len(r.Records) == 0 {
			from = r.First
			continue
		}
		from = 0
		out = append(out, r)
	}
	if from != 0 {
		out = append(out, Run{First: from, Last: runs[len(runs)-1].Last, Changed: true})
	}
	return out
}
