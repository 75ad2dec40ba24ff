package channel

import (
	"context"
	"os"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// Role is what a cache is for a fileset. It is told by the first daemon that
// attaches, and kept in the cache from then on.
type Role string

const (
	RoleNone   Role = ""       // no daemon has said yet: changes are logged, and pending
	RoleServer Role = "server" // the local sequencer gives positions at append
	RoleClient Role = "client" // changes are pending until the server took them
)

// Fileset is the state of a fileset in a cache, as presto knows it.
type Fileset struct {
	Name       string
	UUID       kml.UUID // zero on a client that has not met its server
	Role       Role
	Mountpoint string  // empty: served but not mounted
	Own        kml.Pos // end of the KML
	OwnBytes   int64
	Confirmed  kml.Pos // how far our own KML is part of the order
	Order      kml.Pos // end of the order log here
	Applied    kml.Pos // how far the order log is in the tree
	Writing    int     // files being written
	// Pending is what is logged here and not yet confirmed.
	PendingRecords uint64
	PendingBytes   int64  // of log, not of content
	OldestPending  int64  // wall clock ns of the oldest, 0: none
	FirstUnbound   uint64 // lowest own CLOSE that may still lack a MANIFEST; 0: none
	Damage         string // why presto stopped taking part, empty: it has not
}

// Info describes a presto.
type Info struct {
	PID      int
	Version  string
	Cache    kml.UUID
	Source   string // device, loop file or folder
	Bottom   string // type of the bottom file system
	Channel  int
	Data     string // how data travels: "presto" or "passthrough"
	Link     string // how requests travel: "dev-fuse" or "io-uring"
	Filesets []Fileset
}

// Attachment is what a daemon holds of a fileset: descriptors of its own for
// the logs (read-only) and the stage folder. Close them when done.
type Attachment struct {
	Fileset Fileset
	Cache   kml.UUID
	KML     *os.File
	Order   *os.File
	Stage   *os.File // a directory on the bottom file system, writable
}

// Event tells that something moved. Ends only grow; several may be merged.
type Event struct {
	Fileset   string
	Own       kml.Pos // end of the KML
	Order     kml.Pos
	Confirmed kml.Pos
	Closing   bool // presto is going away
}

// Token is the state of a file at the time it was opened for reading. A file
// whose token is the same afterwards was not written in between.
type Token struct {
	Ino          uint64
	Size         int64
	Mtime, Ctime int64
}

// Opened is the content of an object, opened for reading. File is nil where
// Errno is not 0 (ENOENT: the object is gone; ETXTBSY: a writer is at work).
type Opened struct {
	// CloseSeq is the CLOSE of our own KML whose bytes these are, 0 if the last
	// CLOSE of the object is bound already or was not ours.
	CloseSeq uint64
	File     *os.File
	Token    Token
	Errno    int
}

// Binding says which bytes a CLOSE of our own KML means.
type Binding struct {
	Object   kml.ObjectID
	CloseSeq uint64
	Token    Token // from Contents; presto refuses if the file has changed since
	Content  kml.Content
}

// AcceptResult tells how a push went. Groups are taken in order and the taken
// ones are a prefix; the rest met the group at OverlapAt, or Refused says why
// they can never be taken.
type AcceptResult struct {
	Accepted  int
	End       kml.Pos // of the order log, after
	OverlapAt uint64
	Refused   string
}

// ApplyResult tells how far a replica's tree is. Blocked is set, and nothing of
// the unit was applied, where it meets a pending change of our own.
type ApplyResult struct {
	Applied   kml.Pos
	Confirmed kml.Pos
	Blocked   *Blocked
}

// Blocked names both sides of a meeting that only a merge can settle.
type Blocked struct {
	Position uint64 // of the foreign group
	OwnSeq   uint64 // of our pending record, 0: a file open for writing
	Path     string // below the fileset's root, as far as known
	Detail   string
}

// StageName is the name, in the stage folder, of the content that the CLOSE
// number seq of the cache origin means. The file holds exactly those bytes and
// is owned by presto as soon as Accept or Apply was called with it.
func StageName(origin kml.UUID, seq uint64) string { return origin.String() + "." + utoa(seq) }

// Presto is what presto does for a daemon. All calls name the fileset. Errors
// are *Error over the socket. Calls may block on disk, never on the network.
type Presto interface {
	// Info never touches the mount, so it works when that hangs.
	Info(ctx context.Context) (Info, error)

	// Attach says what this host is for the fileset and starts events on this
	// connection. uuid is the server's for a client, zero if not yet known. The
	// role and uuid of a cache can't change: ErrRole, ErrWrongFileset.
	Attach(ctx context.Context, fileset string, role Role, uuid kml.UUID) (*Attachment, error)

	// Sync makes all that was done before the call durable: log, tree, content.
	Sync(ctx context.Context, fileset string) error

	// Contents opens the present content of objects (at most 128 a call). A file
	// that is being written has a non-zero Errno unless capture is set: then an
	// interim CLOSE is logged if it has changed, and a whole copy is taken while
	// its writers wait.
	Contents(ctx context.Context, fileset string, ids []kml.ObjectID, capture bool) ([]Opened, error)

	// Bind appends a MANIFEST for each binding that still holds, and says which
	// those were.
	Bind(ctx context.Context, fileset string, b []Binding) ([]bool, error)

	// Barrier logs an interim CLOSE of every file being written that has changed,
	// and returns the end of the KML.
	Barrier(ctx context.Context, fileset string) (kml.Pos, error)

	// Accept is the server's compare-and-append for groups of peer, made on top
	// of base. Content of their CLOSEs must be staged and durable.
	Accept(ctx context.Context, fileset string, peer kml.UUID, base kml.Pos, groups []kml.Group) (AcceptResult, error)

	// Apply applies groups, which follow each other in the order log from the
	// position after Applied on, as one unit. ends[i] is the position of
	// groups[i]. Content that survives the unit must be staged.
	Apply(ctx context.Context, fileset string, ends []kml.Pos, groups []kml.Group) (ApplyResult, error)

	// Path gives a present path of an object below the fileset's root, "" if it
	// has none or none is known at small cost.
	Path(ctx context.Context, fileset string, id kml.ObjectID) (string, error)
}
