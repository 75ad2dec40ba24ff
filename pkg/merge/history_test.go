package merge

import (
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// dice gives a number from 0 to n-1.
type dice func(n int) int

// host makes random changes on its own copy of a tree, and logs them.
type host struct {
	tree  tree
	space kml.UUID
	roll  dice
	born  uint64
	seq   uint64
	clock int64
	log   []kml.Record
}

var entryNames = []string{"a", "b", "c"}

// change makes one valid change, if the dice find one.
func (h *host) change() {
	h.oneOf([]func(*kml.Record) bool{
		h.create, h.create, h.remove, h.remove, h.link, h.link, h.rename, h.rename, h.replace, h.replace,
		h.exchange, h.setattr, h.setattr, h.closeFile, h.closeFile, h.setxattr, h.setxattr, h.rmdir, h.rmdir,
		h.moveDir, h.moveDir,
	})
}

// grow makes a change that leaves more than there was.
func (h *host) grow() {
	h.oneOf([]func(*kml.Record) bool{h.create, h.create, h.create, h.link, h.closeFile, h.setxattr, h.rename})
}

func (h *host) oneOf(kinds []func(*kml.Record) bool) {
	for range 20 {
		h.clock++
		r := kml.Record{Seq: h.seq + 1}
		if !kinds[h.roll(len(kinds))](&r) {
			continue
		}
		r.ParentAfter.Mtime, r.ToAfter.Mtime = h.clock*1000+int64(h.space[0]), h.clock*1000+int64(h.space[0])
		next := h.tree.clone()
		if next.apply(&r, nil) != nil {
			continue
		}
		h.tree, h.log, h.seq = next, append(h.log, r), h.seq+1
		return
	}
}

// sorted gives the objects that want accepts, in a fixed order.
func (h *host) sorted(want func(kml.ObjectID, *object) bool) []kml.ObjectID {
	var out []kml.ObjectID
	for _, id := range sortedIDs(h.tree) {
		if want(id, h.tree[id]) {
			out = append(out, id)
		}
	}
	return out
}

func (h *host) pick(list []kml.ObjectID) kml.ObjectID {
	if len(list) == 0 {
		return kml.ObjectID{}
	}
	return list[h.roll(len(list))]
}

func (h *host) anyDir() kml.ObjectID {
	return h.pick(h.sorted(func(_ kml.ObjectID, o *object) bool { return o.isDir() }))
}

func (h *host) anyFile() kml.ObjectID {
	return h.pick(h.sorted(func(_ kml.ObjectID, o *object) bool { return o.attr.Mode&modeType == typeRegular }))
}

func (h *host) anyObject() kml.ObjectID {
	return h.pick(h.sorted(func(id kml.ObjectID, _ *object) bool { return id != kml.RootID }))
}

func (h *host) place() kml.Name {
	return kml.Name{Parent: h.anyDir(), Name: entryNames[h.roll(len(entryNames))]}
}

// nameOf is one of the names of an object.
func (h *host) nameOf(id kml.ObjectID) kml.Name {
	var all []kml.Name
	for n := range h.tree[id].names {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b kml.Name) int {
		return strings.Compare(a.Parent.String()+a.Name, b.Parent.String()+b.Name)
	})
	return all[h.roll(len(all))]
}

func (h *host) create(r *kml.Record) bool {
	h.born++
	kind := h.roll(5)
	r.Op = []kml.Op{kml.OpCreate, kml.OpCreate, kml.OpMkdir, kml.OpMkdir, kml.OpSymlink}[kind]
	r.Attr.Mode = []uint32{typeRegular | 0o644, typeRegular | 0o4755, modeDir | 0o755, modeDir | 0o700, typeLink | 0o777}[kind]
	r.Object, r.Where = kml.ObjectID{Space: h.space, Ino: 10 + h.born}, h.place()
	r.Attr.Mtime = h.clock
	if r.Op == kml.OpSymlink {
		r.Target = "x"
	}
	if r.Op == kml.OpCreate && h.roll(3) == 0 {
		r.Xattrs = []kml.Xattr{{Name: xattrCapability, Value: []byte("1")}}
	}
	return true
}

func (h *host) remove(r *kml.Record) bool {
	r.Op, r.Object = kml.OpUnlink, h.pick(h.sorted(func(_ kml.ObjectID, o *object) bool { return !o.isDir() }))
	if r.Object.IsZero() {
		return false
	}
	r.Where, r.Last = h.nameOf(r.Object), len(h.tree[r.Object].names) == 1
	return true
}

func (h *host) rmdir(r *kml.Record) bool {
	r.Op, r.Object = kml.OpRmdir, h.pick(h.sorted(func(id kml.ObjectID, o *object) bool {
		return o.isDir() && len(o.entries) == 0 && id != kml.RootID
	}))
	if r.Object.IsZero() {
		return false
	}
	r.Where = h.nameOf(r.Object)
	return true
}

func (h *host) link(r *kml.Record) bool {
	r.Op, r.Object, r.To = kml.OpLink, h.anyFile(), h.place()
	return !r.Object.IsZero()
}

func (h *host) rename(r *kml.Record) bool {
	r.Op, r.Object, r.To = kml.OpRename, h.anyObject(), h.place()
	return h.move(r)
}

func (h *host) moveDir(r *kml.Record) bool {
	r.Op, r.To = kml.OpRename, h.place()
	r.Object = h.pick(h.sorted(func(id kml.ObjectID, o *object) bool { return o.isDir() && id != kml.RootID }))
	return h.move(r)
}

// replace is a rename over a name that exists.
func (h *host) replace(r *kml.Record) bool {
	r.Op, r.Object = kml.OpRename, h.anyObject()
	over := h.anyObject()
	if over.IsZero() {
		return false
	}
	r.To = h.nameOf(over)
	return h.move(r)
}

func (h *host) move(r *kml.Record) bool {
	if r.Object.IsZero() {
		return false
	}
	r.Where, r.Replaced = h.nameOf(r.Object), h.tree[r.To.Parent].entries[r.To.Name]
	if r.Replaced == r.Object {
		return false
	}
	if o := h.tree[r.Replaced]; o != nil {
		r.ReplacedLast = len(o.names) == 1
	}
	if h.roll(2) == 0 {
		r.Attr.Mode = h.tree[r.Object].attr.Mode & modeType
	}
	return true
}

func (h *host) exchange(r *kml.Record) bool {
	r.Op, r.Object, r.Replaced = kml.OpExchange, h.anyObject(), h.anyObject()
	if r.Object.IsZero() || r.Object == r.Replaced {
		return false
	}
	r.Where, r.To = h.nameOf(r.Object), h.nameOf(r.Replaced)
	return true
}

func (h *host) setattr(r *kml.Record) bool {
	r.Op, r.Object = kml.OpSetattr, h.pick(h.sorted(func(_ kml.ObjectID, o *object) bool { return o.target == "" && (!o.isDir() || h.roll(4) == 0) }))
	if r.Object.IsZero() {
		return false
	}
	o := h.tree[r.Object]
	r.Old, r.Attr = o.attr, o.attr
	r.Valid = []kml.Valid{kml.ValidMode, kml.ValidUID, kml.ValidGID, kml.ValidMtime, kml.ValidMode | kml.ValidMtime}[h.roll(5)]
	r.Attr.Mode = r.Attr.Mode&modeType | []uint32{0o600, 0o644, 0o777, 0o4755, 0o2711}[h.roll(5)]
	r.Attr.UID, r.Attr.GID, r.Attr.Mtime = uint32(h.roll(4)), uint32(h.roll(4)), h.clock*1000+int64(h.space[0])
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 && !o.isDir() && o.attr.Mode&modeSetID != 0 {
		r.Valid |= kml.ValidMode // the kernel cleared the bits, and it is logged
		r.Attr.Mode = o.attr.Mode &^ modeSetID
	}
	return true
}

func (h *host) closeFile(r *kml.Record) bool {
	r.Op, r.Object = kml.OpClose, h.anyFile()
	o := h.tree[r.Object]
	if o == nil {
		return false
	}
	r.Before = kml.Version{Size: o.attr.Size, Mtime: o.attr.Mtime}
	r.After = kml.Version{Size: 1 + int64(h.roll(3)), Mtime: h.clock}
	r.Content.Root[0] = byte(1 + h.roll(100))
	if _, capable := o.xattrs[xattrCapability]; capable || o.attr.Mode&modeSetID != 0 {
		r.Attr.Mode = o.attr.Mode &^ modeSetID
	}
	return true
}

func (h *host) setxattr(r *kml.Record) bool {
	r.Op, r.Object = kml.OpSetxattr, h.anyFile()
	o := h.tree[r.Object]
	if o == nil {
		return false
	}
	r.Xattr.Name = []string{"user.a", "user.b", xattrACL, xattrCapability}[h.roll(4)]
	r.Xattr.Value = []byte{'0' + byte(h.roll(8))}
	if r.Xattr.Name == xattrACL {
		r.Xattr.Value = acl([]uint32{0o640, 0o755, 0o770}[h.roll(3)])
	}
	if old, ok := o.xattrs[r.Xattr.Name]; ok {
		r.OldXattr = &kml.Xattr{Name: r.Xattr.Name, Value: []byte(old)}
		if h.roll(2) == 0 {
			r.Op, r.Xattr.Value = kml.OpDelxattr, nil
		}
	}
	return true
}

// twoHosts makes a common tree, and two logs that were made on it apart. Half
// of the time they are of one record each.
func twoHosts(roll dice) (base tree, a, b *host) {
	seed := &host{tree: newTree(), space: kml.UUID{1}, roll: roll, clock: 1}
	for range 4 + roll(12) {
		seed.grow()
	}
	most := 1 + roll(2)*3
	a = &host{tree: seed.tree.clone(), space: kml.UUID{2}, roll: roll, clock: 100}
	b = &host{tree: seed.tree.clone(), space: kml.UUID{3}, roll: roll, clock: 200}
	for range 1 + roll(most) {
		a.change()
	}
	for range 1 + roll(most) {
		b.change()
	}
	return seed.tree, a, b
}
