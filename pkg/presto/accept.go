package presto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// accept is the server's compare-and-append: the longest prefix of the groups
// that meets nothing done since base is applied and gets positions.
func (fs *fileset) accept(peer kml.UUID, base kml.Pos, groups []kml.Group) (channel.AcceptResult, error) {
	fs.applyMu.Lock()
	defer fs.applyMu.Unlock()
	if err := fs.readyToAccept(peer, base, groups); err != nil {
		return channel.AcceptResult{}, err
	}
	names := fs.namesOf(groups)
	fs.heat(names)
	a := newApplier(fs, nil)
	res, err := fs.acceptLocked(a, peer, base, groups)
	fs.cool(names)
	a.stale.tell(fs.kernel)
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	res.End = fs.order.End()
	return res, errors.Join(err, fs.syncOrder())
}

// syncOrder makes the order log durable and stores that. Called with logMu.
func (fs *fileset) syncOrder() error {
	if fs.order == nil || !fs.server() {
		return nil
	}
	end := fs.order.End()
	if err := fs.order.Sync(); err != nil {
		return err
	}
	fs.synced = end
	return fs.storePos()
}

func (fs *fileset) readyToAccept(peer kml.UUID, base kml.Pos, groups []kml.Group) error {
	if d := fs.damage.Load(); d != nil {
		return &channel.Error{Code: channel.ErrDamaged, Text: *d}
	}
	if !fs.server() {
		return &channel.Error{Code: channel.ErrRole, Text: fmt.Sprintf("fileset %s: this cache is not the server", fs.name)}
	}
	for i := range groups {
		if groups[i].Origin != peer || peer == fs.owner {
			return &channel.Error{Code: channel.ErrInvalid, Text: "a host pushes its own changes only"}
		}
	}
	if base == (kml.Pos{}) {
		return nil // made before the first contact
	}
	if err := fs.order.Check(base); err != nil {
		return &channel.Error{Code: channel.ErrPosition, Text: fmt.Sprintf("push on top of %s: %v", base, err)}
	}
	return nil
}

func (fs *fileset) acceptLocked(a *applier, peer kml.UUID, base kml.Pos, groups []kml.Group) (res channel.AcceptResult, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	since, taken, err := fs.touchesSince(base, peer)
	if err != nil {
		return res, err
	}
	unlogged := fs.unlogged()
	for i := range groups {
		g := &groups[i]
		if g.Last <= taken {
			res.Accepted++ // the answer to an earlier push was lost
			continue
		}
		if g.First <= taken {
			res.OverlapAt = fs.order.End().Seq
			return res, nil
		}
		if o, yes := since.Overlaps(g); yes {
			res.OverlapAt = o.Held.Seq
			return res, nil
		}
		if _, yes := unlogged.Overlaps(g); yes {
			res.OverlapAt = fs.order.End().Seq
			return res, nil
		}
		if why := fs.possible(g); why != "" {
			res.Refused = why
			return res, nil
		}
		if err := fs.acceptGroup(a, g); err != nil {
			if fs.damage.Load() != nil {
				return res, err
			}
			res.Refused = err.Error()
			return res, nil
		}
		res.Accepted++
	}
	return res, nil
}

// acceptGroup applies one group and appends it to the order log. What a crash
// in between leaves is finished from the file "accept" at the next mount.
func (fs *fileset) acceptGroup(a *applier, g *kml.Group) error {
	body, err := g.AppendTo(nil)
	if err != nil {
		return err
	}
	if err := fs.orderSpace.room(fs.order.EndOffset(), int64(len(body))+frameRoom, false); err != nil {
		return fmt.Errorf("no space for the order log: %w", err)
	}
	one := newApplier(fs, []kml.Group{*g})
	if err := one.ready(); err != nil {
		return err
	}
	if err := fs.noteAccept(body); err != nil {
		return err
	}
	err = fs.applyAccepted(one, g, 0)
	a.stale.content = append(a.stale.content, one.stale.content...)
	a.stale.attrs = append(a.stale.attrs, one.stale.attrs...)
	return err
}

// applyAccepted applies a group from record skip on and appends it. If it turns
// out that it can't be done whole (the bottom is full, or can't hold an xattr),
// what was done is what the order gets, for as many changes of the peer: tree and
// log never differ, the rest stays pending there. The chain value of its log at
// that place is not known here and left zero.
func (fs *fileset) applyAccepted(a *applier, g *kml.Group, skip int) error {
	var failed error
	for i := skip; i < len(g.Records); i++ {
		if failed = a.apply(g.Origin, &g.Records[i]); failed != nil {
			if i == 0 {
				return fs.dropAccept(failed)
			}
			g.Records = g.Records[:i]
			g.Last, g.Chain = g.Records[i-1].Seq, kml.Chain{}
			break
		}
		a.redo = false
		if err := fs.moveTo(fs.pos.applied, uint32(i+1)); err != nil {
			fs.broken("store position", err)
			return err
		}
	}
	body, err := g.AppendTo(nil)
	if err != nil {
		fs.broken("encode accepted group", err)
		return err
	}
	fs.logMu.Lock()
	end, err := fs.order.Append(kml.FrameGroup, 0, time.Now().UnixNano(), body)
	fs.logMu.Unlock()
	if err != nil {
		fs.broken("append accepted group", err)
		return err
	}
	if err := fs.moveTo(end, 0); err != nil {
		fs.broken("store position", err)
		return err
	}
	fs.dropUsed(a)
	fs.logMu.Lock()
	fs.announce()
	fs.logMu.Unlock()
	return fs.dropAccept(failed)
}

const acceptFile = "accept"

// noteAccept keeps the group that is about to be applied, with its checksum and
// the end of the order log before it.
func (fs *fileset) noteAccept(body []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(body))
	b = binary.LittleEndian.AppendUint64(b, fs.order.End().Seq)
	b = append(b, body...)
	fd, err := openRetry(int(fs.stage.Fd()), acceptFile, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note group to accept: %w", err)
	}
	f := os.NewFile(uintptr(fd), acceptFile)
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// dropAccept ends an acceptance, with the error it ended with.
func (fs *fileset) dropAccept(err error) error {
	if e := unix.Unlinkat(int(fs.stage.Fd()), acceptFile, 0); e != nil {
		return errors.Join(err, e)
	}
	return err
}

// pendingAccept reads the group that a crash interrupted: ok only if the order
// log has not got it yet.
func (fs *fileset) pendingAccept() (g kml.Group, ok bool, err error) {
	fd, err := openRetry(int(fs.stage.Fd()), acceptFile, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return g, false, nil
	}
	if err != nil {
		return g, false, err
	}
	f := os.NewFile(uintptr(fd), acceptFile)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return g, false, err
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return g, false, err
	}
	if len(b) < 12 || crc32.ChecksumIEEE(b[12:]) != binary.LittleEndian.Uint32(b) {
		return g, false, nil // torn: nothing was applied yet
	}
	if binary.LittleEndian.Uint64(b[4:]) != fs.order.End().Seq {
		return g, false, nil // done
	}
	g, err = kml.DecodeGroup(b[12:])
	return g, err == nil, err
}

// possible checks what a pusher could get wrong and only the tree can tell:
// objects of elsewhere, a name of ours. Empty if there is nothing against it. That
// no directory is moved below itself is seen to by the bottom.
func (fs *fileset) possible(g *kml.Group) string {
	seen := map[kml.ObjectID]bool{} // found to be ours by an earlier record: it may have moved since
	inside := func(id kml.ObjectID, at ...kml.Name) bool {
		seen[id] = seen[id] || fs.inside(id, at...)
		return seen[id]
	}
	for i := range g.Records {
		r := &g.Records[i]
		for _, n := range []kml.Name{r.Where, r.To} {
			if n.Parent == kml.RootID && fs.hidden[n.Name] && r.Op != kml.OpClose && r.Op != kml.OpSetattr {
				return fmt.Sprintf("%s: the name %q is reserved", r.Op, n.Name)
			}
		}
		if !inside(r.Object, r.Where) || !inside(r.Replaced, r.To) || !inside(r.Where.Parent) || !inside(r.To.Parent) {
			return fmt.Sprintf("%s of %s (%q): that is not in fileset %s", r.Op, r.Object, r.Where.Name, fs.name)
		}
	}
	return ""
}

// below reports whether directory id is anc or lies below it.
func (fs *fileset) below(id, anc kml.ObjectID) bool {
	if id == anc {
		return true
	}
	if id == kml.RootID {
		return false
	}
	fd, h, err := fs.ids.find(id)
	if err != nil {
		return false // made by the group itself, or refused when applied
	}
	for depth := 0; depth < 4096; depth++ {
		if fs.ids.roots[h] { // ours, or that of another fileset of the cache
			unix.Close(fd)
			return h == fs.rootH && anc == kml.RootID
		}
		up, err := openRetry(fd, "..", unix.O_PATH|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			return false
		}
		fd = up
		if h, err = fs.b.handleOf(fd); err != nil {
			break
		}
		if pid, err := fs.ids.ofHandle(h); err == nil && pid == anc {
			unix.Close(fd)
			return true
		}
	}
	unix.Close(fd)
	return false
}
