// Package merge is the pure core of replication: which changes meet, which runs
// of groups make whole units, and which groups a peer may push at all. It has
// no I/O, no clock and no goroutines, so that it can be tested by simulation.
//
// # When changes meet
//
// Two changes that were made without knowledge of each other may be applied in
// either order, with one result, unless they overlap. Touches says what a
// record touches: it *writes* what it changes and *needs* what must be there
// for it. The same key met by write and write, or by write and need, is an
// overlap; need and need is none. Overlap may be judged too coarsely (that
// costs a round trip, or a merge that finds nothing to do), never too finely
// (that makes replicas differ).
//
// Keys are facets of objects (by id, so that renames above change nothing),
// names (directory id and name), and the shape of the tree (FacetFate and so on):
//
//	Fate      the object exists. Written by what makes it and by what takes its
//	          last name; needed by everything else about it, and by everything
//	          that names it as a parent. So "remove" meets every edit, link and
//	          move of the object, and rmdir meets every entry made in it.
//	Links     the number of its names. Written by what takes one away: of two
//	          removals of different names neither would know that it is the last.
//	Place     where it is. Written by renames.
//	Content   bytes and size.
//	Mode UID GID Mtime   one register each.
//	Privilege set-id bits and the capability, which a change of owner clears.
//	Xattr     one register for each name. The access ACL is part of Mode too.
//	Conflict  the state of the conflicts about the object.
//	Name      one entry of a directory.
//	Shape     who is below whom: moves of directories to another parent.
//
// Times of directories that follow from changes of their entries are no keys,
// or any two files made in one directory would meet: the last record in the
// order sets them (TouchSet.DirTouched). Hints (Record.Where of a record that
// acts on an object, not on a name) are no keys either: they may be stale.
//
// # Units
//
// Former cuts a run of groups where everything up to the cut is a state that
// the origin really had, content included, as far as content is at hand.
//
// None of the types is safe for concurrent use.
package merge
