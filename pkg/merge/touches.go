package merge

import (
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const (
	modeType  = 0o170000
	modeDir   = 0o040000
	modeSetID = 0o006000

	xattrACL        = "system.posix_acl_access"
	xattrCapability = "security.capability"
)

// Touches calls add for every key that r touches; a key may be given more than
// once. A record of an opcode that is not known here touches nothing: CheckGroup
// refuses it before.
//
// NOOP touches nothing, and neither does MANIFEST: it only says what a CLOSE
// means. A CLOSE that carries a mode (Attr.Mode is not 0) sets mode and
// capability too, a CLOSE without one leaves them alone.
//
// A RENAME that says (in the type bits of Attr.Mode) that it moves something
// else than a directory does not write ShapeOfTree; one that says nothing does,
// if the parents differ. Whoever accepts a record has to check that claim.
func Touches(r *kml.Record, add func(Key, Mode)) {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		add(of(FacetFate, r.Object), Write)
		touchName(r.Where, add)
	case kml.OpUnlink:
		touchName(r.Where, add)
		touchLoss(r.Object, r.Last, add)
	case kml.OpRmdir:
		touchName(r.Where, add)
		touchLoss(r.Object, true, add)
	case kml.OpLink:
		add(of(FacetFate, r.Object), Need)
		touchName(r.To, add)
		touchReplaced(r, add)
	case kml.OpRename, kml.OpExchange:
		touchMove(r, add)
	default:
		touchObject(r, add)
	}
}

// touchObject is Touches for records that leave all names alone.
func touchObject(r *kml.Record, add func(Key, Mode)) {
	switch r.Op {
	case kml.OpSetattr:
		add(of(FacetFate, r.Object), Need)
		touchAttr(r, add)
	case kml.OpClose:
		add(of(FacetFate, r.Object), Need)
		touchContent(r.Object, add)
		if r.Attr.Mode != 0 {
			add(of(FacetMode, r.Object), Write)
			touchXattr(r.Object, xattrCapability, add)
		}
		for _, x := range r.Xattrs {
			touchXattr(r.Object, x.Name, add)
		}
	case kml.OpWrite:
		add(of(FacetFate, r.Object), Need)
		touchContent(r.Object, add)
	case kml.OpSetxattr, kml.OpDelxattr:
		add(of(FacetFate, r.Object), Need)
		touchXattr(r.Object, r.Xattr.Name, add)
	case kml.OpConflict:
		add(of(FacetConflict, r.Object), Need)
	case kml.OpResolved:
		add(of(FacetConflict, r.Object), Write)
	}
}

// touchMove is Touches for RENAME and EXCHANGE.
func touchMove(r *kml.Record, add func(Key, Mode)) {
	touchName(r.Where, add)
	touchName(r.To, add)
	add(of(FacetFate, r.Object), Need)
	add(of(FacetPlace, r.Object), Write)
	if r.Op == kml.OpExchange {
		add(of(FacetFate, r.Replaced), Need)
		add(of(FacetPlace, r.Replaced), Write)
	} else {
		touchReplaced(r, add)
	}
	if r.Where.Parent != r.To.Parent && mayMoveDir(r) {
		add(ShapeOfTree, Write)
	}
}

// mayMoveDir reports whether r may be the move of a directory. Of an EXCHANGE
// only one of the two types could be told, so it always may.
func mayMoveDir(r *kml.Record) bool {
	t := r.Attr.Mode & modeType
	return r.Op == kml.OpExchange || t == 0 || t == modeDir
}

// touchName is for a name that is made, taken away, or means another object
// afterwards. Its directory must be there.
func touchName(n kml.Name, add func(Key, Mode)) {
	add(Key{Facet: FacetName, ID: n.Parent, Name: n.Name}, Write)
	add(of(FacetFate, n.Parent), Need)
}

// touchLoss is for an object that loses a name, its last one if last is set.
func touchLoss(id kml.ObjectID, last bool, add func(Key, Mode)) {
	add(of(FacetLinks, id), Write)
	if last {
		add(of(FacetFate, id), Write)
	} else {
		add(of(FacetFate, id), Need)
	}
}

// touchReplaced is for who lost the name r.To, if anybody did.
func touchReplaced(r *kml.Record, add func(Key, Mode)) {
	if !r.Replaced.IsZero() {
		touchLoss(r.Replaced, r.ReplacedLast, add)
	}
}

func touchContent(id kml.ObjectID, add func(Key, Mode)) {
	add(of(FacetContent, id), Write)
	add(of(FacetMtime, id), Write)
}

// touchAttr is for the registers that a SETATTR sets. A change of owner clears
// set-id bits and the capability in the kernel, wherever it is applied, so it
// must not pass a change that sets them.
func touchAttr(r *kml.Record, add func(Key, Mode)) {
	if r.Valid&kml.ValidMode != 0 {
		add(of(FacetMode, r.Object), Write)
		if (r.Attr.Mode|r.Old.Mode)&modeSetID != 0 {
			add(of(FacetPrivilege, r.Object), Write)
		}
	}
	if r.Valid&kml.ValidUID != 0 {
		add(of(FacetUID, r.Object), Write)
	}
	if r.Valid&kml.ValidGID != 0 {
		add(of(FacetGID, r.Object), Write)
	}
	if r.Valid&(kml.ValidUID|kml.ValidGID) != 0 {
		add(of(FacetPrivilege, r.Object), Need)
	}
	if r.Valid&kml.ValidMtime != 0 {
		add(of(FacetMtime, r.Object), Write)
	}
	if r.Valid&kml.ValidSize != 0 {
		touchContent(r.Object, add)
	}
}

// touchXattr is for one xattr that is set or removed.
func touchXattr(id kml.ObjectID, name string, add func(Key, Mode)) {
	add(Key{Facet: FacetXattr, ID: id, Name: name}, Write)
	switch name {
	case xattrACL:
		// The group bits of the mode are the ACL's mask, seen from elsewhere.
		add(of(FacetMode, id), Write)
	case xattrCapability:
		add(of(FacetPrivilege, id), Write)
	}
}

func of(f Facet, id kml.ObjectID) Key { return Key{Facet: f, ID: id} }

// DirTimes calls add for every directory whose times r sets: as the parent of a
// name that changes, or because r sets the mtime of an object that may be one.
func DirTimes(r *kml.Record, add func(dir kml.ObjectID)) {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod, kml.OpUnlink, kml.OpRmdir:
		add(r.Where.Parent)
	case kml.OpLink:
		add(r.To.Parent)
	case kml.OpRename, kml.OpExchange:
		add(r.Where.Parent)
		add(r.To.Parent)
	case kml.OpSetattr:
		if r.Valid&kml.ValidMtime != 0 {
			add(r.Object)
		}
	}
}
