package merge

import (
	"fmt"
	"math"
	"time"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// reservedName is the control folder, directly below the root of the first
// fileset of a cache; it is reserved in all.
const reservedName = ".intermezzo"

// CheckGroup reports the first thing for which a group that pusher sends must
// never be accepted, whatever the tree looks like: records are applied as root.
// pusher is the origin that belongs to the key of the connection.
//
// It checks the origin, the numbers, and every record by itself: names, types,
// attributes, that the root stays where it is, that the control folder is let
// alone, and that only xattrs that replicate are set. It does not see the tree,
// so it can't know whether objects are there or whether a move makes a cycle.
func CheckGroup(g *kml.Group, pusher kml.UUID) error {
	if err := checkRange(g, pusher); err != nil {
		return fmt.Errorf("check group %d-%d of %v: %w", g.First, g.Last, g.Origin, err)
	}
	prev := g.First - 1
	for i := range g.Records {
		r := &g.Records[i]
		err := checkRecord(r)
		if err == nil && (r.Seq <= prev || r.Seq > g.Last) {
			err = fmt.Errorf("the number is out of order or range (after %d)", prev)
		}
		if err != nil {
			return fmt.Errorf("check group %d-%d of %v: record %d (%v): %w", g.First, g.Last, g.Origin, r.Seq, r.Op, err)
		}
		prev = r.Seq
	}
	return nil
}

func checkRange(g *kml.Group, pusher kml.UUID) error {
	switch {
	case pusher.IsZero() || g.Origin != pusher:
		return fmt.Errorf("the origin is not the pusher, %v", pusher)
	case g.First == 0 || g.First > g.Last:
		return fmt.Errorf("the range of numbers is empty or begins at 0")
	case len(g.Records) > kml.MaxGroupRecords:
		return fmt.Errorf("it has %d records, more than %d", len(g.Records), kml.MaxGroupRecords)
	}
	return nil
}

func checkRecord(r *kml.Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := checkIDs(r); err != nil {
		return err
	}
	if err := checkPlaces(r); err != nil {
		return err
	}
	if err := checkRegisters(r); err != nil {
		return err
	}
	return checkXattrs(r)
}

// checkIDs is about the objects: each has an id space, and the root is neither
// made, moved, named nor removed.
func checkIDs(r *kml.Record) error {
	for _, id := range []kml.ObjectID{r.Object, r.Replaced, r.Where.Parent, r.To.Parent} {
		if !id.IsZero() && id.Space.IsZero() && id != kml.RootID {
			return fmt.Errorf("object %v is of no cache", id)
		}
	}
	switch {
	case r.Replaced == kml.RootID:
		return fmt.Errorf("the root can't be replaced")
	case !r.Replaced.IsZero() && r.Replaced == r.Object:
		return fmt.Errorf("object %v can't replace itself", r.Object)
	case r.Object == kml.RootID && !allowedOnRoot(r.Op):
		return fmt.Errorf("the root can't be its object")
	}
	return nil
}

func allowedOnRoot(op kml.Op) bool {
	switch op {
	case kml.OpSetattr, kml.OpSetxattr, kml.OpDelxattr, kml.OpConflict, kml.OpResolved:
		return true
	}
	return false
}

// checkPlaces is about names. That they are names at all is Validate's part.
func checkPlaces(r *kml.Record) error {
	for _, n := range []kml.Name{r.Where, r.To} {
		switch {
		case n.Parent == kml.RootID && n.Name == reservedName:
			return fmt.Errorf("the name %q in the root is reserved", n.Name)
		case !n.IsZero() && n.Parent == r.Object:
			return fmt.Errorf("object %v can't be in itself", r.Object)
		case r.Op == kml.OpExchange && n.Parent == r.Replaced:
			return fmt.Errorf("object %v can't be in itself", r.Replaced)
		}
	}
	if (r.Op == kml.OpRename || r.Op == kml.OpExchange) && r.Where == r.To {
		return fmt.Errorf("both names are %q", r.To.Name)
	}
	return nil
}

const (
	noID = math.MaxUint32 // chown(2) takes it for "leave it"

	// What a kernel makes of a time must not overflow when it is looked at with
	// coarser units or slightly adjusted.
	minTime = math.MinInt64 + int64(time.Hour)
	maxTime = math.MaxInt64 - int64(time.Hour)

	typeChar, typeBlock             = 0o020000, 0o060000
	typeFIFO, typeSocket            = 0o010000, 0o140000
	typeRegular, typeLink           = 0o100000, 0o120000
	maxMajor, maxMinor              = 1<<12 - 1, 1<<20 - 1
	makesObject           kml.Valid = kml.ValidMode | kml.ValidUID | kml.ValidGID | kml.ValidMtime
)

// checkRegisters is about the values of attributes.
func checkRegisters(r *kml.Record) error {
	valid := kml.Valid(0)
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		valid = makesObject
	case kml.OpSetattr:
		valid = r.Valid
	case kml.OpRename:
		valid = kml.ValidMode // only its type bits mean something
	case kml.OpClose:
		if t := r.Attr.Mode & modeType; r.Attr.Mode != 0 && t != typeRegular {
			return fmt.Errorf("mode %#o is not a file's", r.Attr.Mode)
		}
	}
	switch {
	case valid&kml.ValidMode != 0 && !knownType(r.Attr.Mode&modeType):
		return fmt.Errorf("mode %#o has no known type", r.Attr.Mode)
	case valid&kml.ValidUID != 0 && r.Attr.UID == noID:
		return fmt.Errorf("the owner can't be %d", r.Attr.UID)
	case valid&kml.ValidGID != 0 && r.Attr.GID == noID:
		return fmt.Errorf("the group can't be %d", r.Attr.GID)
	}
	if r.Op == kml.OpMknod {
		if err := checkDevice(r.Attr); err != nil {
			return err
		}
	}
	for _, t := range []int64{r.Attr.Mtime, r.After.Mtime, r.ParentAfter.Mtime, r.ToAfter.Mtime} {
		if t < minTime || t > maxTime {
			return fmt.Errorf("the time %d ns is out of range", t)
		}
	}
	return nil
}

// knownType reports whether t is the type of an object, or none, as a SETATTR
// may have it.
func knownType(t uint32) bool {
	switch t {
	case 0, typeFIFO, typeChar, modeDir, typeBlock, typeRegular, typeLink, typeSocket:
		return true
	}
	return false
}

func checkDevice(a kml.Attr) error {
	t := a.Mode & modeType
	major, minor := a.Rdev>>32, a.Rdev&math.MaxUint32
	switch {
	case t != typeChar && t != typeBlock && a.Rdev != 0:
		return fmt.Errorf("mode %#o has a device number", a.Mode)
	case major > maxMajor || minor > maxMinor:
		return fmt.Errorf("device %d:%d is out of range", major, minor)
	}
	return nil
}

// checkXattrs is about which xattrs are set, at birth or later.
func checkXattrs(r *kml.Record) error {
	switch r.Op {
	case kml.OpSetxattr, kml.OpDelxattr:
		return checkXattr(r.Xattr.Name)
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod, kml.OpClose:
		seen := make(map[string]bool, len(r.Xattrs))
		for _, x := range r.Xattrs {
			if err := checkXattr(x.Name); err != nil {
				return err
			}
			if seen[x.Name] {
				return fmt.Errorf("xattr %q is there twice", x.Name)
			}
			seen[x.Name] = true
		}
	}
	return nil
}

func checkXattr(name string) error {
	if !ReplicatesXattr(name) {
		return fmt.Errorf("xattr %q does not replicate", name)
	}
	return nil
}
