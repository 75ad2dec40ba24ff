package merge

import (
	"errors"
	"fmt"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Object is an object of the local tree. Xattrs are those that replicate. Names
// are all of them. Content is the root of its bytes where that is known.
type Object struct {
	Attr    kml.Attr
	Target  string
	Xattrs  []kml.Xattr
	Names   []kml.Name
	Content kml.Content
}

// Tree is what a merge asks of the local tree, as it is now: the prefix of the
// log that is applied, and all pending records on top. Nothing may change it
// while a merge runs. Errors end the merge.
type Tree interface {
	// Lookup returns what a name leads to, the zero id if there is no such name
	// or no such directory.
	Lookup(n kml.Name) (kml.ObjectID, error)
	// Object returns an object, nil if it is not in the tree.
	Object(id kml.ObjectID) (*Object, error)
	// Before returns an object as it was in the prefix, without what is pending;
	// nil if that is not known here. It is asked for objects that a pending
	// record removed and a foreign one keeps, and where a pending CLOSE changed
	// mode or capability. Names of the answer are not looked at.
	Before(id kml.ObjectID) (*Object, error)
}

// Run is a stretch of our pending records that has to become visible at once:
// one group. First to Last is the range of own numbers that it stands for; the
// runs of a list follow each other without a gap. Usually it has one record.
//
// Changed says that the records are not, word for word, those with these numbers
// in our log, so that they have to be logged again (see Renumber). Records of a
// changed run may be more than its numbers, and share a Seq: that of the record
// they were made from. No two CLOSEs share one.
type Run struct {
	First, Last uint64
	Records     []kml.Record
	Changed     bool
}

// RunsOf makes a run of each record.
func RunsOf(records []kml.Record) []Run {
	runs := make([]Run, len(records))
	for i := range records {
		runs[i] = Run{First: records[i].Seq, Last: records[i].Seq, Records: records[i : i+1]}
	}
	return runs
}

// Bytes names a content: the CLOSE that made it, or, where Kept is set, what
// that object held in the prefix of the log that both sides know. The zero Bytes
// are none. Content is its root where known.
type Bytes struct {
	Origin   kml.UUID
	CloseSeq uint64
	Kept     kml.ObjectID
	Size     int64
	Content  kml.Content
}

// IsZero reports whether b names no bytes.
func (b Bytes) IsZero() bool { return b.Size == 0 }

// same says whether two contents are equal; known is false if nobody can tell.
func (b Bytes) same(o Bytes) (equal, known bool) {
	switch {
	case b.Size != o.Size:
		return false, true
	case b.Size == 0, b.name() == o.name():
		return true, true
	case b.Content.IsZero() || o.Content.IsZero() || b.Content.Inexact || o.Content.Inexact:
		return false, false
	}
	return b.Content == o.Content, true
}

// name is b without what may be known or not.
func (b Bytes) name() Bytes {
	b.Content = kml.Content{}
	return b
}

// StepKind is a kind of Step.
type StepKind uint8

const (
	StepIdentify StepKind = iota + 1 // the inode that is Object is New from now on, names and bytes included
	StepDetach                       // Name no longer leads to Object, which stays at hand
	StepMake                         // Object is made, without a name: Attr, Target, Xattrs, Bytes
	StepAttach                       // Name leads to Object
	StepContent                      // Object holds Bytes
	StepXattr                        // Xattr of Object is set
	StepNoXattr                      // Xattr of Object is removed
	StepAttr                         // the Valid fields of Attr are set
	StepRemove                       // Object, which has no name left, is dropped
)

var stepText = [...]string{StepIdentify: "identify", StepDetach: "detach", StepMake: "make", StepAttach: "attach",
	StepContent: "content", StepXattr: "xattr", StepNoXattr: "no-xattr", StepAttr: "attr", StepRemove: "remove"}

func (k StepKind) String() string {
	if int(k) < len(stepText) && stepText[k] != "" {
		return stepText[k]
	}
	return fmt.Sprintf("step%d", uint8(k))
}

// Step is one operation on the local tree. A step says what has to be, not what
// has to change: one that is so already is skipped, StepIdentify if New exists,
// StepMake if Object exists or is at hand without a name, StepDetach if Name
// does not lead to Object. So after a crash the whole list is done again from
// its start. Nobody may see the tree between the first step and the last.
type Step struct {
	Kind   StepKind
	Object kml.ObjectID
	New    kml.ObjectID
	Name   kml.Name
	Valid  kml.Valid
	Attr   kml.Attr
	Target string
	Xattrs []kml.Xattr
	Xattr  kml.Xattr
	Bytes  Bytes
}

func (s Step) String() string {
	return fmt.Sprintf("%v %v new %v name %v/%q valid %d %+v %q", s.Kind, s.Object, s.New, s.Name.Parent, s.Name.Name, s.Valid, s.Attr, s.Xattr.Name)
}

// Kind says what a conflict was about.
type Kind uint8

const (
	BothEdited  Kind = iota + 1 // ours is the copy Other at To
	BothNamed                   // two objects for one name: ours, Object, is at To
	BothMoved                   // theirs counts
	GoneThere                   // they removed what we changed: it is back
	GoneHere                    // we removed what they changed: it stays
	MovesCycle                  // our move would have put a directory into itself: undone
	SwapMet                     // our exchange met a move or removal: undone
	BothUnnamed                 // each took away a name, together the last: ours stays
)

var kindText = [...]string{BothEdited: "both changed the content", BothNamed: "both made the name", BothMoved: "both moved it",
	GoneThere: "changed here, removed there", GoneHere: "removed here, changed there", MovesCycle: "moves into each other",
	SwapMet: "exchange of what was moved or removed", BothUnnamed: "each removed a name, together the last"}

func (k Kind) String() string {
	if int(k) < len(kindText) && kindText[k] != "" {
		return kindText[k]
	}
	return fmt.Sprintf("kind%d", uint8(k))
}

// Side is one side of a conflict: a record, for people. Origin is who made it.
type Side struct {
	Origin kml.UUID
	Seq    uint64
	Op     kml.Op
	Time   int64
	UID    uint32
	Name   string // the last part of the path it acted on, as far as the record tells
}

// Conflict is what a merge could not settle in everybody's favour. Object is
// what it is about, Where its present name. To is the conflict name of our side
// and Other our copy, where there is one. The record of it is in the pending
// list.
type Conflict struct {
	Kind   Kind
	Object kml.ObjectID
	Other  kml.ObjectID
	Where  kml.Name
	To     kml.Name
	Ours   Side
	Theirs Side
}

// Input is what a merge starts from.
type Input struct {
	Tree    Tree
	Own     kml.UUID    // origin of our records
	Foreign []kml.Group // a unit, or several that follow each other; none of them ours
	Pending []Run       // all that is ours and not in the prefix, in order
	Writing []kml.ObjectID
	Host    string              // for conflict names
	Time    string              // for conflict names
	Mint    func() kml.ObjectID // a new id of our cache, at each call
	// Unbindable says that a pending content without a root counts as different
	// from any other, because its bytes can't be named now.
	Unbindable bool
}

// Result is what a merge leads to. Afterwards the local tree, with Steps done,
// is exactly the prefix with the foreign groups, and Pending in order on top.
type Result struct {
	Steps     []Step
	Pending   []Run
	Conflicts []Conflict
}

// NeedError says what a merge has to know first. Nothing is merged.
type NeedError struct {
	Close  []kml.ObjectID // being written and met: log an interim CLOSE of these
	Bind   []kml.ObjectID // bind the last CLOSE of these, or set Input.Unbindable
	Before []kml.ObjectID // Tree.Before has to know these; the server does
}

func (e *NeedError) Error() string {
	var parts []string
	for _, p := range []struct {
		what string
		ids  []kml.ObjectID
	}{{"an interim CLOSE of", e.Close}, {"the content root of", e.Bind}, {"the earlier state of", e.Before}} {
		if len(p.ids) > 0 {
			parts = append(parts, fmt.Sprintf("%s %v", p.what, p.ids))
		}
	}
	return "merge: needed first: " + strings.Join(parts, "; ")
}

func (e *NeedError) empty() bool { return len(e.Close)+len(e.Bind)+len(e.Before) == 0 }

// UnsupportedError is a record that a merge can't carry over. The caller goes on
// waiting, as without a merge.
type UnsupportedError struct {
	Seq  uint64
	Op   kml.Op
	What string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("merge: record %d (%v): %s", e.Seq, e.Op, e.What)
}

// ErrTree is for a tree that is not what the log and the pending records say.
var ErrTree = errors.New("the tree is not as the log says")

func treeError(format string, args ...any) error {
	return fmt.Errorf("merge: %w: %s", ErrTree, fmt.Sprintf(format, args...))
}
