package merge

import (
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// apply does a record of origin in s, as the applier of a replica would.
func (s *state) apply(origin kml.UUID, r *kml.Record) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		if err := s.birth(r); err != nil {
			return err
		}
		s.stamp(r.Where.Parent, r.ParentAfter)
	case kml.OpUnlink, kml.OpRmdir:
		if err := s.lose(r.Where, r.Object); err != nil {
			return err
		}
		s.stamp(r.Where.Parent, r.ParentAfter)
	case kml.OpLink:
		if err := s.attach(r.To, r.Object); err != nil {
			return err
		}
		s.stamp(r.To.Parent, r.ToAfter)
	case kml.OpRename, kml.OpExchange:
		if err := s.move(r); err != nil {
			return err
		}
		s.stamp(r.Where.Parent, r.ParentAfter)
		if r.To.Parent != r.Where.Parent {
			s.stamp(r.To.Parent, r.ToAfter)
		}
	case kml.OpNoop, kml.OpConflict, kml.OpResolved, kml.OpManifest:
		return nil
	default:
		return s.register(origin, r)
	}
	return nil
}

// stamp gives a directory the time of a change of an entry.
func (s *state) stamp(id kml.ObjectID, v kml.Version) {
	if v == (kml.Version{}) {
		return
	}
	d := s.edit(id)
	if d == nil || !d.isDir() {
		return
	}
	d.attr.Mtime, d.unk = v.Mtime, d.unk&^unkMtime
	if d.unk&unkAll != 0 {
		set := &kml.Record{Op: kml.OpSetattr, Object: id, Valid: kml.ValidMtime, Attr: kml.Attr{Mtime: v.Mtime}}
		d.later = append(d.later, done{r: set})
	}
}

func (s *state) birth(r *kml.Record) error {
	if s.get(r.Object) != nil {
		return treeError("%v is there already", r.Object)
	}
	n := &node{attr: r.Attr, target: r.Target}
	for _, x := range r.Xattrs {
		n.setXattr(x.Name, string(x.Value))
	}
	s.nodes[r.Object] = n
	return s.attach(r.Where, r.Object)
}

// lose takes a name, and the object with the last.
func (s *state) lose(n kml.Name, id kml.ObjectID) error {
	if err := s.detach(n, id); err != nil {
		return err
	}
	o := s.nodes[id]
	if len(o.names) > 0 {
		return nil
	}
	if o.isDir() && !s.empty(id) {
		return treeError("directory %v is not empty", id)
	}
	s.nodes[id] = nil
	return nil
}

func (s *state) move(r *kml.Record) error {
	o := s.get(r.Object)
	if o == nil {
		return treeError("no object %v", r.Object)
	}
	if o.isDir() && s.within(r.To.Parent, r.Object) {
		return treeError("%v would be in itself", r.Object)
	}
	if r.Op == kml.OpExchange {
		return s.swap(r)
	}
	if !r.Replaced.IsZero() {
		if p := s.get(r.Replaced); p == nil || p.isDir() != o.isDir() {
			return treeError("%v can't be replaced by %v", r.Replaced, r.Object)
		}
		if err := s.lose(r.To, r.Replaced); err != nil {
			return err
		}
	}
	if err := s.detach(r.Where, r.Object); err != nil {
		return err
	}
	return s.attach(r.To, r.Object)
}

func (s *state) swap(r *kml.Record) error {
	p := s.get(r.Replaced)
	if p == nil || p.isDir() && s.within(r.Where.Parent, r.Replaced) {
		return treeError("%v can't change places with %v", r.Replaced, r.Object)
	}
	for _, do := range []func() error{
		func() error { return s.detach(r.Where, r.Object) },
		func() error { return s.detach(r.To, r.Replaced) },
		func() error { return s.attach(r.To, r.Object) },
		func() error { return s.attach(r.Where, r.Replaced) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// register does a record that leaves all names alone.
func (s *state) register(origin kml.UUID, r *kml.Record) error {
	o := s.edit(r.Object)
	if o == nil {
		return treeError("no object %v", r.Object)
	}
	if o.unk&unkAll != 0 {
		o.later = append(o.later, done{origin, r})
		if r.Op == kml.OpSetattr && r.Valid&kml.ValidMtime != 0 {
			o.unk &^= unkMtime
		}
		return nil
	}
	o.register(origin, r)
	return nil
}

func (n *node) register(origin kml.UUID, r *kml.Record) {
	switch r.Op {
	case kml.OpSetattr:
		n.setattr(r)
	case kml.OpSetxattr:
		n.setXattr(r.Xattr.Name, string(r.Xattr.Value))
		if r.Xattr.Name == xattrACL {
			n.takeACL()
			n.unk &^= unkMode
		}
		n.know(r.Xattr.Name)
	case kml.OpDelxattr:
		delete(n.xattrs, r.Xattr.Name)
		n.know(r.Xattr.Name)
	case kml.OpClose:
		n.close(origin, r)
	}
}

func (n *node) know(xattr string) {
	if xattr == xattrCapability {
		n.unk &^= unkCap
	}
}

func (n *node) setattr(r *kml.Record) {
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 && !n.isDir() {
		delete(n.xattrs, xattrCapability)
		n.unk &^= unkCap
	}
	if r.Valid&kml.ValidMode != 0 {
		n.chmod(r.Attr.Mode)
		n.unk &^= unkMode
	}
	if r.Valid&kml.ValidUID != 0 {
		n.attr.UID = r.Attr.UID
	}
	if r.Valid&kml.ValidGID != 0 {
		n.attr.GID = r.Attr.GID
	}
	if r.Valid&kml.ValidMtime != 0 {
		n.attr.Mtime, n.unk = r.Attr.Mtime, n.unk&^unkMtime
	}
}

func (n *node) close(origin kml.UUID, r *kml.Record) {
	n.attr.Size, n.attr.Mtime = r.After.Size, r.After.Mtime
	n.bytes = Bytes{Origin: origin, CloseSeq: r.Seq, Size: r.After.Size, Content: r.Content}
	if r.Attr.Mode == 0 {
		return
	}
	n.chmod(r.Attr.Mode)
	delete(n.xattrs, xattrCapability)
	for _, x := range r.Xattrs {
		n.setXattr(x.Name, string(x.Value))
	}
	n.unk &^= unkMode | unkCap
}

// undo takes a pending record of ours back. What is not in the record becomes
// unknown.
func (s *state) undo(r *kml.Record) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		if err := s.detach(r.Where, r.Object); err != nil {
			return err
		}
		s.nodes[r.Object] = nil
		s.unstamp(r.Where.Parent, r.ParentBefore)
	case kml.OpUnlink, kml.OpRmdir:
		s.resurrect(r.Object, r.Last || r.Op == kml.OpRmdir, r.Op == kml.OpRmdir, r.Old)
		s.unstamp(r.Where.Parent, r.ParentBefore)
		return s.attach(r.Where, r.Object)
	case kml.OpLink:
		s.unstamp(r.To.Parent, r.ToBefore)
		return s.detach(r.To, r.Object)
	case kml.OpRename:
		return s.undoRename(r)
	case kml.OpExchange:
		back := kml.Record{Op: kml.OpExchange, Object: r.Replaced, Replaced: r.Object, Where: r.Where, To: r.To}
		s.unstamp(r.Where.Parent, r.ParentBefore)
		s.unstamp(r.To.Parent, r.ToBefore)
		return s.swap(&back)
	case kml.OpNoop, kml.OpConflict, kml.OpResolved, kml.OpManifest:
	default:
		return s.unregister(r)
	}
	return nil
}

// resurrect brings back an object that a pending record removed. Its registers
// are asked for when somebody wants them.
func (s *state) resurrect(id kml.ObjectID, last, dir bool, old kml.Attr) {
	if !last {
		return
	}
	n := &node{attr: old, unk: unkAll}
	if dir {
		n.attr.Mode = n.attr.Mode&^modeType | modeDir
		n.unk |= unkMtime
	}
	s.nodes[id] = n
}

func (s *state) unstamp(id kml.ObjectID, v kml.Version) {
	if d := s.edit(id); d != nil && d.isDir() {
		d.unk |= unkMtime
		if v != (kml.Version{}) {
			d.attr.Mtime = v.Mtime
		}
	}
}

func (s *state) undoRename(r *kml.Record) error {
	s.unstamp(r.Where.Parent, r.ParentBefore)
	if r.To.Parent != r.Where.Parent {
		s.unstamp(r.To.Parent, r.ToBefore)
	}
	if err := s.detach(r.To, r.Object); err != nil {
		return err
	}
	if err := s.attach(r.Where, r.Object); err != nil {
		return err
	}
	if r.Replaced.IsZero() {
		return nil
	}
	s.resurrect(r.Replaced, r.ReplacedLast, s.get(r.Object).isDir(), kml.Attr{})
	return s.attach(r.To, r.Replaced)
}

func (s *state) unregister(r *kml.Record) error {
	o := s.edit(r.Object)
	if o == nil {
		return treeError("no object %v", r.Object)
	}
	if o.unk&unkAll != 0 {
		return nil // Before will tell what it was at the very start
	}
	switch r.Op {
	case kml.OpSetattr:
		o.unsetattr(r)
	case kml.OpSetxattr, kml.OpDelxattr:
		delete(o.xattrs, r.Xattr.Name)
		if r.OldXattr != nil {
			o.setXattr(r.Xattr.Name, string(r.OldXattr.Value))
		}
		if r.Xattr.Name == xattrACL {
			if r.OldXattr != nil {
				o.takeACL()
			} else {
				o.unk |= unkMode
			}
		}
	case kml.OpClose:
		o.attr.Size, o.attr.Mtime = r.Before.Size, r.Before.Mtime
		o.bytes = Bytes{Kept: r.Object, Size: r.Before.Size}
		if r.Attr.Mode != 0 {
			o.unk |= unkMode | unkCap
		}
	}
	return nil
}

func (n *node) unsetattr(r *kml.Record) {
	if r.Valid&kml.ValidMode != 0 {
		n.chmod(r.Old.Mode)
	}
	if r.Valid&kml.ValidUID != 0 {
		n.attr.UID = r.Old.UID
	}
	if r.Valid&kml.ValidGID != 0 {
		n.attr.GID = r.Old.GID
	}
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 && !n.isDir() {
		n.unk |= unkCap
	}
	if r.Valid&kml.ValidMtime != 0 {
		n.attr.Mtime = r.Old.Mtime
		if n.isDir() {
			n.unk |= unkMtime
		}
	}
}

// supported says why a record can't be merged, "" if it can.
func supported(r *kml.Record) string {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod, kml.OpUnlink, kml.OpRmdir, kml.OpRename, kml.OpExchange,
		kml.OpSetxattr, kml.OpDelxattr, kml.OpClose, kml.OpManifest, kml.OpConflict, kml.OpResolved, kml.OpNoop:
		return ""
	case kml.OpSetattr:
		if r.Valid&kml.ValidSize != 0 {
			return "a size that is set without a CLOSE can't be merged"
		}
		return ""
	case kml.OpLink:
		if !r.Replaced.IsZero() {
			return "a link that replaces can't be merged"
		}
		return ""
	case kml.OpWrite:
		return "single writes can't be merged"
	}
	return "this opcode can't be merged"
}

// mode bits and access ACL are two views of one thing.

const aclHead, aclItem = 4, 8

const (
	aclUserObj, aclGroupObj, aclMask, aclOther = 0x01, 0x04, 0x10, 0x20
)

// aclWalk calls do with the tag and the low byte of the permissions of each
// entry of a POSIX ACL.
func aclWalk(v []byte, do func(tag uint16, perm *byte)) {
	for i := aclHead; i+aclItem <= len(v); i += aclItem {
		do(uint16(v[i])|uint16(v[i+1])<<8, &v[i+2])
	}
}

// takeACL gives the mode what the access ACL says.
func (n *node) takeACL() {
	v := []byte(n.xattrs[xattrACL])
	mask := false
	group := n.attr.Mode >> 3 & 7
	aclWalk(v, func(tag uint16, perm *byte) {
		p := uint32(*perm & 7)
		switch tag {
		case aclUserObj:
			n.attr.Mode = n.attr.Mode&^0o700 | p<<6
		case aclGroupObj:
			if !mask {
				group = p
			}
		case aclMask:
			mask, group = true, p
		case aclOther:
			n.attr.Mode = n.attr.Mode&^0o007 | p
		}
	})
	n.attr.Mode = n.attr.Mode&^0o070 | group<<3
}

// chmod sets the mode, and what of the access ACL follows from it.
func (n *node) chmod(mode uint32) {
	n.attr.Mode = n.attr.Mode&modeType | mode&^modeType
	acl, ok := n.xattrs[xattrACL]
	if !ok {
		return
	}
	v := []byte(acl)
	masked := slices.ContainsFunc(aclTags(v), func(t uint16) bool { return t == aclMask })
	aclWalk(v, func(tag uint16, perm *byte) {
		switch {
		case tag == aclUserObj:
			*perm = *perm&^7 | byte(mode>>6&7)
		case tag == aclMask, tag == aclGroupObj && !masked:
			*perm = *perm&^7 | byte(mode>>3&7)
		case tag == aclOther:
			*perm = *perm&^7 | byte(mode&7)
		}
	})
	n.xattrs[xattrACL] = string(v)
}

func aclTags(v []byte) []uint16 {
	var tags []uint16
	aclWalk(v, func(tag uint16, _ *byte) { tags = append(tags, tag) })
	return tags
}
