package presto

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/cache"
	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/kml"
	"github.com/intermezzofs/intermezzo/pkg/merge"
)

// openFileset opens a fileset's tree and logs. Recovery has not run yet.
func (p *Presto) openFileset(ctx context.Context, name string, ids *ids, dirs *dirs) (*fileset, error) {
	d, err := p.cache.Fileset(name)
	if err != nil {
		return nil, err
	}
	fs := &fileset{ctx: ctx, log: p.log, dir: d, name: name, owner: p.cache.Info().UUID, b: p.bottom, dirs: dirs, ids: ids,
		control: d.Control, root: d.Root, hints: newLRU[handle, kml.Name](32768, nil),
		hidden: map[string]bool{cache.ControlDir: true, "lost+found": true}, notify: p.channel.Notify,
		alone: len(p.cache.Filesets()) == 1, writing: map[handle]*writing{}, hot: map[dirent]int{}, info: d.Info, pending: merge.NewTouchSet(),
		unbound: map[kml.ObjectID]uint64{}, captured: map[uint64]channel.Token{}}
	if err := fs.open(); err != nil {
		return nil, errors.Join(err, fs.close())
	}
	return fs, nil
}

// open opens what the fileset's control folder has.
func (fs *fileset) open() (err error) {
	if fs.rootH, err = fs.b.handleOf(int(fs.root.Fd())); err != nil {
		return err
	}
	for name := range fs.hidden {
		if _, err := fs.b.handleAt(int(fs.root.Fd()), name); err == nil && fs.b.fsType != "btrfs" {
			fs.hiddenDirs++
		}
	}
	fs.nodes = newNodes(fs.rootH)
	fs.ids.pin(fs.rootH)
	if fs.stage, err = fs.folder(cache.StageDir); err != nil {
		return err
	}
	if fs.pos, err = loadPosition(fs.control); err != nil {
		return err
	}
	if fs.kml, err = fs.openLog(cache.KMLFile, cache.KMLIndex, &fs.kmlSpace); err != nil {
		return err
	}
	fs.order, err = fs.openLog(cache.OrderFile, cache.OrderIndex, &fs.orderSpace)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (fs *fileset) folder(name string) (*os.File, error) {
	fd, err := openRetry(int(fs.control.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (fs *fileset) file(name string, flags int) (*os.File, error) {
	fd, err := openRetry(int(fs.control.Fd()), name, unix.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openLog opens a log, keeps what a torn tail had beside it, and cuts it.
func (fs *fileset) openLog(name, indexName string, sp **space) (*kml.Log, error) {
	f, err := fs.file(name, 0)
	if err != nil {
		return nil, err
	}
	index, err := fs.file(indexName, unix.O_CREAT)
	if err != nil {
		f.Close()
		return nil, err
	}
	l, err := kml.Open(f, index)
	if errors.Is(err, kml.ErrCorrupt) {
		return nil, fmt.Errorf("%s: %w; it is left as it is, \"lento kml dump\" shows what can be read of it", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if n := l.Torn(); n > 0 {
		if err := fs.keepTorn(l, name); err != nil {
			l.Close()
			return nil, err
		}
		fs.log.Warn("log ended in the middle of a record; the torn bytes are kept beside it",
			"fileset", fs.name, "log", name, "bytes", n, "end", l.End().String())
	}
	dup, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		l.Close()
		return nil, err
	}
	if *sp, err = newSpace(os.NewFile(uintptr(dup), name)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (fs *fileset) keepTorn(l *kml.Log, name string) error {
	torn, err := l.CutTorn()
	if err != nil {
		return fmt.Errorf("%s: cut torn tail: %w", name, err)
	}
	f, err := fs.file(fmt.Sprintf("%s.torn-%d", name, time.Now().Unix()), unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(torn)
	return errors.Join(err, f.Close())
}

// startOrder makes the order log, on the server when it is told that it is one,
// on a client with the first unit.
func (fs *fileset) startOrder(epoch uint32) error {
	f, err := fs.file(cache.OrderFile+".new", unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	err = kml.Format(f, kml.Header{Kind: kml.KindOrder, Fileset: fs.info.UUID, Owner: fs.owner, Epoch: epoch, Created: time.Now().UnixNano()})
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make order log: %w", err)
	}
	c := int(fs.control.Fd())
	if err := unix.Renameat2(c, cache.OrderFile+".new", c, cache.OrderFile, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("make order log: %w", err)
	}
	l, err := fs.openLog(cache.OrderFile, cache.OrderIndex, &fs.orderSpace)
	if err != nil {
		return err
	}
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	fs.order = l
	fs.pos.applied = l.End()
	return fs.storePos()
}

// attach notes what this host is for the fileset. The first daemon says so; it
// can't change.
func (fs *fileset) attach(role channel.Role, uuid kml.UUID) error {
	fs.applyMu.Lock()
	defer fs.applyMu.Unlock()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	was := channel.Role(fs.info.Role)
	if role != channel.RoleServer && role != channel.RoleClient {
		return &channel.Error{Code: channel.ErrInvalid, Text: fmt.Sprintf("a daemon is server or client, not %q", role)}
	}
	if was != channel.RoleNone && was != role {
		return &channel.Error{Code: channel.ErrRole, Text: fmt.Sprintf("fileset %s of cache %s is a %s's; a %s wants it", fs.name, fs.owner, was, role)}
	}
	if !uuid.IsZero() && !fs.info.UUID.IsZero() && uuid != fs.info.UUID {
		return &channel.Error{Code: channel.ErrWrongFileset, Text: fmt.Sprintf(
			"fileset %s of this cache is %s, the server's or configuration's is %s: another fileset of the same name", fs.name, fs.info.UUID, uuid)}
	}
	if role == channel.RoleServer && uuid.IsZero() && fs.info.UUID.IsZero() {
		return &channel.Error{Code: channel.ErrInvalid, Text: "a server gives its fileset a uuid"}
	}
	if was != role || fs.info.UUID.IsZero() && !uuid.IsZero() {
		info := fs.info
		info.Role = string(role)
		if !uuid.IsZero() {
			info.UUID = uuid
		}
		if err := fs.dir.SetInfo(info); err != nil {
			return err
		}
		info.Root = fs.info.Root
		fs.info = info
	}
	if role != channel.RoleServer {
		return nil
	}
	if err := fs.sequencePending(); err != nil || was == role {
		return err
	}
	return fs.recordRoot()
}

// recordRoot logs what the root directory is like: no record made it, and those
// of the replicas may differ.
func (fs *fileset) recordRoot() error {
	fd := int(fs.root.Fd())
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	all := kml.ValidMode | kml.ValidUID | kml.ValidGID | kml.ValidMtime
	r := kml.Record{Op: kml.OpSetattr, Object: kml.RootID, Valid: all, Attr: picked(all, &st)}
	if _, err := fs.record(&r); err != nil {
		return err
	}
	xs, err := replicatedXattrs(fd)
	if err != nil {
		return err
	}
	for _, x := range xs {
		if _, err := fs.record(&kml.Record{Op: kml.OpSetxattr, Object: kml.RootID, Xattr: x}); err != nil {
			return err
		}
	}
	return nil
}

// sequencePending gives positions to all of the KML that has none: what was
// logged before the server knew that it is one, or what a crash cut off between
// the two logs.
func (fs *fileset) sequencePending() error {
	if fs.order == nil {
		if err := fs.startOrder(1); err != nil {
			return err
		}
	}
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	err := eachRecord(fs.kml, fs.pos.confirmed.Seq, func(f *kml.Frame, r *kml.Record) error {
		return fs.sequence(f.Pos, r, f.Time)
	})
	if err != nil {
		return err
	}
	fs.pending, fs.pendingN = merge.NewTouchSet(), 0
	fs.announce()
	return fs.storePos()
}

// close writes what is in memory and closes the files.
func (fs *fileset) close() error {
	var errs []error
	fs.logMu.Lock()
	defer fs.logMu.Unlock()
	if fs.lml != nil { // recovered: what is in memory is true
		errs = append(errs, fs.syncOrder())
		fs.pos.unbound = fs.firstUnbound()
		errs = append(errs, fs.storePos(), fs.lml.close())
	}
	for _, l := range []*kml.Log{fs.kml, fs.order} {
		if l != nil {
			errs = append(errs, l.Sync(), l.Close())
		}
	}
	errs = append(errs, fs.kmlSpace.close(), fs.orderSpace.close())
	if fs.stage != nil {
		errs = append(errs, fs.stage.Close())
	}
	return errors.Join(append(errs, fs.dir.Close())...)
}
