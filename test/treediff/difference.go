package treediff

import (
	"encoding/json"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Property is what two objects of one name differ in.
type Property string

const (
	Presence  Property = "presence" // the name is in one tree only
	Type      Property = "type"     // nothing else is compared then
	Mode      Property = "mode"     // permission, setid and sticky bits
	Owner     Property = "owner"
	Mtime     Property = "mtime"
	Size      Property = "size" // of regular files; their content is not compared then
	Target    Property = "target"
	Device    Property = "device"
	HardLinks Property = "hardlinks" // the name belongs to another group of names
	LinkCount Property = "links"     // groups agree, but one has a name outside the tree
	Xattr     Property = "xattr"     // one difference for each attribute
	Content   Property = "content"
	Holes     Property = "holes" // content agrees, what is allocated does not
)

// Difference is one property in which two trees differ. Path is relative to
// the roots, "." for the roots themselves, and may hold any bytes. A and B say
// what each tree has, for people.
type Difference struct {
	Path     string
	Property Property
	A, B     string
}

// Format gives the difference as one line, with the two trees called as told.
func (d Difference) Format(a, b string) string {
	return QuotePath(d.Path) + ": " + string(d.Property) + ": " + a + ": " + d.A + ", " + b + ": " + d.B
}

// MarshalJSON writes Path as Format does, because JSON has no bytes.
func (d Difference) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Path     string   `json:"path"`
		Property Property `json:"property"`
		A        string   `json:"a"`
		B        string   `json:"b"`
	}{QuotePath(d.Path), d.Property, d.A, d.B})
}

// QuotePath gives a path as it is if a terminal can show it, else as a quoted
// Go string, so that a line stays a line whatever a name holds.
func QuotePath(path string) string {
	if !utf8.ValidString(path) {
		return strconv.Quote(path)
	}
	for _, r := range path {
		if !unicode.IsPrint(r) || r == '"' {
			return strconv.Quote(path)
		}
	}
	return path
}
