package kml

// field is a set of the optional fields of a record. The bits are those of the
// field word of an encoded record and never change their meaning.
type field uint32

const (
	fObject field = 1 << iota
	fWhere
	fTo
	fReplaced
	fReplacedLast // the bit is the value
	fLast         // the bit is the value
	fBefore
	fAfter
	fParentBefore
	fParentAfter
	fToBefore
	fToAfter
	fValid
	fAttr
	fOld
	fTarget
	fXattr
	fOldXattr
	fXattrs
	fCloseSeq
	fContent
	fInexact // the bit is the value
	fOffset
	fData
	fGroups

	fieldCount = iota
)

// fieldNames is in the order of the bits, which is the order of encoding.
var fieldNames = [fieldCount]string{
	"Object", "Where", "To", "Replaced", "ReplacedLast", "Last", "Before", "After",
	"ParentBefore", "ParentAfter", "ToBefore", "ToAfter", "Valid", "Attr", "Old", "Target",
	"Xattr", "OldXattr", "Xattrs", "CloseSeq", "Content", "Inexact", "Offset", "Data", "Groups",
}

// name gives the name of the lowest field of the set.
func (f field) name() string {
	for i := range fieldNames {
		if f&(1<<i) != 0 {
			return fieldNames[i]
		}
	}
	return "none"
}

const (
	parentVersions = fParentBefore | fParentAfter
	toVersions     = fToBefore | fToAfter
	// what every record about an object may have: a current name of it, and its
	// versions before and after
	aboutObject = fWhere | fBefore | fAfter | fGroups
)

// fieldsOf says which fields a record of op may have, and which of them it must
// have. ok is false for an opcode that is not a record.
func fieldsOf(op Op) (may, must field, ok bool) {
	switch op {
	case OpNoop:
		return fGroups, 0, true
	case OpCreate, OpMkdir, OpMknod:
		must = fObject | fWhere | fAttr
		return must | aboutObject | parentVersions | fXattrs, must, true
	case OpSymlink:
		must = fObject | fWhere | fAttr | fTarget
		return must | aboutObject | parentVersions | fXattrs, must, true
	case OpUnlink:
		must = fObject | fWhere
		return must | aboutObject | parentVersions | fLast | fOld | fTarget | fXattrs, must, true
	case OpRmdir:
		must = fObject | fWhere
		return must | aboutObject | parentVersions | fLast | fOld | fXattrs, must, true
	case OpLink:
		must = fObject | fTo
		return must | aboutObject | parentVersions | toVersions | fReplaced | fReplacedLast, must, true
	case OpRename:
		must = fObject | fWhere | fTo
		return must | aboutObject | parentVersions | toVersions | fReplaced | fReplacedLast | fAttr, must, true
	case OpExchange:
		must = fObject | fWhere | fTo | fReplaced
		return must | aboutObject | parentVersions | toVersions, must, true
	}
	return attributeFields(op)
}

// attributeFields goes on where fieldsOf ends: records that change no names.
func attributeFields(op Op) (may, must field, ok bool) {
	switch op {
	case OpSetattr:
		must = fObject | fValid
		return must | aboutObject | fAttr | fOld, must, true
	case OpSetxattr, OpDelxattr:
		must = fObject | fXattr
		return must | aboutObject | fOldXattr, must, true
	case OpClose:
		must = fObject
		return must | aboutObject | fAttr | fXattrs | fContent | fInexact, must, true
	case OpWrite:
		must = fObject | fData
		return must | aboutObject | fOffset, must, true
	case OpManifest:
		must = fObject | fCloseSeq | fContent
		return must | fWhere | fAfter | fGroups | fInexact, must, true
	case OpConflict:
		must = fObject
		return must | aboutObject | fTo | fReplaced | fCloseSeq | fContent | fInexact, must, true
	case OpResolved:
		must = fObject | fCloseSeq
		return must | fWhere | fGroups, must, true
	}
	return 0, 0, false
}

// fields gives the set of fields of r that are not zero.
func (r *Record) fields() field {
	var f field
	set := func(bit field, on bool) {
		if on {
			f |= bit
		}
	}
	set(fObject, r.Object != ObjectID{})
	set(fWhere, r.Where != Name{})
	set(fTo, r.To != Name{})
	set(fReplaced, r.Replaced != ObjectID{})
	set(fReplacedLast, r.ReplacedLast)
	set(fLast, r.Last)
	set(fBefore, r.Before != Version{})
	set(fAfter, r.After != Version{})
	set(fParentBefore, r.ParentBefore != Version{})
	set(fParentAfter, r.ParentAfter != Version{})
	set(fToBefore, r.ToBefore != Version{})
	set(fToAfter, r.ToAfter != Version{})
	set(fValid, r.Valid != 0)
	set(fAttr, r.Attr != Attr{})
	set(fOld, r.Old != Attr{})
	set(fTarget, r.Target != "")
	set(fXattr, r.Xattr.Name != "" || len(r.Xattr.Value) != 0)
	set(fOldXattr, r.OldXattr != nil)
	set(fXattrs, len(r.Xattrs) != 0)
	set(fCloseSeq, r.CloseSeq != 0)
	set(fContent, r.Content.Root != [32]byte{})
	set(fInexact, r.Content.Inexact)
	set(fOffset, r.Offset != 0)
	set(fData, len(r.Data) != 0)
	set(fGroups, len(r.Cred.Groups) != 0)
	return f
}
