package merge

import (
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Mode is how a record touches a key.
type Mode uint8

const (
	Need  Mode = 1 // what the key stands for must be as it was, and stays so
	Write Mode = 2 // it is changed
)

func (m Mode) String() string {
	switch m {
	case Need:
		return "needs"
	case Write:
		return "writes"
	}
	return fmt.Sprintf("mode%d", uint8(m))
}

// Meets reports whether touches of one key with the modes m and o overlap.
func (m Mode) Meets(o Mode) bool { return m == Write || o == Write }

// Facet is the side of an object, or of the tree, that a Key stands for. The
// package comment says what each covers.
type Facet uint8

const (
	FacetFate Facet = iota + 1
	FacetLinks
	FacetPlace
	FacetContent
	FacetMode
	FacetUID
	FacetGID
	FacetMtime
	FacetPrivilege
	FacetXattr    // Key.Name is the attribute's name
	FacetConflict // the conflicts about the object
	FacetName     // Key.ID is the directory, Key.Name the entry
	FacetShape    // of the tree; Key.ID is zero

	dirTimes // bookkeeping of TouchSet, never given out by Touches
)

var facetText = [...]string{
	FacetFate: "existence", FacetLinks: "number of names", FacetPlace: "place", FacetContent: "content", FacetMode: "mode",
	FacetUID: "owner", FacetGID: "group", FacetMtime: "mtime", FacetPrivilege: "set-id bits and capability", FacetXattr: "xattr",
	FacetConflict: "conflicts", FacetName: "name", FacetShape: "shape of the tree", dirTimes: "times",
}

func (f Facet) String() string {
	if int(f) < len(facetText) && facetText[f] != "" {
		return facetText[f]
	}
	return fmt.Sprintf("facet%d", uint8(f))
}

// Key is one thing that records can meet at.
type Key struct {
	Facet Facet
	ID    kml.ObjectID
	Name  string
}

// ShapeOfTree is the key that every move of a directory to another parent
// writes, so that two of them, which could make a cycle together, always meet.
var ShapeOfTree = Key{Facet: FacetShape}

func (k Key) String() string {
	switch k.Facet {
	case FacetShape:
		return "the shape of the tree"
	case FacetName:
		return fmt.Sprintf("name %q in directory %v", k.Name, k.ID)
	case FacetXattr:
		return fmt.Sprintf("xattr %q of object %v", k.Name, k.ID)
	}
	return fmt.Sprintf("%v of object %v", k.Facet, k.ID)
}
