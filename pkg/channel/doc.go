// Package channel is the talk between presto and the daemon of one host: the
// original's /dev/intermezzoN. It is a unix stream socket at N in the run
// folder, mode 0600; presto listens, and any number of root's processes connect.
//
// A frame is: u32 length of the header, u32 length of the blob, u32 number of
// descriptors (little-endian), the header as JSON, the blob. Descriptors ride on
// the first byte by SCM_RIGHTS. Requests are answered in any order, matched by
// number; presto sends events unasked to those who attached to a fileset.
//
// Client is the caller's end, Server presto's. Both are safe for concurrent use.
package channel
