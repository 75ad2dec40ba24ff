package presto

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// recover brings logs and tree together after whatever ended the last presto,
// before anything is served. The cost depends on what was under way then.
func (fs *fileset) recover() error {
	f, err := fs.file(cache.LMLFile, unix.O_CREAT)
	if err != nil {
		return err
	}
	var live []slot
	if fs.lml, live, err = openLML(f); err != nil {
		f.Close()
		return err
	}
	// What was half made is made again, under the same names.
	if err := fs.cleanStage(); err != nil {
		return err
	}
	if err := fs.mendKML(); err != nil {
		return err
	}
	start := time.Now()
	if fs.server() {
		err = fs.recoverServer()
	} else {
		err = fs.recoverReplica()
	}
	if err != nil {
		return err
	}
	if err := fs.recoverSlots(live); err != nil {
		return err
	}
	if len(live) > 0 {
		fs.log.Info("recovered", "fileset", fs.name, "slots", len(live), "end", fs.kml.End().String(), "took", time.Since(start))
	}
	return nil
}

// mendKML is for a power loss that took the end of the KML and left the position,
// or the order log, which say that changes beyond it have their place. They are
// in the order. The numbers must not be given a second time, so the log goes on
// after them; the old file is kept beside it.
func (fs *fileset) mendKML() error {
	if fs.server() && fs.order != nil {
		if err := fs.findConfirmed(); err != nil {
			return err
		}
	}
	end := fs.kml.End()
	if fs.pos.confirmed.Seq <= end.Seq {
		return nil
	}
	fs.log.Error("the log lost its end, as in a power loss; changes made in its last seconds may be in the tree and not in the log",
		"fileset", fs.name, "log", cache.KMLFile, "end", end.String(), "goes on after", fs.pos.confirmed.String())
	fs.pos.unbound = 0
	return fs.restartKML(fs.pos.confirmed, fmt.Sprintf("%s.lost-%d", cache.KMLFile, time.Now().Unix()))
}

// recoverServer finishes a push that was being accepted and gives positions to
// the end of the KML.
func (fs *fileset) recoverServer() error {
	if fs.order == nil {
		return fs.sequencePending() // told to be the server, and died before it was one
	}
	if err := fs.findConfirmed(); err != nil {
		return err
	}
	if err := fs.scanUnbound(); err != nil {
		return err
	}
	g, ok, err := fs.pendingAccept()
	if err != nil {
		return err
	}
	if ok {
		a := newApplier(fs, []kml.Group{g})
		a.redo, a.recovering = true, true
		if err := fs.applyAccepted(a, &g, int(fs.pos.partial)); err != nil {
			fs.log.Warn("finish push", "fileset", fs.name, "err", err)
		}
	}
	fs.pos.partial = 0
	return fs.sequencePending()
}

// findConfirmed looks through what the order log has beyond the stored position
// for our own changes.
func (fs *fileset) findConfirmed() error {
	err := eachGroup(fs.order, fs.pos.applied.Seq, func(_ *kml.Frame, g *kml.Group) error {
		if g.Origin == fs.owner {
			fs.pos.confirmed = kml.Pos{Epoch: g.OriginEpoch, Seq: g.Last, Chain: g.Chain}
		}
		return nil
	})
	fs.synced = fs.pos.applied
	fs.pos.applied = fs.order.End()
	return err
}

// recoverReplica finds what is pending and finishes a unit that was being
// applied, beneath it.
func (fs *fileset) recoverReplica() error {
	if err := fs.scanUnbound(); err != nil {
		return err
	}
	if err := fs.findPending(); err != nil {
		return err
	}
	if fs.order == nil || fs.order.End().Seq == fs.pos.applied.Seq {
		return nil
	}
	return fs.redoUnit()
}

// findPending goes through what the order has not got yet.
func (fs *fileset) findPending() error {
	return eachRecord(fs.kml, fs.pos.confirmed.Seq, func(f *kml.Frame, r *kml.Record) error {
		fs.notePending(r, f.Offset)
		return nil
	})
}

// redoUnit applies what the order log has beyond the applied position. One
// record may have been done already.
func (fs *fileset) redoUnit() error {
	var ends []kml.Pos
	var groups []kml.Group
	err := eachGroup(fs.order, fs.pos.applied.Seq, func(f *kml.Frame, g *kml.Group) error {
		ends, groups = append(ends, f.Pos), append(groups, *g)
		return nil
	})
	if err != nil {
		return err
	}
	a := newApplier(fs, groups)
	a.redo, a.recovering = true, true
	skip := int(fs.pos.partial)
	for i := range groups {
		if err := fs.takeGroup(a, ends[i], &groups[i], skip); err != nil {
			return fmt.Errorf("finish unit at %s: %w", ends[i], err)
		}
		skip = 0
	}
	fs.dropUsed(a)
	return nil
}

// scanUnbound finds the CLOSEs of ours that still lack their bytes.
func (fs *fileset) scanUnbound() error {
	from := fs.pos.unbound
	if from > 0 {
		from--
	} else if base := fs.pos.confirmed.Seq; fs.pos.confirmed != (kml.Pos{}) && !fs.server() {
		from = base
	}
	from = min(max(from, fs.kml.Header().Base.Seq), fs.kml.End().Seq)
	return eachRecord(fs.kml, from, func(f *kml.Frame, r *kml.Record) error {
		fs.noteBinding(r)
		return nil
	})
}

// recoverSlots decides from the tree what the operations under way came to.
func (fs *fileset) recoverSlots(live []slot) error {
	for _, s := range live {
		var err error
		switch s.kind {
		case slotIntent:
			if in, ok := decodeIntent(s.body); ok {
				err = fs.recoverIntent(&in)
			}
		case slotWriting:
			if o, ok := decodeOpenFile(s.body); ok {
				err = fs.recoverWriting(&o)
			}
		}
		if err != nil {
			return err
		}
		if err := fs.lml.clear(s.n); err != nil {
			return err
		}
	}
	return nil
}

// logged reports whether the record of an intent is in the KML.
func (fs *fileset) logged(in *intent) (bool, error) {
	found := false
	err := eachRecord(fs.kml, min(in.after, fs.kml.End().Seq), func(_ *kml.Frame, r *kml.Record) error {
		found = found || r.Time == in.time && r.Op == in.op
		return nil
	})
	return found, err
}

func (fs *fileset) recoverIntent(in *intent) error {
	done, err := fs.logged(in)
	if err != nil || done {
		return err
	}
	r := kml.Record{Op: in.op, Time: in.time, Object: in.objectID,
		Cred: kml.Cred{PID: in.pid, AUID: in.uid, FSUID: in.uid, FSGID: in.gid}}
	switch in.op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		err = fs.recoverBirth(in, &r)
	case kml.OpUnlink, kml.OpRmdir:
		err = fs.recoverRemoval(in, &r)
	case kml.OpRename, kml.OpExchange, kml.OpLink:
		err = fs.recoverMove(in, &r)
	case kml.OpSetattr, kml.OpSetxattr, kml.OpDelxattr:
		err = fs.recoverAttr(in, &r)
	}
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) {
		return nil // what it was about is gone: somebody removed it, and that is logged
	}
	return err
}

func (fs *fileset) recoverBirth(in *intent, r *kml.Record) error {
	d, err := fs.dirs.get(in.parent)
	if err != nil {
		return err
	}
	defer d.put()
	n, err := fs.at(d, in.name)
	if err != nil {
		return err
	}
	fd, err := openRetry(d.fd, in.name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := chownFD(fd, int(in.owner), int(in.grp)); err != nil {
		return err
	}
	// The bottom gave it its mode, as umask and default ACL have it; a change of
	// owner takes the set-id bits from a file.
	if want := uint32(n.st.Mode) | in.mode&0o6000; in.op != kml.OpSymlink && in.mode&0o6000 != 0 {
		if err := chmodFD(fd, want); err != nil {
			return err
		}
	}
	if n.st, err = statFD(fd); err != nil {
		return err
	}
	if r.Where.Parent, err = fs.ids.ofHandle(in.parent); err != nil {
		return err
	}
	if in.op == kml.OpSymlink {
		if r.Target, err = readlinkFD(fd); err != nil {
			return err
		}
	}
	r.Object, r.Where.Name, r.Attr, r.After = n.id, in.name, attrOf(&n.st), versionOf(&n.st)
	fs.hints.put(n.h, r.Where)
	if err := fs.recordBirth(d, r, true); err != nil {
		return err
	}
	if in.op == kml.OpCreate && n.st.Size > 0 {
		return fs.recoverWriting(&openFile{h: n.h, id: n.id, cred: r.Cred, hint: r.Where})
	}
	return nil
}

func (fs *fileset) recoverRemoval(in *intent, r *kml.Record) error {
	d, err := fs.dirs.get(in.parent)
	if err != nil {
		return err
	}
	defer d.put()
	if h, err := fs.b.handleAt(d.fd, in.name); err == nil && h == in.object {
		return nil // not done
	}
	if r.Where.Parent, err = fs.ids.ofHandle(in.parent); err != nil {
		return err
	}
	st, err := statFD(d.fd)
	if err != nil {
		return err
	}
	r.Where.Name, r.ParentAfter, r.Old.Mode = in.name, versionOf(&st), in.mode
	r.Last = in.flags&intentLast != 0
	if _, err := fs.record(r); err != nil {
		return err
	}
	if r.Last || in.op == kml.OpRmdir {
		return fs.ids.gone(in.objectID, in.object)
	}
	return nil
}

func (fs *fileset) recoverMove(in *intent, r *kml.Record) error {
	to, err := fs.dirs.get(in.toParent)
	if err != nil {
		return err
	}
	defer to.put()
	if h, err := fs.b.handleAt(to.fd, in.toName); err != nil || h != in.object {
		return nil // not done
	}
	if r.To.Parent, err = fs.ids.ofHandle(in.toParent); err != nil {
		return err
	}
	r.To.Name = in.toName
	st, err := statFD(to.fd)
	if err != nil {
		return err
	}
	if in.op == kml.OpLink {
		r.ToAfter = versionOf(&st)
		_, err = fs.record(r)
		return err
	}
	from, err := fs.dirs.get(in.parent)
	if err != nil {
		return err
	}
	defer from.put()
	if r.Where.Parent, err = fs.ids.ofHandle(in.parent); err != nil {
		return err
	}
	if in.op == kml.OpRename {
		r.Attr.Mode = in.mode & unix.S_IFMT
	}
	r.Where.Name, r.Replaced, r.ReplacedLast = in.name, in.replacedID, in.flags&intentReplacedLast != 0
	fromSt, err := statFD(from.fd)
	if err != nil {
		return err
	}
	r.ParentAfter = versionOf(&fromSt)
	if in.parent != in.toParent {
		r.ToAfter = versionOf(&st)
	}
	if _, err := fs.record(r); err != nil {
		return err
	}
	if r.ReplacedLast {
		return fs.ids.gone(in.replacedID, in.replaced)
	}
	return nil
}

// recoverAttr logs what is there now: that is what the operation led to, or what
// was there before it.
func (fs *fileset) recoverAttr(in *intent, r *kml.Record) error {
	fd, err := fs.b.open(in.object, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	st, err := statFD(fd)
	if err != nil || st.Nlink == 0 {
		return err
	}
	if in.op == kml.OpSetattr {
		if in.valid == 0 {
			return nil
		}
		r.Valid, r.Attr, r.After = in.valid, picked(in.valid, &st), versionOf(&st)
		_, err = fs.record(r)
		return err
	}
	if !merge.ReplicatesXattr(in.name) {
		return nil
	}
	v, err := getXattr(fd, in.name)
	switch {
	case err == nil:
		r.Op, r.Xattr = kml.OpSetxattr, kml.Xattr{Name: in.name, Value: v}
	case noXattr(err):
		r.Op, r.Xattr = kml.OpDelxattr, kml.Xattr{Name: in.name}
	default:
		return err
	}
	_, err = fs.record(r)
	return err
}

// recoverWriting logs the CLOSE of a file that was being written.
func (fs *fileset) recoverWriting(o *openFile) error {
	fd, err := fs.b.open(o.h, unix.O_PATH)
	if err == unix.ESTALE {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := statFD(fd)
	unix.Close(fd)
	if err != nil || st.Nlink == 0 || versionOf(&st) == o.was {
		return err
	}
	w := &writing{openFile: *o, slot: -1}
	w.dirty.Store(true)
	return fs.logCloseGated(w)
}

// cleanStage removes objects that were being made.
func (fs *fileset) cleanStage() error {
	names, err := fs.stage.Readdirnames(-1)
	if err != nil {
		return err
	}
	if _, err := fs.stage.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "new.") {
			continue
		}
		if err := unlinkAny(int(fs.stage.Fd()), name); err != nil {
			return fmt.Errorf("clean stage: %w", err)
		}
	}
	return nil
}
