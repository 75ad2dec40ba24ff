package merge

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// pinTimes makes known the times of directories of which our records say nothing
// any more, so that they are the same everywhere: ours. Only a run that changed
// may get such a record.
func (m *merger) pinTimes() error {
	at := len(m.runs) - 1
	for at >= 0 && !m.runs[at].Changed {
		at--
	}
	for _, id := range sortedIDs(m.base.nodes) {
		if n := m.base.nodes[id]; n == nil || n.unk&unkMtime == 0 {
			continue
		}
		now := m.merged.full(id)
		if now == nil || now.unk&unkMtime == 0 {
			continue
		}
		if at < 0 {
			return treeError("nobody knows the time of directory %v", id)
		}
		mtime := now.attr.Mtime
		if l := m.local.get(id); l != nil {
			mtime = l.attr.Mtime
		}
		last := m.runs[at].Last
		r := kml.Record{Seq: last, Op: kml.OpSetattr, Object: id, Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: mtime}, Old: kml.Attr{Mtime: now.attr.Mtime}}
		if m.cause != nil {
			r.Time, r.Cred = m.cause.Time, m.cause.Cred
		}
		if err := m.merged.apply(m.in.Own, &r); err != nil {
			return err
		}
		m.runs[at].Records = append(m.runs[at].Records, r)
	}
	return nil
}

// stepper makes the steps from the local tree to the merged one.
type stepper struct {
	m     *merger
	taken map[kml.ObjectID]kml.ObjectID // who an object of the local tree is now
	from  map[kml.ObjectID]kml.ObjectID // the same, the other way
	dirs  map[kml.ObjectID]bool         // of which an entry changed
	out   []Step
}

func (m *merger) steps() []Step {
	s := &stepper{m: m, taken: map[kml.ObjectID]kml.ObjectID{}, from: map[kml.ObjectID]kml.ObjectID{}, dirs: map[kml.ObjectID]bool{}}
	s.identify()
	names, ids := s.names(), s.objects()
	for _, n := range names {
		if a := s.entry(n); !a.IsZero() && a != m.merged.entry(n) {
			s.add(Step{Kind: StepDetach, Object: a, Name: n})
			s.dirs[n.Parent] = true
		}
	}
	for _, id := range ids {
		if n := m.merged.get(id); n != nil && s.local(id) == nil {
			s.make(id)
		}
	}
	for _, n := range names {
		if b := m.merged.entry(n); !b.IsZero() && s.entry(n) != b {
			s.add(Step{Kind: StepAttach, Object: b, Name: n})
			s.dirs[n.Parent] = true
		}
	}
	for _, id := range ids {
		s.registers(id)
	}
	for _, id := range ids {
		if m.merged.get(id) == nil && s.local(id) != nil {
			s.add(Step{Kind: StepRemove, Object: id})
		}
	}
	s.times(ids)
	s.writers()
	return s.out
}

func (s *stepper) add(step Step) { s.out = append(s.out, step) }

// identify gives inodes another identity: our copies are what we have, and what
// both made is theirs.
func (s *stepper) identify() {
	for _, into := range []map[kml.ObjectID]kml.ObjectID{s.m.fork, s.m.same} {
		for _, id := range sortedIDs(into) {
			t := into[id]
			have, want := s.m.local.get(id), s.m.merged.get(t)
			_, from := s.from[t]
			_, taken := s.taken[id]
			if have == nil || want == nil || from || taken || s.m.local.get(t) != nil || s.m.merged.get(id) != nil ||
				have.attr.Mode&modeType != want.attr.Mode&modeType {
				continue
			}
			s.taken[id], s.from[t] = t, id
			s.add(Step{Kind: StepIdentify, Object: id, New: t})
		}
	}
}

// local is an object of the local tree under the identity it has now.
func (s *stepper) local(id kml.ObjectID) *node {
	if was, ok := s.from[id]; ok {
		return s.m.local.get(was)
	}
	if _, ok := s.taken[id]; ok {
		return nil
	}
	return s.m.local.get(id)
}

func (s *stepper) entry(n kml.Name) kml.ObjectID {
	if was, ok := s.from[n.Parent]; ok {
		n.Parent = was
	} else if _, ok := s.taken[n.Parent]; ok {
		return kml.ObjectID{}
	}
	id := s.m.local.entry(n)
	if t, ok := s.taken[id]; ok {
		return t
	}
	return id
}

// names are all names that may have changed, in order.
func (s *stepper) names() []kml.Name {
	set := map[kml.Name]bool{}
	for dir, names := range s.m.env.names {
		for name := range names {
			set[kml.Name{Parent: dir, Name: name}] = true
			if t, ok := s.taken[dir]; ok {
				set[kml.Name{Parent: t, Name: name}] = true
			}
		}
	}
	for was, now := range s.taken {
		if n := s.m.local.get(was); n != nil {
			for _, name := range n.names {
				if t, ok := s.taken[name.Parent]; ok {
					name.Parent = t
				}
				set[name] = true
			}
		}
		if n := s.m.merged.get(now); n != nil {
			for _, name := range n.names {
				set[name] = true
			}
		}
	}
	out := make([]kml.Name, 0, len(set))
	for n := range set {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b kml.Name) int {
		return cmp.Or(compareIDs(a.Parent, b.Parent), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (s *stepper) objects() []kml.ObjectID {
	set := map[kml.ObjectID]*node{}
	for _, st := range []*state{s.m.base, s.m.theirs, s.m.merged} {
		for id := range st.nodes {
			set[id] = nil
		}
	}
	for _, t := range s.taken {
		set[t] = nil
	}
	return sortedIDs(set)
}

func (s *stepper) make(id kml.ObjectID) {
	n := s.m.settle(id, s.m.merged.full(id))
	st := Step{Kind: StepMake, Object: id, Attr: n.attr, Target: n.target, Xattrs: n.xattrList()}
	if !n.bytes.IsZero() {
		st.Bytes = s.m.rooted(n.bytes)
	}
	s.add(st)
}

// settle asks for registers that are still unknown and that differ, or may.
func (m *merger) settle(id kml.ObjectID, n *node) *node {
	if n.unk&(unkMode|unkCap) == 0 {
		return n
	}
	o := m.env.before(id)
	if o == nil {
		return n
	}
	n = m.merged.edit(id)
	if n.unk&unkMode != 0 {
		n.attr.Mode = o.Attr.Mode
	}
	if n.unk&unkCap != 0 {
		delete(n.xattrs, xattrCapability)
		for _, x := range o.Xattrs {
			if x.Name == xattrCapability {
				n.setXattr(x.Name, string(x.Value))
			}
		}
	}
	n.unk &^= unkMode | unkCap
	return n
}

// registers brings an object that is here to what it has to be.
func (s *stepper) registers(id kml.ObjectID) {
	have, want := s.local(id), s.m.merged.get(id)
	if have == nil || want == nil {
		return
	}
	want = s.m.settle(id, want)
	if want.attr.Mode&modeType == typeRegular {
		a, b := s.m.rooted(have.bytes), s.m.rooted(want.bytes)
		if h, ok := s.m.held[b.CloseSeq]; ok && b.Origin == s.m.in.Own {
			b = s.m.rooted(h)
		}
		if same, _ := a.same(b); !same {
			s.add(Step{Kind: StepContent, Object: id, Bytes: b, Attr: kml.Attr{Size: b.Size, Mtime: want.attr.Mtime}})
			have = have.clone()
			have.attr.Mtime = want.attr.Mtime - 1 // writing sets it
		}
	}
	for _, x := range want.xattrList() {
		if v, ok := have.xattrs[x.Name]; !ok || !bytes.Equal([]byte(v), x.Value) {
			s.add(Step{Kind: StepXattr, Object: id, Xattr: x})
		}
	}
	for _, x := range have.xattrList() {
		if _, ok := want.xattrs[x.Name]; !ok {
			s.add(Step{Kind: StepNoXattr, Object: id, Xattr: kml.Xattr{Name: x.Name}})
		}
	}
	s.attrs(id, have, want)
}

func (s *stepper) attrs(id kml.ObjectID, have, want *node) {
	st := Step{Kind: StepAttr, Object: id, Attr: want.attr}
	if have.attr.UID != want.attr.UID {
		st.Valid |= kml.ValidUID
	}
	if have.attr.GID != want.attr.GID {
		st.Valid |= kml.ValidGID
	}
	if have.attr.Mode != want.attr.Mode || st.Valid != 0 {
		st.Valid |= kml.ValidMode
	}
	if !want.isDir() && have.attr.Mtime != want.attr.Mtime {
		st.Valid |= kml.ValidMtime
	}
	if st.Valid == 0 {
		return
	}
	s.add(st)
	// A new owner takes the capability away.
	if v, ok := want.xattrs[xattrCapability]; ok && st.Valid&(kml.ValidUID|kml.ValidGID) != 0 {
		s.add(Step{Kind: StepXattr, Object: id, Xattr: kml.Xattr{Name: xattrCapability, Value: []byte(v)}})
	}
}

// times sets those of directories, last of all.
func (s *stepper) times(ids []kml.ObjectID) {
	for _, id := range ids {
		want, have := s.m.merged.get(id), s.local(id)
		if want == nil || !want.isDir() {
			continue
		}
		if have == nil || s.dirs[id] || have.attr.Mtime != want.attr.Mtime {
			s.add(Step{Kind: StepAttr, Object: id, Valid: kml.ValidMtime, Attr: want.attr})
		}
	}
}

// writers refuses what would take a file away from those who are writing it.
func (s *stepper) writers() {
	if len(s.m.in.Writing) == 0 {
		return
	}
	filled := map[kml.ObjectID]bool{}
	for i := range s.out {
		if s.out[i].Kind == StepContent {
			filled[s.out[i].Object] = true
		}
	}
	for _, id := range s.m.in.Writing {
		now := id
		if t, ok := s.taken[id]; ok {
			now = t
		}
		if s.m.local.get(id) != nil && (s.m.merged.get(now) == nil || filled[now]) {
			s.m.env.need.Close = append(s.m.env.need.Close, id)
		}
	}
}

func compareIDs(a, b kml.ObjectID) int {
	return cmp.Or(bytes.Compare(a.Space[:], b.Space[:]), cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Gen, b.Gen), cmp.Compare(a.Birth, b.Birth))
}

func sortedIDs[V any](set map[kml.ObjectID]V) []kml.ObjectID {
	out := make([]kml.ObjectID, 0, len(set))
	for id := range set {
		out = append(out, id)
	}
	slices.SortFunc(out, compareIDs)
	return out
}
