// Package treediff compares two directory trees and names every property in
// which they differ: names, types, modes, owners, nanosecond modification
// times (of directories and symbolic links too), link targets, hard-link
// groups, extended attributes with ACLs and capabilities, device numbers,
// sizes, content and holes. It is how the tests, the lab and the demo prove
// that replicas are identical, so it shares no code with what it judges.
//
// Names may hold any bytes. Nothing is written to either tree; access times
// are left alone. The control folder and lost+found of a root are not part of
// a fileset and are left out.
package treediff
