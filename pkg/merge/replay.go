package merge

import (
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// record does one of our records in the merged state, as far as it can be done.
func (m *merger) record(r *kml.Record) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		return m.create(*r)
	case kml.OpUnlink, kml.OpRmdir:
		return m.remove(*r)
	case kml.OpRename:
		return m.rename(*r)
	case kml.OpLink:
		return m.addLink(*r)
	case kml.OpExchange:
		return m.exchange(*r)
	case kml.OpSetattr:
		return m.setattr(*r)
	case kml.OpSetxattr, kml.OpDelxattr:
		return m.setxattr(*r)
	case kml.OpClose:
		return m.closeFile(*r)
	case kml.OpManifest:
		return m.manifest(*r)
	case kml.OpResolved:
		if m.done[conflictKey{r.Object, r.CloseSeq}] {
			return nil
		}
	}
	return m.emit(*r)
}

// heirOf is which object of the merged state an object of ours is: itself, or one
// of theirs that was found to be the same, or the one that took its place there.
func (m *merger) heirOf(id kml.ObjectID) kml.ObjectID {
	for range len(m.same) {
		t, ok := m.same[id]
		if !ok {
			break
		}
		id = t
	}
	if m.merged.get(id) != nil {
		return id
	}
	at := id
	for range len(m.heir) {
		next, ok := m.heir[at]
		if !ok {
			break
		}
		// Who is there only because we brought it back is nobody's heir.
		if at = next; m.theirs.get(at) != nil && m.merged.get(at) != nil {
			return at
		}
	}
	return id
}

// linkOf returns what became of a name that leads to the object id in ours.
func (m *merger) linkOf(n kml.Name, id kml.ObjectID) *link {
	if l := m.links[n]; l != nil {
		l.check(m.merged)
		return l
	}
	l := &link{obj: m.heirOf(id), at: kml.Name{Parent: m.heirOf(n.Parent), Name: n.Name}}
	if t := m.moved[n]; t != nil {
		*l = *t
	}
	l.check(m.merged)
	m.links[n] = l
	return l
}

// check sees a link as gone that is not in the merged state: two names of ours can
// have become one, and that be moved or removed by the other.
func (l *link) check(s *state) {
	if !l.at.IsZero() && s.entry(l.at) != l.obj {
		l.at, l.moved, l.named = kml.Name{}, false, nil
	}
}

// stays reports whether an object of ours has, in the end, the one name n: then
// what it is called meanwhile does not count.
func (m *merger) stays(id kml.ObjectID, n kml.Name) bool {
	o := m.local.get(id)
	return o != nil && len(o.names) == 1 && o.names[0] == n
}

// bornHere reports whether one of our pending records made the object.
func (m *merger) bornHere(id kml.ObjectID) bool { return m.base.get(id) == nil }

// dir returns the directory of the merged state that is the directory id of
// ours. One that they removed comes back.
func (m *merger) dir(id kml.ObjectID) (kml.ObjectID, error) {
	at := m.heirOf(id)
	if d := m.merged.get(at); d != nil && d.isDir() {
		return at, nil
	}
	return m.reviveDir(id)
}

func (m *merger) reviveDir(id kml.ObjectID) (kml.ObjectID, error) {
	o := m.ours.full(id)
	if o == nil || len(o.names) == 0 {
		return id, treeError("no directory %v", id)
	}
	n := o.names[0]
	parent, err := m.dir(n.Parent)
	if err != nil {
		return id, err
	}
	at := kml.Name{Parent: parent, Name: n.Name}
	if t := m.merged.entry(at); !t.IsZero() {
		if m.merged.get(t).isDir() {
			m.same[id], m.links[n] = t, &link{obj: t, at: at}
			return t, nil
		}
		at = m.freeName(at)
	}
	attr := o.attr
	attr.Size = 0
	err = m.emit(kml.Record{Op: kml.OpMkdir, Object: id, Where: at, Attr: attr, Xattrs: o.xattrList(), ParentAfter: m.stampOf()})
	if err != nil {
		return id, err
	}
	m.links[n] = &link{obj: id, at: at, named: m.list(Conflict{Kind: GoneThere, Object: id, Where: at})}
	return id, nil
}

// stampOf is the time that a directory gets by what the present record causes.
func (m *merger) stampOf() kml.Version {
	for _, v := range []kml.Version{m.cause.ParentAfter, m.cause.ToAfter, m.cause.After} {
		if v.Mtime != 0 {
			return kml.Version{Mtime: v.Mtime}
		}
	}
	return kml.Version{Mtime: max(m.cause.Time, 1)}
}

// freeName is a conflict name beside n.
func (m *merger) freeName(n kml.Name) kml.Name {
	for i := 1; ; i++ {
		c := kml.Name{Parent: n.Parent, Name: ConflictName(n.Name, m.in.Host, m.in.Time, i)}
		if m.merged.entry(c).IsZero() {
			return c
		}
	}
}

// equal reports whether an object of ours, as it is in the end, and one of
// theirs are of one type and content, so that one of them is enough.
func (m *merger) equal(ours, theirs kml.ObjectID) bool {
	a, b := m.local.get(ours), m.merged.full(theirs)
	if a == nil || b == nil || b.unk&unkAll != 0 || a.attr.Mode&modeType != b.attr.Mode&modeType {
		return false
	}
	switch a.attr.Mode & modeType {
	case modeDir:
		return false
	case typeRegular:
	default:
		return a.target == b.target && a.attr.Rdev == b.attr.Rdev
	}
	x, y := m.rooted(a.bytes), m.rooted(b.bytes)
	same, known := x.same(y)
	if !known && x.Content.IsZero() && x.Origin == m.in.Own && !m.in.Unbindable {
		m.env.need.Bind = append(m.env.need.Bind, ours)
	}
	return known && same
}

// rooted is b with its root, where that is known.
func (m *merger) rooted(b Bytes) Bytes {
	if c, ok := m.roots[closeName{b.Origin, b.CloseSeq}]; ok && b.Content.IsZero() && b.CloseSeq != 0 {
		b.Content = c
	}
	return b
}

// facets of an object that theirs can have changed.
type facets struct {
	content, mode, uid, gid, mtime bool
	xattrs                         []string
}

func (f *facets) any() bool {
	return f.content || f.mode || f.uid || f.gid || f.mtime || len(f.xattrs) > 0
}

// changed says what theirs did to an object of ours that is t there. Of what was
// made by them and is the same as one of ours, all is theirs.
func (m *merger) changed(id, t kml.ObjectID) facets {
	if id == t {
		if _, ok := m.theirs.nodes[id]; !ok {
			return facets{}
		}
	}
	a, b := m.base.get(id), m.theirs.get(t)
	if b == nil {
		return facets{}
	}
	if a == nil {
		b = m.theirs.full(t)
		f := facets{content: true, mode: true, uid: true, gid: true, mtime: true}
		for x := range b.xattrs {
			f.xattrs = append(f.xattrs, x)
		}
		slices.Sort(f.xattrs)
		return f
	}
	if id == t && a.unk&unkAll != 0 && b.unk&unkAll != 0 && len(b.later) == 0 {
		return facets{}
	}
	return m.diff(id, t)
}

func (m *merger) diff(id, t kml.ObjectID) facets {
	a, b := m.base.full(id), m.theirs.full(t)
	f := facets{
		content: a.bytes.name() != b.bytes.name() || a.target != b.target,
		mode:    b.unk&unkMode == 0 && (a.unk&unkMode != 0 || a.attr.Mode != b.attr.Mode),
		uid:     a.attr.UID != b.attr.UID,
		gid:     a.attr.GID != b.attr.GID,
	}
	if a.isDir() {
		f.mtime = m.touch[t]
	} else {
		f.mtime = a.attr.Mtime != b.attr.Mtime
	}
	for x, v := range b.xattrs {
		if old, ok := a.xattrs[x]; !ok || old != v {
			f.xattrs = append(f.xattrs, x)
		}
	}
	for x := range a.xattrs {
		if _, ok := b.xattrs[x]; !ok {
			f.xattrs = append(f.xattrs, x)
		}
	}
	if b.unk&unkCap != 0 {
		f.xattrs = slices.DeleteFunc(f.xattrs, func(x string) bool { return x == xattrCapability })
	}
	slices.Sort(f.xattrs)
	return f
}
