// Package presto is what the original's kernel module was: a filter between
// applications and a bottom file system. It performs each change on the bottom,
// appends it to the log (KML) before the application has its answer, and applies
// what comes from elsewhere. It never touches the network, and never its own
// mounts.
//
// # Locks, in the order they are taken
//
//	applyMu    one application of foreign groups at a time
//	mu         of a fileset: shared by every local operation, exclusive while
//	           foreign groups change the tree
//	stripes    of the objects that an operation concerns, sorted (locks.go)
//	gate       of a file being written: shared by writes, exclusive while its
//	           CLOSE is logged or its content captured
//	logMu      number, chain and order of records; leaf
//
// Kernel notifications are sent with none of them held: the kernel sends them
// under its own inode locks, whose holders may be waiting for us.
package presto
