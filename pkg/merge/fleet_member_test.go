package merge

import (
	"fmt"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// local makes a change at a member.
func (m *member) local() error {
	n, before := m.seq, m.tree
	if m.roll(4) == 0 {
		m.save()
	} else {
		m.change()
	}
	for _, r := range m.log[len(m.log)-int(m.seq-n):] {
		m.logged(&r, before)
	}
	m.number()
	return nil
}

// logged takes a record that was made here into the pending list.
func (m *member) logged(r *kml.Record, before tree) {
	f := m.fleet
	f.say("%d: %s", m.space[0], line(r))
	if r.Op == kml.OpClose {
		m.wrote(r, before)
		if r.Seq == m.seq && m.roll(3) == 0 { // bound by a record of its own
			bind := kml.Record{Op: kml.OpManifest, Seq: m.seq + 1, Object: r.Object, CloseSeq: r.Seq, Content: r.Content, After: r.After}
			r.Content = kml.Content{}
			m.seq++
			m.pending = append(m.pending, Run{First: r.Seq, Last: bind.Seq, Records: []kml.Record{*r, bind}})
			return
		}
	}
	m.pending = append(m.pending, Run{First: r.Seq, Last: r.Seq, Records: []kml.Record{*r}})
	lost := kml.ObjectID{}
	switch {
	case r.Op == kml.OpUnlink && r.Last:
		lost = r.Object
	case r.Op == kml.OpRename && r.ReplacedLast:
		lost = r.Replaced
	}
	o := before[lost]
	if o == nil {
		return
	}
	if o.attr.Size > 0 {
		f.seen[o.bytes] = true
	}
	// Who removes a file here does not mind what is written to it.
	for _, w := range m.writers {
		w.dirty = w.dirty && w.inode != o.inode
	}
}

// wrote notes a content that was acknowledged, and which one it supersedes.
func (m *member) wrote(r *kml.Record, before tree) {
	f := m.fleet
	f.store.closes[closeName{m.space, r.Seq}] = r.Content.Root
	if o := before[r.Object]; o != nil && o.attr.Size > 0 && o.bytes != r.Content.Root {
		f.seen[o.bytes] = true
	}
	// Of bytes that several write, one who removes them has seen them all.
	if _, known := f.seen[r.Content.Root]; !known {
		f.seen[r.Content.Root] = false
	}
}

// content is new bytes, or now and then bytes that others may write too.
func (m *member) content(r *kml.Record) {
	f := m.fleet
	f.written++
	n := f.written
	r.After.Size = int64(1 + n%5)
	r.Content.Root = [32]byte{1: byte(n >> 8), 2: byte(n), 3: m.space[0]}
	if m.roll(6) == 0 {
		r.After.Size, r.Content.Root = 3, [32]byte{0: byte(1 + m.roll(3))}
	}
}

// change is host.change with contents of ours.
func (m *member) change() {
	n := m.seq
	m.host.change()
	for i := len(m.log) - 1; i >= 0 && m.log[i].Seq > n; i-- {
		if r := &m.log[i]; r.Op == kml.OpClose {
			m.content(r)
			o := m.tree[r.Object]
			o.bytes, o.attr.Size = r.Content.Root, r.After.Size
		}
	}
}

// save is what editors do: a new file, written, renamed over the old one.
func (m *member) save() {
	over := m.anyFile()
	if over.IsZero() {
		return
	}
	to := m.nameOf(over)
	tmp := kml.Name{Parent: to.Parent, Name: []string{".tmp", "tmp" + fmt.Sprint(m.seq)}[m.roll(2)]}
	m.born++
	m.clock++
	id := kml.ObjectID{Space: m.space, Ino: 10 + m.born}
	stamp := kml.Version{Mtime: m.clock*1000 + int64(m.space[0])}
	w := kml.Record{Op: kml.OpClose, Object: id, Before: kml.Version{Mtime: m.clock}, After: kml.Version{Mtime: m.clock + 1}}
	m.content(&w)
	var list []kml.Record
	list = append(list, kml.Record{Op: kml.OpCreate, Object: id, Where: tmp, Attr: kml.Attr{Mode: typeRegular | 0o600, Mtime: m.clock}, ParentAfter: stamp}, w)
	switch m.roll(3) {
	case 0: // as git does
		to.Name = "obj"
		if !m.tree[to.Parent].entries[to.Name].IsZero() {
			return
		}
		list = append(list, kml.Record{Op: kml.OpLink, Object: id, To: to, ToAfter: stamp},
			kml.Record{Op: kml.OpUnlink, Object: id, Where: tmp, ParentAfter: stamp})
	default:
		list = append(list, kml.Record{Op: kml.OpRename, Object: id, Where: tmp, To: to, Replaced: over,
			ReplacedLast: len(m.tree[over].names) == 1, ParentAfter: stamp, Attr: kml.Attr{Mode: typeRegular}})
	}
	next := m.tree.clone()
	for i := range list {
		list[i].Seq = m.seq + uint64(i) + 1
		if list[i].Op == kml.OpUnlink {
			list[i].Old = next[id].attr
		}
		if next.apply(&list[i], nil) != nil {
			return
		}
	}
	m.tree, m.log, m.seq = next, append(m.log, list...), m.seq+uint64(len(list))
}

// open starts writing a file, or writes, or closes it.
func (m *member) write() {
	if len(m.writers) > 0 && m.roll(3) > 0 {
		w := m.writers[m.roll(len(m.writers))]
		if m.roll(2) == 0 {
			_, o := m.byInode(w.inode)
			w.dirty = o != nil // else a merge took it while nothing was written
			return
		}
		m.interim(w)
		m.writers = slices.DeleteFunc(m.writers, func(x *openFile) bool { return x == w })
		return
	}
	if id := m.anyFile(); !id.IsZero() {
		m.writers = append(m.writers, &openFile{inode: m.tree[id].inode})
	}
}

func (m *member) byInode(inode int) (kml.ObjectID, *object) {
	for id, o := range m.tree {
		if o.inode == inode {
			return id, o
		}
	}
	return kml.ObjectID{}, nil
}

// interim logs a CLOSE of what a writer has written.
func (m *member) interim(w *openFile) {
	id, o := m.byInode(w.inode)
	if o == nil || !w.dirty {
		return
	}
	w.dirty = false
	m.clock++
	r := kml.Record{Seq: m.seq + 1, Op: kml.OpClose, Object: id, Before: kml.Version{Size: o.attr.Size, Mtime: o.attr.Mtime}, After: kml.Version{Mtime: m.clock}}
	m.content(&r)
	if _, capable := o.xattrs[xattrCapability]; capable || o.attr.Mode&modeSetID != 0 {
		r.Attr.Mode = o.attr.Mode &^ modeSetID
	}
	next := m.tree.clone()
	if err := next.apply(&r, nil); err != nil {
		panic(err)
	}
	before := m.tree
	m.tree, m.log, m.seq = next, append(m.log, r), m.seq+1
	m.logged(&r, before)
}
