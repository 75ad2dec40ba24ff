package merge

import (
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// object returns the object of the merged state that is the object id of ours,
// zero if there is no use in going on. One that they removed comes back.
func (m *merger) object(id kml.ObjectID) (kml.ObjectID, error) {
	obj := m.heirOf(id)
	if m.merged.get(obj) != nil {
		return obj, nil
	}
	if m.local.get(id) == nil {
		return kml.ObjectID{}, nil // both removed it
	}
	err := m.revive(id)
	return m.heirOf(id), err
}

// revive brings an object back that they removed and we changed: at all names
// whose directories are there, or, if none is, at the first.
func (m *merger) revive(id kml.ObjectID) error {
	o := m.ours.get(id)
	if o.isDir() {
		_, err := m.reviveDir(id)
		return err
	}
	names := slices.Clone(o.names)
	there := slices.DeleteFunc(slices.Clone(names), func(n kml.Name) bool { return m.merged.get(m.heirOf(n.Parent)) == nil })
	if len(there) == 0 {
		there = names[:1]
	}
	for _, n := range there {
		var have kml.ObjectID
		if m.merged.get(id) != nil {
			have = id
		}
		p, err := m.target(id, have, n, kml.ObjectID{}, false)
		if err != nil {
			return err
		}
		if !have.IsZero() && p.twin == have { // two directories of ours are one of theirs
			m.links[n] = &link{obj: id, at: p.at}
		} else if !have.IsZero() {
			m.links[n] = &link{obj: id, at: p.at, named: p.named}
			if err := m.emit(kml.Record{Op: kml.OpLink, Object: id, To: p.at, ToAfter: m.stampOf()}); err != nil {
				return err
			}
		} else if err := m.reviveAt(id, n, p); err != nil {
			return err
		}
	}
	for _, n := range names {
		if m.links[n] == nil || m.links[n].at.IsZero() {
			m.links[n] = &link{obj: id}
		}
	}
	return nil
}

// reviveAt makes an object anew, with its id, as ours has it at this record. n is
// its name there.
func (m *merger) reviveAt(id kml.ObjectID, n kml.Name, p place) error {
	at := p.at
	if !p.twin.IsZero() {
		at = m.freeName(at)
	}
	o := m.ours.full(id)
	if err := m.copyOf(o, id, at); err != nil {
		return err
	}
	m.links[n] = &link{obj: id, at: at, named: p.named}
	m.list(Conflict{Kind: GoneThere, Object: id, Where: at})
	final := m.local.get(id)
	if o.bytes.IsZero() || final == nil || final.bytes.name() != o.bytes.name() {
		return nil // a later CLOSE brings what counts
	}
	root := m.rooted(o.bytes).Content
	m.held[m.cause.Seq] = o.bytes
	return m.emit(kml.Record{Op: kml.OpClose, Object: id, Where: at, Content: root,
		After: kml.Version{Size: o.bytes.Size, Mtime: o.attr.Mtime}})
}

// copyOf makes an object like o, without its bytes.
func (m *merger) copyOf(o *node, id kml.ObjectID, at kml.Name) error {
	r := kml.Record{Op: kml.OpMknod, Object: id, Where: at, Attr: o.attr, Xattrs: o.xattrList(), ParentAfter: m.stampOf()}
	r.Attr.Size = 0
	switch o.attr.Mode & modeType {
	case typeRegular:
		r.Op = kml.OpCreate
	case typeLink:
		r.Op, r.Target = kml.OpSymlink, o.target
	case modeDir:
		r.Op = kml.OpMkdir
	}
	return m.emit(r)
}

// sameType reports whether registers of an object of ours make sense for what it
// is now.
func (m *merger) sameType(id, obj kml.ObjectID) bool {
	if id == obj {
		return true
	}
	a, b := m.ours.get(id), m.merged.get(obj)
	return a.unk&unkAll != 0 || a.attr.Mode&modeType == b.attr.Mode&modeType
}

func (m *merger) setattr(r kml.Record) error {
	if copied, ok := m.fork[r.Object]; ok {
		c := r
		c.Object = copied
		if err := m.emit(c); err != nil {
			return err
		}
	}
	obj, err := m.object(r.Object)
	if err != nil || obj.IsZero() || !m.sameType(r.Object, obj) {
		return err
	}
	f, was := m.changed(r.Object, obj), r.Valid
	r.Valid &^= f.attrs()
	forget(&r.Attr, was&^r.Valid)
	forget(&r.Old, was&^r.Valid)
	if r.Valid == 0 {
		return nil
	}
	if obj != r.Object {
		r.Object, r.Where = obj, kml.Name{}
	}
	m.keepPrivileges(&r)
	return m.emit(r)
}

// attrs are the fields of a SETATTR that theirs wins.
func (f *facets) attrs() (v kml.Valid) {
	if f.mode || slices.Contains(f.xattrs, xattrACL) {
		v |= kml.ValidMode
	}
	if f.uid {
		v |= kml.ValidUID
	}
	if f.gid {
		v |= kml.ValidGID
	}
	if f.mtime {
		v |= kml.ValidMtime
	}
	return v
}

// forget clears the fields that v names.
func forget(a *kml.Attr, v kml.Valid) {
	if v&kml.ValidMode != 0 {
		a.Mode = 0
	}
	if v&kml.ValidUID != 0 {
		a.UID = 0
	}
	if v&kml.ValidGID != 0 {
		a.GID = 0
	}
	if v&kml.ValidMtime != 0 {
		a.Mtime = 0
	}
}

// keepPrivileges makes a change of owner say what becomes of the set-id bits: they
// go, as with any chown.
func (m *merger) keepPrivileges(r *kml.Record) {
	if r.Valid&(kml.ValidUID|kml.ValidGID) == 0 || r.Valid&kml.ValidMode != 0 {
		return
	}
	if _, theirs := m.theirs.nodes[r.Object]; !theirs && !m.bent[r.Object] && r.Seq != 0 {
		return // as when it was logged
	}
	o := m.merged.full(r.Object)
	if o.unk&unkAll != 0 || o.isDir() || o.attr.Mode&modeSetID == 0 {
		return
	}
	r.Valid |= kml.ValidMode
	r.Attr.Mode = o.attr.Mode &^ modeSetID
}

func (m *merger) setxattr(r kml.Record) error {
	if copied, ok := m.fork[r.Object]; ok {
		c := r
		c.Object = copied
		if err := m.emit(c); err != nil {
			return err
		}
	}
	obj, err := m.object(r.Object)
	if err != nil || obj.IsZero() || !m.sameType(r.Object, obj) {
		return err
	}
	f := m.changed(r.Object, obj)
	if slices.Contains(f.xattrs, r.Xattr.Name) || r.Xattr.Name == xattrACL && f.mode {
		return nil
	}
	if obj != r.Object {
		r.Object, r.Where = obj, kml.Name{}
		if r.Op == kml.OpDelxattr && !m.hasXattr(obj, r.Xattr.Name) {
			return nil
		}
	}
	return m.emit(r)
}

func (m *merger) closeFile(r kml.Record) error {
	m.close[r.Seq] = kml.ObjectID{} // dropped, unless it is made below
	id := r.Object
	if _, ok := m.fork[id]; !ok {
		obj, err := m.object(id)
		if err != nil || obj.IsZero() {
			return err
		}
		f := m.changed(id, obj)
		if !f.content {
			return m.closeHere(r, obj, f.mode)
		}
		if _, twin := m.same[id]; twin || m.local.get(id) == nil || m.equal(id, obj) {
			return nil
		}
		if err := m.split(id, obj); err != nil {
			return err
		}
	}
	r.Object, r.Where = m.fork[id], kml.Name{}
	return m.emit(r)
}

// closeHere is for a file whose content only we changed.
func (m *merger) closeHere(r kml.Record, obj kml.ObjectID, moded bool) error {
	if obj != r.Object {
		r.Object, r.Where = obj, kml.Name{}
	}
	if o := m.merged.get(obj); r.Attr.Mode != 0 && (moded || m.bent[obj]) && o.unk&(unkAll|unkMode) == 0 {
		// Their mode stays, without the bits that our writing took.
		r.Attr.Mode = o.attr.Mode &^ (modeSetID &^ r.Attr.Mode)
	}
	return m.emit(r)
}

// split makes our copy of a file whose content both sides changed, beside it.
func (m *merger) split(id, obj kml.ObjectID) error {
	o := m.ours.full(id)
	beside := m.merged.get(obj).names[0]
	for _, n := range o.names {
		if l := m.linkOf(n, id); !l.at.IsZero() {
			beside = l.at
			break
		}
	}
	c, at := m.in.Mint(), m.freeName(beside)
	if err := m.copyOf(o, c, at); err != nil {
		return err
	}
	m.fork[id] = c
	m.list(Conflict{Kind: BothEdited, Object: obj, Other: c, Where: beside, To: at})
	return nil
}

func (m *merger) manifest(r kml.Record) error {
	obj, ok := m.close[r.CloseSeq]
	if ok && obj.IsZero() {
		return nil
	}
	if ok && obj != r.Object {
		r.Object, r.Where = obj, kml.Name{}
	}
	return m.emit(r)
}
