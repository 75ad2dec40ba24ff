package channeltest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// object is one inode of the tree.
type object struct {
	attr    kml.Attr
	target  string
	data    []byte
	ctime   int64
	xattrs  map[string]string
	entries map[string]kml.ObjectID // of a directory
	names   map[kml.Name]bool
	dirty   bool // open for writing and changed since the last CLOSE
}

func (o *object) dir() bool { return o.attr.Mode&modeType == modeDir }

// tree is a file system by object ids.
type tree map[kml.ObjectID]*object

func newTree() tree {
	return tree{kml.RootID: {attr: kml.Attr{Mode: modeDir | 0o755}, entries: make(map[string]kml.ObjectID)}}
}

// entry returns what a name means.
func (t tree) entry(n kml.Name) (kml.ObjectID, bool) {
	d := t[n.Parent]
	if d == nil || !d.dir() {
		return kml.ObjectID{}, false
	}
	id, ok := d.entries[n.Name]
	return id, ok
}

func (t tree) link(id kml.ObjectID, n kml.Name) error {
	d, o := t[n.Parent], t[id]
	switch {
	case d == nil || !d.dir():
		return fmt.Errorf("%q: its directory %v is not there", n.Name, n.Parent)
	case o == nil:
		return fmt.Errorf("%q: object %v is not there", n.Name, id)
	}
	if _, taken := d.entries[n.Name]; taken {
		return fmt.Errorf("%q: the name is taken", n.Name)
	}
	d.entries[n.Name] = id
	o.names[n] = true
	return nil
}

// unlink takes a name away, and the object with its last one.
func (t tree) unlink(n kml.Name) error {
	id, ok := t.entry(n)
	if !ok {
		return fmt.Errorf("%q: there is no such name in %v", n.Name, n.Parent)
	}
	o := t[id]
	if o.dir() && len(o.entries) > 0 {
		return fmt.Errorf("%q: the directory is not empty", n.Name)
	}
	t.drop(n, id)
	if len(o.names) == 0 {
		delete(t, id)
	}
	return nil
}

func (t tree) drop(n kml.Name, id kml.ObjectID) {
	delete(t[n.Parent].entries, n.Name)
	delete(t[id].names, n)
}

// apply does what r says. bytes gives the content of a CLOSE, nil for one that
// is superseded.
func (t tree) apply(r *kml.Record, bytes func() ([]byte, error)) error {
	switch r.Op {
	case kml.OpCreate, kml.OpMkdir, kml.OpSymlink, kml.OpMknod:
		return t.make(r)
	case kml.OpUnlink, kml.OpRmdir:
		if id, _ := t.entry(r.Where); id != r.Object {
			return fmt.Errorf("%q: is not object %v", r.Where.Name, r.Object)
		}
		return t.unlink(r.Where)
	case kml.OpLink:
		return t.link(r.Object, r.To)
	case kml.OpRename:
		return t.rename(r)
	case kml.OpManifest, kml.OpNoop:
		return nil
	}
	o := t[r.Object]
	if o == nil {
		return fmt.Errorf("%v: object %v is not there", r.Op, r.Object)
	}
	return o.change(r, bytes)
}

func (t tree) make(r *kml.Record) error {
	if t[r.Object] != nil {
		return fmt.Errorf("%q: object %v is there already", r.Where.Name, r.Object)
	}
	o := &object{attr: r.Attr, target: r.Target, xattrs: make(map[string]string), names: make(map[kml.Name]bool)}
	if o.dir() {
		o.entries = make(map[string]kml.ObjectID)
	}
	for _, x := range r.Xattrs {
		o.xattrs[x.Name] = string(x.Value)
	}
	t[r.Object] = o
	return t.link(r.Object, r.Where)
}

func (t tree) rename(r *kml.Record) error {
	if id, _ := t.entry(r.Where); id != r.Object {
		return fmt.Errorf("%q: is not object %v", r.Where.Name, r.Object)
	}
	if !r.Replaced.IsZero() {
		if err := t.unlink(r.To); err != nil {
			return err
		}
	}
	t.drop(r.Where, r.Object)
	return t.link(r.Object, r.To)
}

func (o *object) change(r *kml.Record, bytes func() ([]byte, error)) error {
	switch r.Op {
	case kml.OpClose:
		data, err := bytes()
		if err != nil {
			return err
		}
		if data != nil {
			o.data = data
		}
		o.attr.Size, o.attr.Mtime = r.After.Size, r.After.Mtime
	case kml.OpSetattr:
		if r.Valid&kml.ValidMode != 0 {
			o.attr.Mode = r.Attr.Mode
		}
		if r.Valid&kml.ValidUID != 0 {
			o.attr.UID = r.Attr.UID
		}
		if r.Valid&kml.ValidMtime != 0 {
			o.attr.Mtime = r.Attr.Mtime
		}
	case kml.OpSetxattr:
		o.xattrs[r.Xattr.Name] = string(r.Xattr.Value)
	case kml.OpDelxattr:
		delete(o.xattrs, r.Xattr.Name)
	default:
		return fmt.Errorf("%v is not known to this presto", r.Op)
	}
	return nil
}

// walk gives the object of a path like a/b/c, "" for the root.
func (t tree) walk(p string) (kml.ObjectID, error) {
	id := kml.RootID
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			continue
		}
		next, ok := t.entry(kml.Name{Parent: id, Name: part})
		if !ok {
			return kml.ObjectID{}, fmt.Errorf("%s: no such file", p)
		}
		id = next
	}
	return id, nil
}

// name splits a path into the directory, which must be there, and the entry.
func (t tree) name(p string) (kml.Name, error) {
	dir, err := t.walk(path.Dir("/" + p))
	return kml.Name{Parent: dir, Name: path.Base(p)}, err
}

// dump describes everything, one line an entry, in order.
func (t tree) dump() []string {
	var lines []string
	var visit func(id kml.ObjectID, at string)
	visit = func(id kml.ObjectID, at string) {
		o := t[id]
		line := fmt.Sprintf("%s %o uid=%d mtime=%d id=%v names=%d", at, o.attr.Mode, o.attr.UID, o.attr.Mtime, id, len(o.names))
		if o.dir() {
			line = fmt.Sprintf("%s %o uid=%d id=%v", at, o.attr.Mode, o.attr.UID, id)
		} else if o.attr.Mode&modeType == modeFile {
			line += fmt.Sprintf(" size=%d data=%x", o.attr.Size, hashOf(o.data))
		}
		if o.target != "" {
			line += " -> " + o.target
		}
		for _, name := range slices.Sorted(maps.Keys(o.xattrs)) {
			line += fmt.Sprintf(" %s=%q", name, o.xattrs[name])
		}
		lines = append(lines, line)
		for _, name := range slices.Sorted(maps.Keys(o.entries)) {
			visit(o.entries[name], at+"/"+name)
		}
	}
	visit(kml.RootID, "")
	return lines
}
