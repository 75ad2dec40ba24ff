package presto

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// applyUnit applies groups that follow the applied position in the order log,
// as one unit (a replica's side).
func (fs *fileset) applyUnit(ends []kml.Pos, groups []kml.Group) (channel.ApplyResult, error) {
	fs.applyMu.Lock()
	defer fs.applyMu.Unlock()
	if err := fs.readyToApply(ends, groups); err != nil {
		return channel.ApplyResult{}, err
	}
	a := newApplier(fs, groups)
	if err := a.ready(); err != nil {
		return channel.ApplyResult{}, err
	}
	names := fs.namesOf(groups)
	fs.heat(names)
	blocked, err := fs.applyLocked(a, ends, groups)
	for wait := time.Millisecond; blocked != nil && blocked.OwnSeq == 0 && err == nil && wait < patience; wait *= 2 {
		time.Sleep(wait) // a file whose RELEASE is under way is no conflict
		blocked, err = fs.applyLocked(a, ends, groups)
	}
	fs.cool(names)
	a.stale.tell(fs.kernel)
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	return channel.ApplyResult{Applied: fs.pos.applied, Confirmed: fs.pos.confirmed, Blocked: blocked}, err
}

// finishUnit completes a unit that could not be applied whole, for want of
// space for example, and lets the fileset change again.
func (fs *fileset) finishUnit() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.redoUnit(); err != nil {
		return &channel.Error{Code: channel.ErrDamaged, Text: err.Error()}
	}
	fs.damage.Store(nil)
	fs.log.Info("unit finished", "fileset", fs.name, "applied", fs.pos.applied.String())
	return nil
}

func (fs *fileset) readyToApply(ends []kml.Pos, groups []kml.Group) error {
	if d := fs.damage.Load(); d != nil {
		if fs.order == nil || fs.order.End().Seq <= fs.pos.applied.Seq {
			return &channel.Error{Code: channel.ErrDamaged, Text: *d}
		}
		if err := fs.finishUnit(); err != nil {
			return err
		}
	}
	if len(groups) == 0 || len(ends) != len(groups) {
		return &channel.Error{Code: channel.ErrInvalid, Text: "a unit has groups, and a position for each"}
	}
	if channel.Role(fs.info.Role) != channel.RoleClient {
		return &channel.Error{Code: channel.ErrRole, Text: fmt.Sprintf("fileset %s: this cache is not a client", fs.name)}
	}
	if fs.order == nil {
		if err := fs.startOrder(ends[0].Epoch); err != nil {
			return err
		}
	}
	at := fs.pos.applied
	if ends[0].Seq != at.Seq+1 || fs.order.Header().Epoch != ends[0].Epoch {
		return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf("unit begins at %s, this replica is at %s", ends[0], at)}
	}
	return nil
}

// patience is how long a unit waits for a file that is being closed.
const patience = 300 * time.Millisecond

// applyLocked checks the unit against our pending changes and applies it while
// nothing else changes the tree.
func (fs *fileset) applyLocked(a *applier, ends []kml.Pos, groups []kml.Group) (*channel.Blocked, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	blocked, err := fs.meets(ends, groups)
	if blocked != nil || err != nil {
		return blocked, err
	}
	if err := fs.logUnit(ends, groups); err != nil {
		return nil, err
	}
	// The position goes into the tree, the log is data: it has to be there first.
	if err := fs.order.Sync(); err != nil {
		return nil, err
	}
	for i := range groups {
		if err := fs.takeGroup(a, ends[i], &groups[i], 0); err != nil {
			// The log has the unit and the tree a part of it: only finishing it
			// helps. The next unit tries, and the next mount.
			fs.broken("apply "+ends[i].String(), err)
			return nil, err
		}
	}
	fs.dropUsed(a)
	fs.logMu.Lock()
	fs.announce()
	fs.logMu.Unlock()
	return nil, nil
}

// meets says whether a foreign group of the unit meets a pending change of
// ours, a file being written included. Only a merge can settle that.
func (fs *fileset) meets(ends []kml.Pos, groups []kml.Group) (*channel.Blocked, error) {
	confirmed, unlogged := fs.pos.confirmed, fs.unlogged()
	for i := range groups {
		g := &groups[i]
		if g.Origin == fs.owner {
			if err := fs.checkOwn(g); err != nil {
				return nil, err
			}
			confirmed.Seq = g.Last
			continue
		}
		for j := range g.Records {
			r := &g.Records[j]
			if o, yes := fs.pending.OverlapsAfter(confirmed.Seq, r); yes {
				return &channel.Blocked{Position: ends[i].Seq, OwnSeq: o.Held.Seq, Path: r.Where.Name, Detail: o.String()}, nil
			}
			if _, yes := unlogged.OverlapsRecord(r); yes {
				return &channel.Blocked{Position: ends[i].Seq, Path: r.Where.Name,
					Detail: "a file that is being written here was changed there: " + r.Op.String()}, nil
			}
		}
	}
	return nil, nil
}

// unlogged is what the files that are open for writing may log when they are
// closed: a pending edit each, also where nothing was written yet. The kernel may
// hold pages and a size of them that presto has not seen.
func (fs *fileset) unlogged() *merge.TouchSet {
	fs.wmu.Lock()
	defer fs.wmu.Unlock()
	set := merge.NewTouchSet()
	n := uint64(0)
	for _, w := range fs.writing {
		n++
		set.AddRecord(n, &kml.Record{Op: kml.OpClose, Object: w.id})
	}
	return set
}

// checkOwn makes sure that a group of ours that came back is what we sent.
func (fs *fileset) checkOwn(g *kml.Group) error {
	p, err := fs.kml.PosAt(g.Last)
	if g.Chain == (kml.Chain{}) {
		g.Chain = p.Chain // taken in part: the server can't know it
	}
	if err != nil || p.Chain != g.Chain || p.Epoch != g.OriginEpoch {
		return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf(
			"fileset %s: the server has changes %d..%d of this host that differ from the log here: history forked", fs.name, g.First, g.Last)}
	}
	return nil
}

// frameRoom is at least what a log adds to a body.
const frameRoom = 128

// logUnit appends the unit to the order log, all or nothing.
func (fs *fileset) logUnit(ends []kml.Pos, groups []kml.Group) error {
	var size int64
	bodies := make([][]byte, len(groups))
	flags := make([]uint8, len(groups))
	for i := range groups {
		var err error
		if bodies[i], err = groups[i].AppendTo(nil); err != nil {
			return &channel.Error{Code: channel.ErrInvalid, Text: err.Error()}
		}
		size += int64(len(bodies[i])) + frameRoom
		if i < len(groups)-1 {
			flags[i] = kml.FlagMore
		}
	}
	want := fs.order.After(bodies)
	for i := range want {
		if want[i] != ends[i] {
			return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf(
				"fileset %s: position %s of the server does not follow from the log here: history forked", fs.name, ends[i])}
		}
	}
	if err := fs.orderSpace.room(fs.order.EndOffset(), size, false); err != nil {
		return &channel.Error{Code: channel.ErrNoSpace, Text: "no space for the order log: " + err.Error()}
	}
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	if _, err := fs.order.AppendMany(kml.FrameGroup, flags, time.Now().UnixNano(), bodies); err != nil {
		return fmt.Errorf("append unit to the order log: %w", err)
	}
	return nil
}

// takeGroup applies one group of the order log, from record skip on, and moves
// the position after each record.
func (fs *fileset) takeGroup(a *applier, end kml.Pos, g *kml.Group, skip int) error {
	if g.Origin == fs.owner {
		clear(a.kept) // what is confirmed is no longer pending
		return fs.confirm(end, g)
	}
	for i := skip; i < len(g.Records); i++ {
		if err := a.apply(g.Origin, &g.Records[i]); err != nil {
			return err
		}
		a.redo = false
		if i < len(g.Records)-1 {
			if err := fs.moveTo(fs.pos.applied, uint32(i+1)); err != nil {
				return err
			}
		}
	}
	return fs.moveTo(end, 0)
}

func (fs *fileset) moveTo(applied kml.Pos, partial uint32) error {
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	fs.pos.applied, fs.pos.partial = applied, partial
	return fs.storePos()
}

// confirm takes note that changes of ours have their place in the order.
func (fs *fileset) confirm(end kml.Pos, g *kml.Group) error {
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	fs.pos.applied, fs.pos.partial = end, 0
	if g.Last > fs.pos.confirmed.Seq {
		fs.pos.confirmed = kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain}
		fs.pending.Forget(g.Last)
		fs.recountPending()
	}
	fs.pos.unbound = fs.firstUnbound()
	return fs.storePos()
}

// recountPending follows a move of the confirmed position. Called with logMu.
func (fs *fileset) recountPending() {
	fs.pendingN = fs.kml.End().Seq - fs.pos.confirmed.Seq
	fs.oldest, fs.pendOff = 0, fs.kml.EndOffset()
	if fs.pendingN == 0 {
		return
	}
	rd, err := fs.kml.ReadFrom(fs.pos.confirmed.Seq)
	if err != nil {
		return
	}
	if f, err := rd.Next(); err == nil {
		fs.oldest, fs.pendOff = f.Time, f.Offset
	}
}

// dropUsed removes staged files whose bytes were copied.
func (fs *fileset) dropUsed(a *applier) {
	for _, name := range a.used {
		if err := unix.Unlinkat(int(fs.stage.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			fs.log.Warn("remove staged file", "fileset", fs.name, "name", name, "err", err)
		}
	}
	a.used = nil
}

// namesOf are the names that groups take away or change, as the kernel may know
// them. Looked up before anything is locked: what can't be resolved is not in
// the kernel's caches either, or is made by the unit itself.
func (fs *fileset) namesOf(groups []kml.Group) []dirent {
	if fs.kernel == nil {
		return nil
	}
	var names []dirent
	add := func(n kml.Name) {
		if n.IsZero() {
			return
		}
		if h, ok := fs.handleOfID(n.Parent); ok {
			names = append(names, dirent{h, n.Name})
		}
	}
	for i := range groups {
		if groups[i].Origin == fs.owner {
			continue
		}
		for j := range groups[i].Records {
			switch r := &groups[i].Records[j]; r.Op {
			case kml.OpUnlink, kml.OpRmdir, kml.OpClose:
				add(r.Where)
				if h, ok := fs.handleOfID(r.Object); ok && r.Op == kml.OpClose {
					add(fs.hint(h, kml.Name{}))
				}
			case kml.OpRename, kml.OpExchange:
				add(r.Where)
				add(r.To)
			}
		}
	}
	return names
}

func (fs *fileset) handleOfID(id kml.ObjectID) (handle, bool) {
	if id == kml.RootID {
		return fs.rootH, true
	}
	h, ok, err := fs.ids.index.get(id)
	if err == nil && !ok && id.Space == fs.owner && id.Ino != 0 {
		return handle{id.Ino, id.Gen}, true
	}
	return h, ok && err == nil
}

// touchesSince collects what was changed in the order after base by others than
// peer, and how far peer's own changes were taken after base (0: none).
func (fs *fileset) touchesSince(base kml.Pos, peer kml.UUID) (set *merge.TouchSet, taken uint64, err error) {
	set = merge.NewTouchSet()
	err = eachGroup(fs.order, base.Seq, func(f *kml.Frame, g *kml.Group) error {
		if g.Origin == peer {
			taken = g.Last
		} else {
			set.Add(f.Pos.Seq, g)
		}
		return nil
	})
	return set, taken, err
}
