package kml

import "fmt"

// Op is the opcode of a record. Numbers up to 16 are the original's; they never
// change and are never used again for something else.
type Op uint8

const (
	OpNoop     Op = 0
	OpCreate   Op = 1
	OpMkdir    Op = 2
	OpUnlink   Op = 3
	OpRmdir    Op = 4
	OpClose    Op = 5
	OpSymlink  Op = 6
	OpRename   Op = 7
	OpSetattr  Op = 8
	OpLink     Op = 9
	OpMknod    Op = 11
	OpWrite    Op = 12
	OpSetxattr Op = 15
	OpDelxattr Op = 16
	OpManifest Op = 32 // binds an earlier CLOSE to bytes
	OpExchange Op = 33 // renameat2(RENAME_EXCHANGE)
	OpConflict Op = 34 // a conflict about Object was made
	OpResolved Op = 35 // the conflict of record CloseSeq was resolved
)

var opNames = map[Op]string{
	OpNoop: "NOOP", OpCreate: "CREATE", OpMkdir: "MKDIR", OpUnlink: "UNLINK", OpRmdir: "RMDIR",
	OpClose: "CLOSE", OpSymlink: "SYMLINK", OpRename: "RENAME", OpSetattr: "SETATTR", OpLink: "LINK",
	OpMknod: "MKNOD", OpWrite: "WRITE", OpSetxattr: "SETXATTR", OpDelxattr: "DELXATTR",
	OpManifest: "MANIFEST", OpExchange: "EXCHANGE", OpConflict: "CONFLICT", OpResolved: "RESOLVED",
}

func (o Op) String() string {
	if s, ok := opNames[o]; ok {
		return s
	}
	return fmt.Sprintf("OP%d", uint8(o))
}

// Name is one name of an object: an entry of a directory. The zero Name means
// "not known" in a hint, and is never valid where a record acts on a name.
type Name struct {
	Parent ObjectID
	Name   string
}

// IsZero reports whether n names nothing.
func (n Name) IsZero() bool { return n == Name{} }

// Version is the state of an object that a change came from or led to. Times
// are nanoseconds since the epoch. Ctime is informative: a replica can't set it.
type Version struct {
	Size  int64
	Mtime int64
	Ctime int64
}

// Attr holds the attributes of an object that replicate, besides its xattrs.
// Mode has the type bits (S_IFMT) too. Rdev is the device number as Linux's
// statx splits it: major<<32 | minor.
type Attr struct {
	Mode  uint32
	UID   uint32
	GID   uint32
	Rdev  uint64
	Size  int64
	Mtime int64 // nanoseconds since the epoch
}

// Valid says which fields of Attr a SETATTR sets. The bits are those of Linux's
// iattr that the original logged.
type Valid uint32

const (
	ValidMode  Valid = 1
	ValidUID   Valid = 2
	ValidGID   Valid = 4
	ValidSize  Valid = 8 // never alone: a change of size is a CLOSE as well
	ValidMtime Valid = 32
)

// Cred is who did it. Auid is the real user where it is known, else FSUID.
type Cred struct {
	PID    uint32
	AUID   uint32
	FSUID  uint32
	FSGID  uint32
	Groups []uint32
}

// Xattr is one extended attribute with its full value.
type Xattr struct {
	Name  string
	Value []byte
}

// Content names bytes: the root of the hash tree over them (pkg/content). The
// zero Content means "not bound yet". Inexact marks bytes that were captured
// while a writer was at work.
type Content struct {
	Root    [32]byte
	Inexact bool
}

// IsZero reports whether c names no bytes.
func (c Content) IsZero() bool { return c == Content{} }

// Record is one change, self-contained. Which fields an opcode uses is in the
// table of docs/LOG-FORMAT.md; a field that an opcode does not use is not
// encoded, and must be zero.
//
//	CREATE MKDIR SYMLINK MKNOD  Object at Where, Attr, Xattrs it was born with, Target
//	LINK                        Object gets the further name To (Where: an older one); Replaced
//	UNLINK RMDIR                Object loses the name Where; Last; Old, Target, Xattrs: rollback
//	RENAME                      Object moves from Where to To; Replaced lost To; ReplacedLast; Attr.Mode: its type
//	EXCHANGE                    Object at Where and Replaced at To change places
//	SETATTR                     Valid fields of Attr are set; Old: before
//	SETXATTR DELXATTR           Xattr is set or removed; OldXattr: before
//	CLOSE                       Object's content changed from Before to After; Attr.Mode, Xattrs: mode and capability
//	MANIFEST                    the CLOSE with number CloseSeq of Object means Content, of After.Size bytes
type Record struct {
	Seq  uint64 // number in the log of the cache that made it; kept by the frame or the group around it
	Op   Op
	Time int64 // wall clock of the origin, nanoseconds; nothing is decided by it
	Cred Cred

	Object ObjectID
	Where  Name // the name acted on, or a current name of Object as a hint
	To     Name

	Replaced     ObjectID // who lost the name To by this, zero if nobody did
	ReplacedLast bool     // that was its last name
	Last         bool     // UNLINK: Where was the last name of Object

	Before, After             Version // of Object
	ParentBefore, ParentAfter Version // of Where.Parent
	ToBefore, ToAfter         Version // of To.Parent, where it is another directory

	Valid Valid
	Attr  Attr
	Old   Attr // rollback

	Target string // symlink text

	Xattr    Xattr   // SETXATTR, DELXATTR
	OldXattr *Xattr  // rollback; nil: there was none
	Xattrs   []Xattr // what a new object was born with (default ACL); on CLOSE the capability; on UNLINK and RMDIR rollback

	CloseSeq uint64
	Content  Content // MANIFEST; on CLOSE when bound at birth

	Data   []byte // WRITE
	Offset int64  // WRITE
}

// Group is the unit of visibility of a fileset's order log: it is staged whole,
// applied whole and confirmed whole. First and Last are the range of the
// origin's own log that it stands for, and Chain is the chain value of that log
// at Last. Records may be fewer than Last-First+1: what cancelled is left out.
type Group struct {
	Origin      UUID
	OriginEpoch uint32
	First, Last uint64
	Chain       Chain
	Records     []Record
}
