package channeltest

import (
	"fmt"

	"github.com/intermezzofs/intermezzo/pkg/channel"
	"github.com/intermezzofs/intermezzo/pkg/content"
	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// tick is the clock: it only grows. Called with mu held.
func (p *Presto) tick() int64 {
	p.clock += 1001
	return p.clock
}

// log appends a change that was made here. Called with mu held. Trouble with
// the log ends the test.
func (p *Presto) log(r kml.Record) uint64 {
	r.Time = p.tick()
	body, err := r.AppendTo(nil)
	if err != nil {
		p.t.Errorf("encode %v: %v", r.Op, err)
		return 0
	}
	pos, err := p.kml.Append(kml.FrameRecord, 0, r.Time, body)
	if err != nil {
		p.t.Errorf("append %v: %v", r.Op, err)
		return 0
	}
	r.Seq = pos.Seq
	p.note(&r)
	if p.role == channel.RoleServer {
		if err := p.sequence(pos, r); err != nil {
			p.t.Errorf("sequence %v: %v", r.Op, err)
		}
	} else {
		p.pending.AddRecord(r.Seq, &r)
	}
	p.announce()
	return pos.Seq
}

// note follows which CLOSEs lack their content.
func (p *Presto) note(r *kml.Record) {
	switch {
	case r.Op == kml.OpClose && r.Content.IsZero() && r.After.Size > 0:
		p.unbound[r.Object] = r.Seq
	case r.Op == kml.OpClose:
		delete(p.unbound, r.Object)
	case r.Op == kml.OpManifest:
		if p.unbound[r.Object] == r.CloseSeq {
			delete(p.unbound, r.Object)
		}
		delete(p.captured, r.CloseSeq)
	case r.Op == kml.OpUnlink && r.Last:
		delete(p.unbound, r.Object)
	case r.ReplacedLast:
		delete(p.unbound, r.Replaced)
	}
}

func (p *Presto) sequence(own kml.Pos, r kml.Record) error {
	g := kml.Group{Origin: p.cache, OriginEpoch: own.Epoch, First: own.Seq, Last: own.Seq, Chain: own.Chain, Records: []kml.Record{r}}
	body, err := g.AppendTo(nil)
	if err != nil {
		return err
	}
	p.applied, err = p.order.Append(kml.FrameGroup, 0, p.clock, body)
	p.confirmed = own
	return err
}

// do makes a change of the application: in the tree, then in the log.
func (p *Presto) do(r kml.Record) error {
	if err := p.tree.apply(&r, nil); err != nil {
		return err
	}
	p.log(r)
	return nil
}

func (p *Presto) newID() kml.ObjectID {
	p.nextIno++
	return kml.ObjectID{Space: p.cache, Ino: p.nextIno, Gen: 1, Birth: p.tick()}
}

// must ends the test on an error of an operation of the application.
func (p *Presto) must(what string, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Errorf("%s: %v", what, err)
	}
}

// Mkdir makes a directory.
func (p *Presto) Mkdir(path string) { p.make(path, kml.OpMkdir, modeDir|0o755, "") }

// Symlink makes a symbolic link.
func (p *Presto) Symlink(path, target string) { p.make(path, kml.OpSymlink, modeLink|0o777, target) }

func (p *Presto) make(path string, op kml.Op, mode uint32, target string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.tree.name(path)
	if err == nil {
		err = p.do(kml.Record{Op: op, Object: p.newID(), Where: n, Attr: kml.Attr{Mode: mode, Mtime: p.tick()}, Target: target})
	}
	p.must(fmt.Sprintf("%v %s", op, path), err)
}

// Write writes a file, which is made if it is not there, and closes it.
func (p *Presto) Write(path string, data []byte) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.open(path, data)
	p.must("write "+path, err)
	if err == nil {
		p.logClose(id)
	}
}

// WriteOpen is Write by a program that keeps the file open.
func (p *Presto) WriteOpen(path string, data []byte) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.open(path, data)
	p.must("write "+path, err)
}

// Close closes a file that WriteOpen left open.
func (p *Presto) Close(path string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.tree.walk(path)
	p.must("close "+path, err)
	if err == nil {
		p.logClose(id)
	}
}

func (p *Presto) open(path string, data []byte) (kml.ObjectID, error) {
	n, err := p.tree.name(path)
	if err != nil {
		return kml.ObjectID{}, err
	}
	id, ok := p.tree.entry(n)
	if !ok {
		id = p.newID()
		if err := p.do(kml.Record{Op: kml.OpCreate, Object: id, Where: n, Attr: kml.Attr{Mode: modeFile | 0o644, Mtime: p.tick()}}); err != nil {
			return id, err
		}
	}
	o := p.tree[id]
	o.data, o.dirty = data, true
	o.attr.Mtime = p.tick()
	o.attr.Size, o.ctime = int64(len(data)), o.attr.Mtime
	return id, nil
}

// logClose logs what a file that was written is now. Called with mu held.
func (p *Presto) logClose(id kml.ObjectID) {
	o := p.tree[id]
	o.dirty = false
	r := kml.Record{Op: kml.OpClose, Object: id, After: kml.Version{Size: int64(len(o.data)), Mtime: o.attr.Mtime, Ctime: o.ctime}, Attr: kml.Attr{Mode: o.attr.Mode}}
	for n := range o.names {
		r.Where = n
		break
	}
	if len(o.data) > 0 && len(o.data) <= BindAtBirth {
		r.Content = kml.Content{Root: content.SumBytes(o.data)}
	}
	p.log(r)
}

// Remove removes a name: a file's or an empty directory's.
func (p *Presto) Remove(path string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.tree.name(path)
	id, ok := p.tree.entry(n)
	switch {
	case err != nil:
	case !ok:
		err = fmt.Errorf("no such file")
	case p.tree[id].dir():
		err = p.do(kml.Record{Op: kml.OpRmdir, Object: id, Where: n, Last: true})
	default:
		err = p.do(kml.Record{Op: kml.OpUnlink, Object: id, Where: n, Last: len(p.tree[id].names) == 1})
	}
	p.must("remove "+path, err)
}

// Rename moves a name, over another if that is there.
func (p *Presto) Rename(from, to string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.must("rename "+from+" "+to, p.rename(from, to))
}

func (p *Presto) rename(from, to string) error {
	n, err := p.tree.name(from)
	if err != nil {
		return err
	}
	m, err := p.tree.name(to)
	if err != nil {
		return err
	}
	id, ok := p.tree.entry(n)
	if !ok {
		return fmt.Errorf("no such file")
	}
	r := kml.Record{Op: kml.OpRename, Object: id, Where: n, To: m}
	if old, ok := p.tree.entry(m); ok {
		r.Replaced, r.ReplacedLast = old, len(p.tree[old].names) == 1
	}
	return p.do(r)
}

// Link gives a file a further name.
func (p *Presto) Link(from, to string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.tree.walk(from)
	if err == nil {
		var n kml.Name
		if n, err = p.tree.name(to); err == nil {
			err = p.do(kml.Record{Op: kml.OpLink, Object: id, To: n})
		}
	}
	p.must("link "+from+" "+to, err)
}

// Chmod changes the permission bits.
func (p *Presto) Chmod(path string, mode uint32) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.tree.walk(path)
	if err == nil {
		old := p.tree[id].attr
		err = p.do(kml.Record{Op: kml.OpSetattr, Object: id, Valid: kml.ValidMode,
			Attr: kml.Attr{Mode: old.Mode&modeType | mode}, Old: kml.Attr{Mode: old.Mode}})
	}
	p.must("chmod "+path, err)
}

// Setxattr sets an extended attribute.
func (p *Presto) Setxattr(path, name, value string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.tree.walk(path)
	if err == nil {
		err = p.do(kml.Record{Op: kml.OpSetxattr, Object: id, Xattr: kml.Xattr{Name: name, Value: []byte(value)}})
	}
	p.must("setxattr "+path, err)
}

// Read gives the content of a file.
func (p *Presto) Read(path string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.tree.walk(path)
	if err != nil {
		return nil, err
	}
	return p.tree[id].data, nil
}
