package merge

import (
	"maps"
	"slices"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// unknown says which registers of a node nobody could tell. An unknown register
// is the same in all states that did not set it.
type unknown uint8

const (
	unkMode  unknown = 1 << iota
	unkCap           // security.capability
	unkMtime         // of a directory: follows from its entries
	unkAll           // the object is not here: everything but names and type
)

// node is an object in a state.
type node struct {
	attr   kml.Attr
	target string
	xattrs map[string]string
	names  []kml.Name
	bytes  Bytes
	unk    unknown
	later  []done // what was done to an object that is not here (unkAll)
}

// done is a record and who made it.
type done struct {
	origin kml.UUID
	r      *kml.Record
}

func (n *node) isDir() bool { return n.attr.Mode&modeType == modeDir }

func (n *node) clone() *node {
	c := *n
	c.names, c.later = slices.Clone(n.names), slices.Clone(n.later)
	c.xattrs = maps.Clone(n.xattrs)
	return &c
}

func (n *node) setXattr(name, value string) {
	if n.xattrs == nil {
		n.xattrs = make(map[string]string)
	}
	n.xattrs[name] = value
}

func (n *node) xattrList() []kml.Xattr {
	var out []kml.Xattr
	for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
		out = append(out, kml.Xattr{Name: k, Value: []byte(n.xattrs[k])})
	}
	return out
}

// state is a tree: what differs from the state below it, or from the local tree.
// Errors of the local tree stick, and are looked at after each record.
type state struct {
	below   *state
	nodes   map[kml.ObjectID]*node // nil: not there
	entries map[kml.Name]kml.ObjectID
	env     *env
}

// env is what all states of a merge share.
type env struct {
	tree  Tree
	own   kml.UUID
	err   error
	need  NeedError
	asked map[kml.ObjectID]*Object             // what Before said
	last  map[kml.ObjectID]Bytes               // the content our last pending CLOSE made
	names map[kml.ObjectID]map[string]struct{} // of a directory: names that any state changed
}

func (e *env) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *env) touched(n kml.Name) {
	set := e.names[n.Parent]
	if set == nil {
		set = make(map[string]struct{})
		e.names[n.Parent] = set
	}
	set[n.Name] = struct{}{}
}

func newState(below *state, e *env) *state {
	return &state{below: below, nodes: make(map[kml.ObjectID]*node), entries: make(map[kml.Name]kml.ObjectID), env: e}
}

// get returns an object to look at, nil if it is not there.
func (s *state) get(id kml.ObjectID) *node {
	if id.IsZero() {
		return nil
	}
	for at := s; ; at = at.below {
		if n, ok := at.nodes[id]; ok {
			return n
		}
		if at.below == nil {
			return at.fetch(id)
		}
	}
}

// fetch asks the local tree.
func (s *state) fetch(id kml.ObjectID) *node {
	o, err := s.env.tree.Object(id)
	if err != nil {
		s.env.fail(err)
	}
	var n *node
	if o != nil {
		n = nodeOf(id, o)
		n.names = slices.Clone(o.Names)
		if b, ok := s.env.last[id]; ok {
			n.bytes = b
		}
	}
	s.nodes[id] = n
	return n
}

func nodeOf(id kml.ObjectID, o *Object) *node {
	n := &node{attr: o.Attr, target: o.Target}
	for _, x := range o.Xattrs {
		n.setXattr(x.Name, string(x.Value))
	}
	if n.attr.Mode&modeType == typeRegular {
		n.bytes = Bytes{Kept: id, Size: o.Attr.Size, Content: o.Content}
	}
	return n
}

// edit returns an object to change in this state, nil if it is not there.
func (s *state) edit(id kml.ObjectID) *node {
	n := s.get(id)
	if n == nil {
		return nil
	}
	if mine, ok := s.nodes[id]; ok {
		return mine
	}
	n = n.clone()
	s.nodes[id] = n
	return n
}

// full is get for who wants more than names and type: an object that is not
// here is asked for.
func (s *state) full(id kml.ObjectID) *node {
	n := s.get(id)
	if n == nil || n.unk&unkAll == 0 {
		return n
	}
	o := s.env.before(id)
	if o == nil {
		return n
	}
	n = s.edit(id)
	got := nodeOf(id, o)
	got.names, got.unk = n.names, n.unk&^unkAll
	for _, d := range n.later {
		got.register(d.origin, d.r)
	}
	*n = *got
	return n
}

// before asks what an object was in the prefix, once. nil is noted as needed.
func (e *env) before(id kml.ObjectID) *Object {
	o, ok := e.asked[id]
	if ok {
		return o
	}
	o, err := e.tree.Before(id)
	if err != nil {
		e.fail(err)
	} else if o == nil {
		e.need.Before = append(e.need.Before, id)
	}
	e.asked[id] = o
	return o
}

// entry returns what a name leads to.
func (s *state) entry(n kml.Name) kml.ObjectID {
	for at := s; ; at = at.below {
		if id, ok := at.entries[n]; ok {
			return id
		}
		if at.below == nil {
			id, err := s.env.tree.Lookup(n)
			if err != nil {
				s.env.fail(err)
			}
			at.entries[n] = id
			return id
		}
	}
}

func (s *state) setEntry(n kml.Name, id kml.ObjectID) {
	s.entries[n] = id
	s.env.touched(n)
}

// attach gives an object a name that is free.
func (s *state) attach(n kml.Name, id kml.ObjectID) error {
	d, o := s.get(n.Parent), s.edit(id)
	switch {
	case d == nil || !d.isDir():
		return treeError("no directory %v for %q", n.Parent, n.Name)
	case o == nil:
		return treeError("no object %v for %q", id, n.Name)
	case !s.entry(n).IsZero():
		return treeError("name %q in %v is taken by %v", n.Name, n.Parent, s.entry(n))
	case o.isDir() && len(o.names) > 0:
		return treeError("directory %v has a name", id)
	}
	s.setEntry(n, id)
	o.names = append(o.names, n)
	return nil
}

// detach takes a name from an object.
func (s *state) detach(n kml.Name, id kml.ObjectID) error {
	o := s.edit(id)
	if o == nil || s.entry(n) != id {
		return treeError("name %q in %v leads to %v, not %v", n.Name, n.Parent, s.entry(n), id)
	}
	s.setEntry(n, kml.ObjectID{})
	i := slices.Index(o.names, n)
	if i < 0 {
		return treeError("%v does not have the name %q in %v", id, n.Name, n.Parent)
	}
	o.names = slices.Delete(o.names, i, i+1)
	return nil
}

// empty reports whether a directory has no entries. It sees the names that some
// state of the merge changed, so all others must be known not to be.
func (s *state) empty(dir kml.ObjectID) bool { return len(s.children(dir)) == 0 }

func (s *state) children(dir kml.ObjectID) []kml.ObjectID {
	var out []kml.ObjectID
	for name := range s.env.names[dir] {
		if id := s.entry(kml.Name{Parent: dir, Name: name}); !id.IsZero() {
			out = append(out, id)
		}
	}
	return out
}

// within reports whether the directory id is top, or below it.
func (s *state) within(id, top kml.ObjectID) bool {
	for range 1 << 16 {
		if id == top {
			return true
		}
		n := s.get(id)
		if id == kml.RootID || n == nil || len(n.names) == 0 {
			return false
		}
		id = n.names[0].Parent
	}
	return true // deeper than any path: take it for a loop
}
