package presto

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// fileset is one fileset of the cache with its logs.
type fileset struct {
	ctx        context.Context // ends with the presto
	log        *slog.Logger
	dir        *cache.Fileset
	name       string
	owner      kml.UUID // of the cache
	b          *bottom
	dirs       *dirs
	ids        *ids
	lml        *lml
	control    *os.File
	stage      *os.File
	root       *os.File
	rootH      handle
	nodes      *nodes
	hints      *lru[handle, kml.Name]
	hidden     map[string]bool // names in the root that are not the fileset's
	hiddenDirs uint32          // how many of them there are, all folders: the root's link count has them
	alone      bool            // the cache has no other fileset
	notify     func(channel.Event)

	applyMu sync.Mutex
	mu      sync.RWMutex
	locks   stripes

	wmu     sync.Mutex
	writing map[handle]*writing

	hotMu sync.Mutex
	hot   map[dirent]int // names about to change under the kernel's caches

	// Below here: changed under logMu.
	logMu                sync.Mutex
	info                 cache.FilesetInfo
	kml                  *kml.Log
	order                *kml.Log // nil until a daemon said what this host is
	kmlSpace, orderSpace *space
	pos                  position
	synced               kml.Pos // server: end of the order log that is durable
	pending              *merge.TouchSet
	pendingN             uint64
	oldest               int64
	pendOff              int64 // offset in the KML of the first pending record
	unbound              map[kml.ObjectID]uint64
	captured             map[uint64]channel.Token
	buf                  []byte
	damage               atomic.Pointer[string]
	tick                 atomic.Int64 // last time given to an intent
	made                 atomic.Int64 // objects made in the stage folder

	kernel *kernelCaches // nil while not mounted
	mount  string
}

// dirent is a directory entry of the bottom.
type dirent struct {
	parent handle
	name   string
}

// space keeps room reserved behind the end of a log, so that an append does not
// fail after its operation was done.
type space struct {
	f     *os.File
	ahead int64 // reserved in one go
	upTo  atomic.Int64
}

// A record has at most two xattr values of 64 KiB and little besides; several
// operations may be under way at once.
const (
	minAhead = 512 << 10
	maxAhead = 4 << 20
)

// newSpace takes f over. A small bottom gets a small reserve.
func newSpace(f *os.File) (*space, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	total := int64(st.Blocks) * st.Bsize
	return &space{f: f, ahead: min(max(total/32, minAhead), maxAhead)}, nil
}

// room makes sure that need bytes can be appended at end, and some more. It
// fails with ENOSPC while nothing has been done yet; removals, which give room
// back, may use the last of the reserve.
func (s *space) room(end, need int64, removal bool) error {
	low := s.ahead / 2
	if removal {
		low = s.ahead / 8
	}
	left := s.upTo.Load() - end
	if left >= need+s.ahead/2 {
		return nil
	}
	err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, end, need+s.ahead)
	switch {
	case err == nil:
		s.upTo.Store(end + need + s.ahead)
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), left >= need+low:
		return nil
	}
	return err
}

func (s *space) close() error {
	if s == nil {
		return nil
	}
	return s.f.Close()
}

// begin starts a local change: it may not overlap with the application of a
// foreign group. end ends it. Not to be nested.
func (fs *fileset) begin(removal bool) error {
	fs.mu.RLock()
	err := fs.room(removal)
	if fs.damage.Load() != nil {
		err = unix.EROFS
	}
	if err != nil {
		fs.mu.RUnlock()
	}
	return err
}

func (fs *fileset) end() { fs.mu.RUnlock() }

func (fs *fileset) room(removal bool) error {
	if err := fs.kmlSpace.room(fs.kml.EndOffset(), 0, removal); err != nil {
		return err
	}
	if fs.orderSpace == nil {
		return nil
	}
	return fs.orderSpace.room(fs.order.EndOffset(), 0, removal)
}

// broken stops the fileset from changing: its log could not follow its tree.
func (fs *fileset) broken(what string, err error) {
	text := what + ": " + err.Error()
	if fs.damage.CompareAndSwap(nil, &text) {
		fs.log.Error("fileset is read-only from now on", "fileset", fs.name, "cause", text)
	}
}

func (fs *fileset) server() bool { return fs.info.Role == string(channel.RoleServer) }

// record appends a change that was just made to the KML and, on the server, to
// the order. The caller holds mu shared and the locks of the objects, so that
// the log has them in the order of the tree.
func (fs *fileset) record(r *kml.Record) (uint64, error) {
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	return fs.recordLocked(r)
}

func (fs *fileset) recordLocked(r *kml.Record) (uint64, error) {
	now := time.Now().UnixNano()
	if r.Time == 0 {
		r.Time = now
	}
	body, err := r.AppendTo(fs.buf[:0])
	if err != nil {
		fs.broken("encode "+r.Op.String(), err)
		return 0, unix.EIO
	}
	fs.buf = body
	off := fs.kml.EndOffset()
	pos, err := fs.kml.Append(kml.FrameRecord, 0, now, body)
	if err != nil {
		fs.broken("append to the log", err)
		return 0, unix.EIO
	}
	r.Seq = pos.Seq
	fs.noteBinding(r)
	if fs.server() {
		err = fs.sequence(pos, r, now)
	} else {
		fs.notePending(r, off)
	}
	fs.announce()
	return pos.Seq, err
}

// intend notes an operation that is about to be done; its record gets the
// intent's time, which no other has, so that recovery can tell whether it was
// logged.
func (fs *fileset) intend(in *intent) (slot int, err error) {
	for {
		last := fs.tick.Load()
		in.time = max(time.Now().UnixNano(), last+1)
		if fs.tick.CompareAndSwap(last, in.time) {
			break
		}
	}
	in.after = fs.kml.End().Seq
	return fs.lml.take(slotIntent, in.encode())
}

// sequence is the local sequencer: on the server a change has its position as
// soon as it is logged.
func (fs *fileset) sequence(own kml.Pos, r *kml.Record, now int64) error {
	g := kml.Group{Origin: fs.owner, OriginEpoch: own.Epoch, First: own.Seq, Last: own.Seq, Chain: own.Chain, Records: []kml.Record{*r}}
	body, err := g.AppendTo(nil)
	if err == nil {
		var end kml.Pos
		if end, err = fs.order.Append(kml.FrameGroup, 0, now, body); err == nil {
			fs.pos.applied, fs.pos.confirmed = end, own
			return nil
		}
	}
	fs.broken("append to the order log", err)
	return unix.EIO
}

func (fs *fileset) notePending(r *kml.Record, offset int64) {
	if fs.pendingN == 0 {
		fs.oldest, fs.pendOff = r.Time, offset
	}
	fs.pendingN++
	fs.pending.AddRecord(r.Seq, r)
}

// noteBinding follows which CLOSEs of ours still lack their bytes.
func (fs *fileset) noteBinding(r *kml.Record) {
	switch r.Op {
	case kml.OpClose:
		if r.Content.IsZero() && r.After.Size > 0 {
			fs.unbound[r.Object] = r.Seq
		} else {
			delete(fs.unbound, r.Object)
		}
	case kml.OpManifest:
		if fs.unbound[r.Object] == r.CloseSeq {
			delete(fs.unbound, r.Object)
		}
		delete(fs.captured, r.CloseSeq)
	case kml.OpUnlink:
		if r.Last {
			delete(fs.unbound, r.Object)
		}
	case kml.OpRename:
		if r.ReplacedLast {
			delete(fs.unbound, r.Replaced)
		}
	}
}

func (fs *fileset) firstUnbound() uint64 {
	var first uint64
	for _, seq := range fs.unbound {
		if first == 0 || seq < first {
			first = seq
		}
	}
	return first
}

// announce tells the daemon where the logs end. Called with logMu.
func (fs *fileset) announce() {
	e := channel.Event{Fileset: fs.name, Own: fs.kml.End(), Confirmed: fs.pos.confirmed}
	if fs.order != nil {
		e.Order = fs.order.End()
	}
	fs.notify(e)
}

// status describes the fileset without touching the tree.
func (fs *fileset) status() channel.Fileset {
	fs.wmu.Lock()
	writing := len(fs.writing)
	fs.wmu.Unlock()
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	s := channel.Fileset{
		Name: fs.name, UUID: fs.info.UUID, Role: channel.Role(fs.info.Role), Mountpoint: fs.mount,
		Own: fs.kml.End(), OwnBytes: fs.kml.EndOffset(), Confirmed: fs.pos.confirmed, Applied: fs.pos.applied,
		Writing: writing, FirstUnbound: fs.firstUnbound(), PendingRecords: fs.pendingN,
	}
	if fs.order != nil {
		s.Order = fs.order.End()
	}
	if fs.pendingN > 0 {
		s.PendingBytes, s.OldestPending = fs.kml.EndOffset()-fs.pendOff, fs.oldest
	}
	if d := fs.damage.Load(); d != nil {
		s.Damage = *d
	}
	return s
}
