package merge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// tree is a file system as far as records see it: objects by id, with real
// preconditions and the side effects that a kernel has. It is what decides
// whether two records commute; Touches must never say yes where it says no.
type tree map[kml.ObjectID]*object

type object struct {
	attr    kml.Attr // Mode with type bits; Size and Mtime
	bytes   [32]byte // which content: its root
	inode   int      // who holds it open knows it by this
	target  string
	xattrs  map[string]string
	names   map[kml.Name]bool
	entries map[string]kml.ObjectID // of a directory
}

func newTree() tree {
	return tree{kml.RootID: {
		attr: kml.Attr{Mode: modeDir | 0o755}, xattrs: map[string]string{},
		names: map[kml.Name]bool{}, entries: map[string]kml.ObjectID{},
	}}
}

func (o *object) isDir() bool { return o.attr.Mode&modeType == modeDir }

func (t tree) clone() tree {
	c := make(tree, len(t))
	for id, o := range t {
		n := *o
		n.xattrs, n.names, n.entries = maps.Clone(o.xattrs), maps.Clone(o.names), maps.Clone(o.entries)
		c[id] = &n
	}
	return c
}

// text is the whole tree, to compare and to print. Times of directories are
// left out unless dirTimes is set.
func (t tree) text(dirTimes bool) string {
	var lines []string
	for id, o := range t {
		a := o.attr
		if o.isDir() && !dirTimes {
			a.Mtime = 0
		}
		var names, xattrs []string
		for n := range o.names {
			names = append(names, fmt.Sprintf("%v/%s", n.Parent, n.Name))
		}
		for k, v := range o.xattrs {
			xattrs = append(xattrs, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(names)
		slices.Sort(xattrs)
		lines = append(lines, fmt.Sprintf("%v %v %+v #%x %s %v", id, names, a, o.bytes[:4], o.target, xattrs))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// dir returns the directory id, or why a name can't be made or taken there.
func (t tree) dir(id kml.ObjectID) (*object, error) {
	d := t[id]
	if d == nil || !d.isDir() {
		return nil, fmt.Errorf("no directory %v", id)
	}
	return d, nil
}

func (t tree) link(n kml.Name, id kml.ObjectID) error {
	d, err := t.dir(n.Parent)
	if err != nil {
		return err
	}
	if _, taken := d.entries[n.Name]; taken {
		return fmt.Errorf("%q exists", n.Name)
	}
	o := t[id]
	if o == nil {
		return fmt.Errorf("no object %v", id)
	}
	if o.isDir() && len(o.names) > 0 {
		return fmt.Errorf("second name for directory %v", id)
	}
	d.entries[n.Name], o.names[n] = id, true
	return nil
}

// unlink takes a name from an object without judging what is left.
func (t tree) unlink(n kml.Name, id kml.ObjectID) error {
	d, err := t.dir(n.Parent)
	if err != nil {
		return err
	}
	if d.entries[n.Name] != id || id.IsZero() {
		return fmt.Errorf("%q is not %v", n.Name, id)
	}
	delete(d.entries, n.Name)
	delete(t[id].names, n)
	return nil
}

// lose takes a name from an object for good. last is what the record claims.
func (t tree) lose(n kml.Name, id kml.ObjectID, last bool) error {
	if err := t.unlink(n, id); err != nil {
		return err
	}
	o := t[id]
	if last != (len(o.names) == 0) {
		return fmt.Errorf("last name of %v: %v claimed, %d left", id, last, len(o.names))
	}
	if !last {
		return nil
	}
	if len(o.entries) > 0 {
		return fmt.Errorf("directory %v is not empty", id)
	}
	delete(t, id)
	return nil
}

// below reports whether the directory id is in the subtree of top, or top.
func (t tree) below(id, top kml.ObjectID) bool {
	for range len(t) + 1 {
		if id == top {
			return true
		}
		if id == kml.RootID || t[id] == nil {
			return false
		}
		for n := range t[id].names {
			id = n.Parent
		}
	}
	return true // a loop
}

// apply performs r, or says why it can't be. keep says of which directories the
// times are to be let alone; nil for none.
func (t tree) apply(r *kml.Record, keep func(kml.ObjectID) bool) error {
	if err := t.perform(r, keep); err != nil {
		return fmt.Errorf("%v %v: %w", r.Op, r.Object, err)
	}
	stamp := func(id kml.ObjectID, v kml.Version) {
		if d := t[id]; d != nil && d.isDir() && v != (kml.Version{}) && (keep == nil || !keep(id)) {
			d.attr.Mtime = v.Mtime
		}
	}
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod, kml.OpUnlink, kml.OpRmdir:
		stamp(r.Where.Parent, r.ParentAfter)
	case kml.OpLink:
		stamp(r.To.Parent, r.ToAfter)
	case kml.OpRename, kml.OpExchange:
		stamp(r.Where.Parent, r.ParentAfter)
		if r.To.Parent != r.Where.Parent {
			stamp(r.To.Parent, r.ToAfter)
		}
	}
	return nil
}

func (t tree) perform(r *kml.Record, keep func(kml.ObjectID) bool) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		return t.birth(r)
	case kml.OpUnlink:
		return t.lose(r.Where, r.Object, r.Last)
	case kml.OpRmdir:
		return t.lose(r.Where, r.Object, true)
	case kml.OpLink:
		return t.link(r.To, r.Object)
	case kml.OpRename:
		return t.rename(r)
	case kml.OpExchange:
		return t.exchange(r)
	case kml.OpManifest:
		if o := t[r.Object]; o != nil && o.bytes == [32]byte{} {
			o.bytes = r.Content.Root
		}
		return nil
	case kml.OpConflict, kml.OpResolved, kml.OpNoop:
		return nil
	}
	o := t[r.Object]
	if o == nil {
		return fmt.Errorf("gone")
	}
	switch r.Op {
	case kml.OpSetattr:
		return o.setattr(r, keep)
	case kml.OpClose:
		return o.close(r)
	case kml.OpSetxattr, kml.OpDelxattr:
		return o.setxattr(r)
	}
	return fmt.Errorf("unknown record")
}

func (t tree) birth(r *kml.Record) error {
	if t[r.Object] != nil {
		return fmt.Errorf("born twice")
	}
	o := &object{attr: r.Attr, target: r.Target, xattrs: map[string]string{}, names: map[kml.Name]bool{}}
	if r.Op == kml.OpMkdir {
		o.entries = map[string]kml.ObjectID{}
	}
	for _, x := range r.Xattrs {
		o.xattrs[x.Name] = string(x.Value)
	}
	t[r.Object] = o
	return t.link(r.Where, r.Object)
}

func (t tree) rename(r *kml.Record) error {
	o := t[r.Object]
	if o == nil {
		return fmt.Errorf("gone")
	}
	if o.isDir() && t.below(r.To.Parent, r.Object) {
		return fmt.Errorf("a cycle")
	}
	if !r.Replaced.IsZero() {
		if p := t[r.Replaced]; p == nil || p.isDir() != o.isDir() {
			return fmt.Errorf("can't replace %v", r.Replaced)
		}
		if err := t.lose(r.To, r.Replaced, r.ReplacedLast); err != nil {
			return err
		}
	}
	if err := t.unlink(r.Where, r.Object); err != nil {
		return err
	}
	return t.link(r.To, r.Object)
}

func (t tree) exchange(r *kml.Record) error {
	a, b := t[r.Object], t[r.Replaced]
	switch {
	case a == nil || b == nil:
		return fmt.Errorf("gone")
	case a.isDir() && t.below(r.To.Parent, r.Object), b.isDir() && t.below(r.Where.Parent, r.Replaced):
		return fmt.Errorf("a cycle")
	}
	if err := t.unlink(r.Where, r.Object); err != nil {
		return err
	}
	if err := t.unlink(r.To, r.Replaced); err != nil {
		return err
	}
	if err := t.link(r.To, r.Object); err != nil {
		return err
	}
	return t.link(r.Where, r.Replaced)
}

// setattr is strict about what was before, and clears privileges on a change of
// owner as a kernel does.
func (o *object) setattr(r *kml.Record, keep func(kml.ObjectID) bool) error {
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 {
		delete(o.xattrs, xattrCapability)
		if r.Valid&kml.ValidMode == 0 && !o.isDir() {
			o.attr.Mode &^= modeSetID
		}
	}
	if r.Valid&kml.ValidMode != 0 {
		if o.attr.Mode != r.Old.Mode {
			return fmt.Errorf("mode was %#o", o.attr.Mode)
		}
		o.attr.Mode = r.Attr.Mode
		if _, ok := o.xattrs[xattrACL]; ok {
			o.xattrs[xattrACL] = string(acl(r.Attr.Mode))
		}
	}
	if r.Valid&kml.ValidUID != 0 {
		if o.attr.UID != r.Old.UID {
			return fmt.Errorf("owner was %d", o.attr.UID)
		}
		o.attr.UID = r.Attr.UID
	}
	if r.Valid&kml.ValidGID != 0 {
		if o.attr.GID != r.Old.GID {
			return fmt.Errorf("group was %d", o.attr.GID)
		}
		o.attr.GID = r.Attr.GID
	}
	if r.Valid&kml.ValidMtime != 0 {
		// Times of directories are no keys, so there is no before to insist on.
		if !o.isDir() && o.attr.Mtime != r.Old.Mtime {
			return fmt.Errorf("mtime was %d", o.attr.Mtime)
		}
		if !o.isDir() || keep == nil || !keep(r.Object) {
			o.attr.Mtime = r.Attr.Mtime
		}
	}
	return nil
}

func (o *object) close(r *kml.Record) error {
	if o.attr.Size != r.Before.Size || o.attr.Mtime != r.Before.Mtime {
		return fmt.Errorf("was of %d bytes at %d", o.attr.Size, o.attr.Mtime)
	}
	o.attr.Size, o.attr.Mtime, o.bytes = r.After.Size, r.After.Mtime, r.Content.Root
	if r.Attr.Mode == 0 {
		return nil
	}
	o.attr.Mode = r.Attr.Mode
	if _, ok := o.xattrs[xattrACL]; ok {
		o.xattrs[xattrACL] = string(acl(r.Attr.Mode))
	}
	delete(o.xattrs, xattrCapability)
	for _, x := range r.Xattrs {
		o.xattrs[x.Name] = string(x.Value)
	}
	return nil
}

func (o *object) setxattr(r *kml.Record) error {
	old, was := o.xattrs[r.Xattr.Name]
	if was != (r.OldXattr != nil) || was && r.Xattr.Name != xattrACL && old != string(r.OldXattr.Value) {
		return fmt.Errorf("xattr was %q, %v", old, was)
	}
	if r.Op == kml.OpDelxattr {
		delete(o.xattrs, r.Xattr.Name)
		return nil
	}
	o.xattrs[r.Xattr.Name] = string(r.Xattr.Value)
	if r.Xattr.Name == xattrACL {
		v := r.Xattr.Value
		o.attr.Mode = o.attr.Mode&^0o777 | uint32(v[6])<<6 | uint32(v[14])<<3 | uint32(v[22])
	}
	return nil
}

// acl is the access ACL that says what the mode says.
func acl(mode uint32) []byte {
	v := []byte{2, 0, 0, 0}
	for i, tag := range []byte{0x01, 0x04, 0x20} {
		v = append(v, tag, 0, byte(mode>>(6-3*i)&7), 0, 0xff, 0xff, 0xff, 0xff)
	}
	return v
}
