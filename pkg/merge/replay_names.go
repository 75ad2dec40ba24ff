package merge

import (
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// place is where a name that a record of ours makes comes to be.
type place struct {
	at       kml.Name
	replaced kml.ObjectID // who is replaced there
	last     bool         // and loses its last name
	twin     kml.ObjectID // nothing to make: this one is there and is the same
	named    *found       // at is a conflict name
	heirs    kml.ObjectID // who was meant to be replaced, for its registers
}

// target finds the place for the name to of the object id of ours, which is obj
// in the merged state, zero if it is still to be made. want is who has the name in
// ours and loses it, its last one if last is set.
func (m *merger) target(id, obj kml.ObjectID, to kml.Name, want kml.ObjectID, last bool) (place, error) {
	parent, err := m.dir(to.Parent)
	if err != nil {
		return place{}, err
	}
	p := place{at: kml.Name{Parent: parent, Name: to.Name}}
	var l *link
	if !want.IsZero() {
		l = m.linkOf(to, want)
		if l.named != nil && !l.at.IsZero() {
			// What we called so has a conflict name: so has what comes in its place.
			p.at, p.named = l.at, l.named
			l.named.takenBy(l.obj, id)
		} else if !l.at.IsZero() && l.at != p.at && last && m.merged.entry(p.at).IsZero() {
			p.at = l.at // what is saved by rename follows what they renamed
		}
	}
	t := m.merged.entry(p.at)
	switch {
	case t.IsZero():
		if l != nil && last && m.merged.get(l.obj) == nil {
			m.list(Conflict{Kind: GoneThere, Object: id, Where: p.at})
		}
	case t == obj:
		p.twin = t
	case l != nil && l.obj == t && l.at == p.at:
		m.over(&p, id, t, want, last)
	default:
		m.clash(&p, id, t, BothNamed)
	}
	return p, nil
}

// takenBy says that the conflict name has another object of ours now.
func (f *found) takenBy(was, now kml.ObjectID) {
	if f.Object == was {
		f.Object = now
	}
	if f.Other == was {
		f.Other = now
	}
}

// over is for a name that leads to who is to lose it by our record.
func (m *merger) over(p *place, id, t, want kml.ObjectID, last bool) {
	f := m.changed(want, t)
	left := len(m.merged.get(t).names) - 1
	mine := m.ours.get(id)
	switch {
	case mine.isDir() != m.merged.get(t).isDir(), mine.isDir() && !m.merged.empty(t), last && f.content:
		m.clash(p, id, t, BothEdited)
	case !last && left == 0:
		m.clash(p, id, t, BothUnnamed)
	default:
		p.replaced, p.last = t, left == 0
		if last {
			p.heirs = want
		}
	}
}

// clash is for a name that another object has: the two are one, or ours gets a
// conflict name.
func (m *merger) clash(p *place, id, t kml.ObjectID, kind Kind) {
	mine := m.ours.get(id)
	dirs := mine == nil && m.cause.Op == kml.OpMkdir && m.merged.get(t).isDir()
	if _, held := m.localOf(t); m.bornHere(id) && m.stays(id, m.cameTo()) && !(held && m.writing(id)) && (dirs || m.equal(id, t)) {
		p.twin = t
		return
	}
	was := p.at
	p.at = m.freeName(was)
	c := Conflict{Kind: kind, Object: id, Where: was, To: p.at}
	if kind != BothNamed {
		c.Object, c.Other = t, id
	}
	if _, ok := m.side[c.Object]; !ok {
		if s := m.side[t]; s != nil {
			m.side[c.Object] = s
		}
	}
	p.named = m.list(c)
}

// cameTo is the name that the present record gives.
func (m *merger) cameTo() kml.Name {
	if m.cause.To.IsZero() {
		return m.cause.Where
	}
	return m.cause.To
}

// localOf reports whether an object is in the local tree.
func (m *merger) localOf(id kml.ObjectID) (*node, bool) {
	n := m.local.get(id)
	return n, n != nil
}

func (m *merger) writing(id kml.ObjectID) bool {
	for _, w := range m.in.Writing {
		if w == id {
			return true
		}
	}
	return false
}

func (m *merger) create(r kml.Record) error {
	if o := m.merged.get(r.Object); o != nil {
		// They brought back what we bring back.
		m.links[r.Where] = &link{obj: r.Object, at: o.names[0]}
		return nil
	}
	p, err := m.target(r.Object, kml.ObjectID{}, r.Where, kml.ObjectID{}, false)
	if err != nil {
		return err
	}
	if !p.twin.IsZero() {
		m.same[r.Object] = p.twin
		m.links[r.Where] = &link{obj: p.twin, at: p.at}
		return nil
	}
	m.links[r.Where] = &link{obj: r.Object, at: p.at, named: p.named}
	r.Where = p.at
	return m.emit(r)
}

func (m *merger) remove(r kml.Record) error {
	name := r.Where
	l := m.linkOf(name, r.Object)
	delete(m.links, name)
	o := m.merged.get(l.obj)
	if l.at.IsZero() || o == nil {
		return nil // they removed it too
	}
	c := Conflict{Kind: GoneHere, Object: l.obj, Where: l.at}
	if l.moved {
		m.list(c)
		return nil
	}
	if len(o.names) == 1 {
		if m.mustStay(&r, l, &c) {
			return nil
		}
		m.void(l.obj)
	} else if r.Last {
		m.list(c)
	}
	if l.named != nil {
		l.named.void = true
	}
	r.Object, r.Where = l.obj, l.at
	return m.emit(r)
}

// mustStay reports whether an object keeps its last name although we took it.
func (m *merger) mustStay(r *kml.Record, l *link, c *Conflict) bool {
	if _, twin := m.same[r.Object]; r.Op == kml.OpUnlink && !r.Last && !twin {
		c.Kind = BothUnnamed
		m.list(*c)
		return true
	}
	if l.obj != r.Object && m.bornHere(r.Object) {
		return true // it was ours only by name
	}
	if r.Op == kml.OpRmdir && !m.merged.empty(l.obj) {
		if m.foreignIn(l.obj) {
			m.list(*c)
		}
		return true
	}
	f := m.changed(r.Object, l.obj)
	if l.obj != r.Object || f.any() {
		m.list(*c)
		return true
	}
	return false
}

// foreignIn reports whether a directory has something of theirs that is in no
// other conflict.
func (m *merger) foreignIn(dir kml.ObjectID) bool {
	for _, id := range m.merged.children(dir) {
		if m.listed[conflictName{GoneHere, id, kml.Name{}}] == nil && m.listed[conflictName{BothUnnamed, id, kml.Name{}}] == nil {
			if d := m.merged.get(id); !d.isDir() || m.base.get(id) == nil || m.ours.get(id) != nil {
				return true
			}
		}
	}
	return false
}

// void takes back the conflicts that are about an object that we remove in the
// end.
func (m *merger) void(id kml.ObjectID) {
	for _, k := range []Kind{GoneThere, BothMoved} {
		if f := m.listed[conflictName{k, id, kml.Name{}}]; f != nil {
			f.void = true
		}
	}
}

func (m *merger) rename(r kml.Record) error {
	l := m.linkOf(r.Where, r.Object)
	if l.moved {
		return m.renameMoved(&r, l)
	}
	id := r.Object
	obj := l.obj
	if l.at.IsZero() {
		if obj = m.heirOf(id); m.merged.get(obj) == nil {
			return m.renameGone(&r)
		}
		if m.merged.get(obj).isDir() {
			// It is there under a name that ours does not know.
			return m.renameMoved(&r, &link{obj: obj, at: m.merged.get(obj).names[0]})
		}
	}
	p, err := m.target(id, obj, r.To, r.Replaced, r.ReplacedLast)
	if err != nil {
		return err
	}
	if m.merged.get(obj).isDir() && m.merged.within(p.at.Parent, obj) {
		m.list(Conflict{Kind: MovesCycle, Object: obj, Where: l.at, To: kml.Name{}})
		delete(m.links, r.Where)
		m.links[r.To] = &link{obj: obj, at: l.at}
		return nil
	}
	if l.named != nil {
		l.named.void = true
	}
	delete(m.links, r.Where)
	if !p.twin.IsZero() {
		return m.renameToTwin(&r, l, obj, &p)
	}
	m.links[r.To] = &link{obj: obj, at: p.at, named: p.named}
	return m.doRename(r, obj, l.at, &p)
}

// doRename makes the new name, and takes the old one if there still is one.
func (m *merger) doRename(r kml.Record, obj kml.ObjectID, from kml.Name, p *place) error {
	if from == p.at {
		return nil
	}
	if from.IsZero() {
		if err := m.makeRoom(&r, p); err != nil {
			return err
		}
		return m.emit(kml.Record{Op: kml.OpLink, Object: obj, To: p.at, ToAfter: m.stampOf()})
	}
	stamp := m.stampOf()
	elsewhere := r.Where.Parent != r.To.Parent
	if r.Attr.Mode != 0 && obj != r.Object {
		r.Attr.Mode = m.merged.full(obj).attr.Mode & modeType
	}
	r.Object, r.Where, r.To, r.Replaced, r.ReplacedLast = obj, from, p.at, p.replaced, p.last
	switch now := r.Where.Parent != r.To.Parent; {
	case elsewhere && !now:
		r.ToBefore, r.ToAfter = kml.Version{}, kml.Version{}
	case now && (!elsewhere || r.ToAfter == (kml.Version{})):
		r.ToAfter = stamp
	}
	var carried facets
	if !p.heirs.IsZero() {
		carried = m.changed(p.heirs, p.replaced)
	}
	old := m.merged.get(p.replaced)
	if err := m.emit(r); err != nil {
		return err
	}
	return m.inherit(obj, old, carried)
}

// makeRoom removes who would be replaced, where no rename does it.
func (m *merger) makeRoom(r *kml.Record, p *place) error {
	if p.replaced.IsZero() {
		return nil
	}
	return m.emit(kml.Record{Op: kml.OpUnlink, Object: p.replaced, Where: p.at, Last: p.last, ParentAfter: m.stampOf()})
}

// inherit gives the successor of an object what they changed of that, unless we
// remove it later.
func (m *merger) inherit(id kml.ObjectID, old *node, f facets) error {
	if old == nil || !f.any() || m.local.get(id) == nil || old.attr.Mode&modeType != m.merged.get(id).attr.Mode&modeType {
		return nil
	}
	r := kml.Record{Op: kml.OpSetattr, Object: id}
	if f.mode {
		r.Valid, r.Attr.Mode = r.Valid|kml.ValidMode, old.attr.Mode
	}
	if f.uid {
		r.Valid, r.Attr.UID = r.Valid|kml.ValidUID, old.attr.UID
	}
	if f.gid {
		r.Valid, r.Attr.GID = r.Valid|kml.ValidGID, old.attr.GID
	}
	if r.Valid != 0 {
		m.keepPrivileges(&r)
		if err := m.emit(r); err != nil {
			return err
		}
	}
	for _, x := range f.xattrs {
		v, ok := old.xattrs[x]
		s := kml.Record{Op: kml.OpSetxattr, Object: id, Xattr: kml.Xattr{Name: x, Value: []byte(v)}}
		if !ok {
			if s.Op = kml.OpDelxattr; !m.hasXattr(id, x) {
				continue
			}
			s.Xattr.Value = nil
		}
		if err := m.emit(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) hasXattr(id kml.ObjectID, name string) bool {
	o := m.merged.full(id)
	_, ok := o.xattrs[name]
	return ok || name == xattrCapability && o.unk&unkCap != 0
}

// renameMoved is for a rename of what they moved: theirs counts.
func (m *merger) renameMoved(r *kml.Record, l *link) error {
	delete(m.links, r.Where)
	m.links[r.To] = l
	if l.at != (kml.Name{Parent: m.heirOf(r.To.Parent), Name: r.To.Name}) {
		m.list(Conflict{Kind: BothMoved, Object: l.obj, Where: l.at})
	}
	return nil
}

// renameGone is for a rename of what they removed: it is back at its new name.
func (m *merger) renameGone(r *kml.Record) error {
	delete(m.links, r.Where)
	if m.local.get(r.Object) == nil {
		m.links[r.To] = &link{obj: r.Object}
		return nil
	}
	p, err := m.target(r.Object, kml.ObjectID{}, r.To, r.Replaced, r.ReplacedLast)
	if err != nil {
		return err
	}
	if !p.twin.IsZero() {
		m.same[r.Object], m.links[r.To] = p.twin, &link{obj: p.twin, at: p.at}
		return nil
	}
	if err := m.makeRoom(r, &p); err != nil {
		return err
	}
	return m.reviveAt(r.Object, r.To, p)
}

// renameToTwin is for a rename onto what is the same already.
func (m *merger) renameToTwin(r *kml.Record, l *link, obj kml.ObjectID, p *place) error {
	m.links[r.To] = &link{obj: p.twin, at: p.at}
	if obj != p.twin {
		m.same[r.Object] = p.twin
	}
	if l.at.IsZero() || l.at == p.at {
		return nil
	}
	return m.emit(kml.Record{Op: kml.OpUnlink, Object: l.obj, Where: l.at, ParentAfter: m.stampOf()})
}

func (m *merger) addLink(r kml.Record) error {
	obj := m.heirOf(r.Object)
	o := m.merged.get(obj)
	if o == nil && m.local.get(r.Object) == nil {
		m.links[r.To] = &link{obj: obj}
		return nil
	}
	var have kml.ObjectID
	if o != nil {
		have = obj
	}
	p, err := m.target(r.Object, have, r.To, kml.ObjectID{}, false)
	if err != nil {
		return err
	}
	if !p.twin.IsZero() {
		if p.twin != obj {
			m.same[r.Object] = p.twin
		}
		m.links[r.To] = &link{obj: p.twin, at: p.at}
		return nil
	}
	if o == nil {
		return m.reviveAt(r.Object, r.To, p)
	}
	m.links[r.To] = &link{obj: obj, at: p.at, named: p.named}
	r.Object, r.To = obj, p.at
	return m.emit(r)
}

// exchange is done if both are where ours had them, else it is undone.
func (m *merger) exchange(r kml.Record) error {
	a, b := m.linkOf(r.Where, r.Object), m.linkOf(r.To, r.Replaced)
	m.links[r.Where], m.links[r.To] = b, a
	clean := !a.moved && !b.moved && !a.at.IsZero() && !b.at.IsZero() && a.obj != b.obj
	if clean {
		clean = !m.below(b.at.Parent, a.obj) && !m.below(a.at.Parent, b.obj)
	}
	if !clean {
		obj := a.obj
		if m.merged.get(obj) == nil {
			obj = b.obj
		}
		m.list(Conflict{Kind: SwapMet, Object: obj, Where: a.at})
		return nil
	}
	a.at, b.at = b.at, a.at
	for _, l := range []*link{a, b} {
		if l.named != nil { // who has the conflict name now is another
			l.named.void = true
		}
	}
	a.named, b.named = nil, nil
	elsewhere := r.Where.Parent != r.To.Parent
	r.Object, r.Replaced, r.Where, r.To = a.obj, b.obj, b.at, a.at
	switch now := r.Where.Parent != r.To.Parent; {
	case elsewhere && !now:
		r.ToBefore, r.ToAfter = kml.Version{}, kml.Version{}
	case now && r.ToAfter == (kml.Version{}):
		r.ToAfter = m.stampOf()
	}
	return m.emit(r)
}

// below reports whether the directory id is in the object top.
func (m *merger) below(id, top kml.ObjectID) bool {
	o := m.merged.get(top)
	return o != nil && o.isDir() && m.merged.within(id, top)
}
