package merge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// localTree is the Tree of a model: the tree as it is, and the prefix.
type localTree struct {
	tree, prefix tree
	rootless     bool // the roots of contents are not known
	asked        int  // how often Before was
}

func (l *localTree) Lookup(n kml.Name) (kml.ObjectID, error) {
	if d := l.tree[n.Parent]; d != nil {
		return d.entries[n.Name], nil
	}
	return kml.ObjectID{}, nil
}

func (l *localTree) Object(id kml.ObjectID) (*Object, error) { return l.object(l.tree, id), nil }

func (l *localTree) Before(id kml.ObjectID) (*Object, error) {
	l.asked++
	return l.object(l.prefix, id), nil
}

func (l *localTree) object(t tree, id kml.ObjectID) *Object {
	o := t[id]
	if o == nil {
		return nil
	}
	out := &Object{Attr: o.attr, Target: o.target}
	for _, x := range slices.Sorted(maps.Keys(o.xattrs)) {
		out.Xattrs = append(out.Xattrs, kml.Xattr{Name: x, Value: []byte(o.xattrs[x])})
	}
	for n := range o.names {
		out.Names = append(out.Names, n)
	}
	slices.SortFunc(out.Names, func(a, b kml.Name) int {
		return strings.Compare(a.Parent.String()+"/"+a.Name, b.Parent.String()+"/"+b.Name)
	})
	if !l.rootless {
		out.Content = kml.Content{Root: o.bytes}
	}
	return out
}

// store finds the bytes that a step names, as the stage folder and the server
// would.
type store struct {
	closes map[closeName][32]byte
	prefix tree
}

func (s *store) root(b Bytes) ([32]byte, error) {
	switch {
	case b.IsZero():
		return [32]byte{}, nil
	case !b.Kept.IsZero():
		if o := s.prefix[b.Kept]; o != nil && o.attr.Size == b.Size {
			return o.bytes, nil
		}
		return [32]byte{}, fmt.Errorf("the prefix has no such content of %v", b.Kept)
	}
	root, ok := s.closes[closeName{b.Origin, b.CloseSeq}]
	if !ok {
		return root, fmt.Errorf("nobody has the content of CLOSE %d of %v", b.CloseSeq, b.Origin)
	}
	return root, nil
}

// walk does steps on a tree, as presto would. Doing it again from the start must
// be harmless. keep lets objects without a name stay, as they do in a crash.
func (t tree) walk(steps []Step, s *store, fresh func() int) error {
	for i := range steps {
		if err := t.step(&steps[i], s, fresh); err != nil {
			return fmt.Errorf("step %d, %v: %w", i, steps[i], err)
		}
	}
	return nil
}

func (t tree) step(st *Step, s *store, fresh func() int) error {
	o := t[st.Object]
	if o == nil && st.Kind != StepMake && st.Kind != StepRemove && st.Kind != StepIdentify && st.Kind != StepDetach {
		return fmt.Errorf("no such object")
	}
	switch st.Kind {
	case StepIdentify:
		return t.identify(st)
	case StepDetach:
		d := t[st.Name.Parent]
		if d == nil {
			return nil
		}
		if d.entries[st.Name.Name] == st.Object {
			delete(d.entries, st.Name.Name)
			delete(o.names, st.Name)
		}
	case StepMake:
		return t.makeStep(st, s, fresh)
	case StepAttach:
		if t[st.Name.Parent] != nil && t[st.Name.Parent].entries[st.Name.Name] == st.Object {
			return nil
		}
		return t.link(st.Name, st.Object)
	case StepContent:
		root, err := s.root(st.Bytes)
		if err != nil {
			return err
		}
		o.bytes, o.attr.Size = root, st.Bytes.Size
		o.attr.Mtime = 12345
	case StepXattr:
		o.xattrs[st.Xattr.Name] = string(st.Xattr.Value)
		if st.Xattr.Name == xattrACL {
			v := st.Xattr.Value
			o.attr.Mode = o.attr.Mode&^0o777 | uint32(v[6])<<6 | uint32(v[14])<<3 | uint32(v[22])
		}
	case StepNoXattr:
		delete(o.xattrs, st.Xattr.Name)
	case StepAttr:
		o.stepAttr(st)
	case StepRemove:
		return t.removeStep(st, o)
	}
	return nil
}

func (o *object) stepAttr(st *Step) {
	if st.Valid&kml.ValidUID != 0 {
		o.attr.UID = st.Attr.UID
	}
	if st.Valid&kml.ValidGID != 0 {
		o.attr.GID = st.Attr.GID
	}
	if st.Valid&(kml.ValidUID|kml.ValidGID) != 0 {
		delete(o.xattrs, xattrCapability)
		o.attr.Mode &^= modeSetID
	}
	if st.Valid&kml.ValidMode != 0 {
		o.attr.Mode = st.Attr.Mode
		if _, ok := o.xattrs[xattrACL]; ok {
			o.xattrs[xattrACL] = string(acl(st.Attr.Mode))
		}
	}
	if st.Valid&kml.ValidMtime != 0 {
		o.attr.Mtime = st.Attr.Mtime
	}
}

func (t tree) removeStep(st *Step, o *object) error {
	if o == nil {
		return nil
	}
	if len(o.names) > 0 || len(o.entries) > 0 {
		return fmt.Errorf("it has %d names and %d entries", len(o.names), len(o.entries))
	}
	delete(t, st.Object)
	return nil
}

func (t tree) identify(st *Step) error {
	o := t[st.Object]
	if t[st.New] != nil {
		return nil
	}
	if o == nil {
		return fmt.Errorf("no such object")
	}
	delete(t, st.Object)
	t[st.New] = o
	for n := range o.names {
		t[n.Parent].entries[n.Name] = st.New
	}
	for name, id := range o.entries {
		delete(t[id].names, kml.Name{Parent: st.Object, Name: name})
		t[id].names[kml.Name{Parent: st.New, Name: name}] = true
	}
	return nil
}

func (t tree) makeStep(st *Step, s *store, fresh func() int) error {
	if t[st.Object] != nil {
		return nil
	}
	root, err := s.root(st.Bytes)
	if err != nil {
		return err
	}
	o := &object{attr: st.Attr, target: st.Target, bytes: root, xattrs: map[string]string{}, names: map[kml.Name]bool{}, inode: fresh()}
	for _, x := range st.Xattrs {
		o.xattrs[x.Name] = string(x.Value)
	}
	if o.isDir() {
		o.entries = map[string]kml.ObjectID{}
	}
	t[st.Object] = o
	return nil
}

// describeRuns is a pending list, to print.
func describeRuns(runs []Run) string {
	var s strings.Builder
	for _, run := range runs {
		fmt.Fprintf(&s, " %d-%d changed=%v\n", run.First, run.Last, run.Changed)
		for _, r := range run.Records {
			fmt.Fprintf(&s, "    %s\n", line(&r))
		}
	}
	return s.String()
}

func line(r *kml.Record) string {
	return fmt.Sprintf("%d %v %v at %v/%s to %v/%s replaced %v/%v last %v valid %d attr %o/%d/%d xattr %s close %d content %x", r.Seq, r.Op, r.Object,
		r.Where.Parent, r.Where.Name, r.To.Parent, r.To.Name, r.Replaced, r.ReplacedLast, r.Last, r.Valid, r.Attr.Mode, r.Attr.UID, r.Attr.GID, r.Xattr.Name, r.CloseSeq, r.Content.Root[:4])
}
