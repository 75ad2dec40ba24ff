package kml

import (
	"fmt"
	"strings"
)

// Limits of what a record or group may hold. The first four are Linux's own.
const (
	MaxName       = 255      // bytes of a name or of an xattr's name
	MaxTarget     = 4095     // bytes of a symlink's text
	MaxXattrValue = 64 << 10 // bytes of an xattr's value
	MaxGroups     = 65536    // supplementary groups of a process

	MaxXattrs       = 1024     // xattrs in one record
	MaxData         = 16 << 20 // bytes of one WRITE
	MaxRecord       = 32 << 20 // bytes of one encoded record
	MaxGroupRecords = 65536    // records of one group; a longer run is more frames of one unit
)

const (
	validAll = ValidMode | ValidUID | ValidGID | ValidSize | ValidMtime

	modeType    = 0o170000
	modeRegular = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
	modeMax     = 0o177777
)

// Validate reports the first thing that makes r unfit to be encoded, as an
// *InvalidError: a field that its opcode does not use or lacks, a name that no
// file system has, a value over its limit.
func (r *Record) Validate() error { return r.validate(r.fields()) }

// validate is Validate for a record whose set of fields is known.
func (r *Record) validate(have field) error {
	may, must, ok := fieldsOf(r.Op)
	switch {
	case !ok:
		return &InvalidError{r.Op, "Op", "no such record"}
	case have&^may != 0:
		return &InvalidError{r.Op, (have &^ may).name(), "is not used by this opcode"}
	case must&^have != 0:
		return &InvalidError{r.Op, (must &^ have).name(), "is needed by this opcode"}
	}
	if field, what := r.checkNames(have); what != "" {
		return &InvalidError{r.Op, field, what}
	}
	if field, what := r.checkValues(have); what != "" {
		return &InvalidError{r.Op, field, what}
	}
	if have&(fXattr|fOldXattr|fXattrs) != 0 {
		if field, what := r.checkXattrs(have); what != "" {
			return &InvalidError{r.Op, field, what}
		}
	}
	return nil
}

// checkNames returns the field and what is wrong with it, or "".
func (r *Record) checkNames(have field) (string, string) {
	if have&fWhere != 0 {
		if what := r.Where.problem(); what != "" {
			return "Where", what
		}
	}
	if have&fTo != 0 {
		if what := r.To.problem(); what != "" {
			return "To", what
		}
	}
	switch {
	case len(r.Target) > MaxTarget:
		return "Target", "is longer than 4095 bytes"
	case strings.IndexByte(r.Target, 0) >= 0:
		return "Target", "has a NUL byte"
	case have&fReplacedLast != 0 && have&fReplaced == 0:
		return "ReplacedLast", "is set although nothing was replaced"
	case have&fInexact != 0 && have&fContent == 0:
		return "Content", "is inexact without naming bytes"
	}
	return "", ""
}

// problem says what is wrong with a name that acts or hints, or "".
func (n *Name) problem() string {
	switch {
	case n.Parent.IsZero():
		return "has no parent"
	case n.Name == "" || n.Name == "." || n.Name == "..":
		return fmt.Sprintf("%q is not a name", n.Name)
	case len(n.Name) > MaxName:
		return "is longer than 255 bytes"
	case strings.IndexByte(n.Name, '/') >= 0:
		return "has a slash"
	case strings.IndexByte(n.Name, 0) >= 0:
		return "has a NUL byte"
	}
	return ""
}

// checkValues returns the field and what is wrong with it, or "".
func (r *Record) checkValues(have field) (string, string) {
	if r.Before.Size|r.After.Size|r.ParentBefore.Size|r.ParentAfter.Size|r.ToBefore.Size|r.ToAfter.Size < 0 {
		return "Before", "has a version of negative size"
	}
	switch {
	case r.Attr.Size|r.Old.Size < 0:
		return "Attr", "has a negative size"
	case r.Attr.Mode > modeMax || r.Old.Mode > modeMax:
		return "Attr", "has a mode of more than 16 bits"
	case r.Valid&^validAll != 0:
		return "Valid", "has unknown bits"
	case r.Offset < 0 || r.Offset+int64(len(r.Data)) < 0:
		return "Offset", "is out of range"
	case len(r.Data) > MaxData:
		return "Data", "is longer than 16 MiB"
	case len(r.Cred.Groups) > MaxGroups:
		return "Groups", "are more than 65536"
	}
	if !modeFits(r.Op, r.Attr) {
		return "Attr", fmt.Sprintf("has mode %#o", r.Attr.Mode)
	}
	return "", ""
}

// modeFits reports whether the attributes of a new object are of the type that
// op makes, those of a CLOSE nothing but a mode, and those of a RENAME nothing
// but a type.
func modeFits(op Op, a Attr) bool {
	t := a.Mode & modeType
	switch op {
	case OpCreate:
		return t == modeRegular
	case OpMkdir:
		return t == modeDir
	case OpSymlink:
		return t == modeSymlink
	case OpMknod:
		return t != 0 && t != modeDir && t != modeSymlink
	case OpClose:
		return a == Attr{Mode: a.Mode}
	case OpRename:
		return a == Attr{Mode: t}
	}
	return true
}

// checkXattrs returns the field and what is wrong with it, or "".
func (r *Record) checkXattrs(have field) (string, string) {
	if have&fXattr != 0 {
		if what := r.Xattr.problem(); what != "" {
			return "Xattr", what
		}
		if r.Op == OpDelxattr && len(r.Xattr.Value) != 0 {
			return "Xattr", "has a value"
		}
	}
	if r.OldXattr != nil {
		if what := r.OldXattr.problem(); what != "" {
			return "OldXattr", what
		}
		if r.OldXattr.Name != r.Xattr.Name {
			return "OldXattr", "has another name than Xattr"
		}
	}
	if len(r.Xattrs) > MaxXattrs {
		return "Xattrs", "are more than 1024"
	}
	for i := range r.Xattrs {
		if what := r.Xattrs[i].problem(); what != "" {
			return "Xattrs", what
		}
	}
	return "", ""
}

// problem says what is wrong with an xattr, or "".
func (x *Xattr) problem() string {
	switch {
	case x.Name == "":
		return "has no name"
	case len(x.Name) > MaxName:
		return "has a name longer than 255 bytes"
	case strings.IndexByte(x.Name, 0) >= 0:
		return "has a NUL byte in its name"
	case len(x.Value) > MaxXattrValue:
		return "has a value longer than 64 KiB"
	}
	return ""
}
