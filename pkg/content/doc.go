// Package content names bytes by hash, checks them, and keeps what is on its
// way in.
//
// # The hash tree
//
// Content of size bytes is cut into leaves of 64 KiB (LeafSize); the last may
// be shorter, and content of no bytes has one leaf of none. With H for SHA-256
// and | for concatenation:
//
//	leaf = H(0x00 | bytes)
//	node = H(0x01 | the hashes of its children)   16 children, the last of a level fewer
//	root = H(0x02 | size as 64 bits, little-endian | top)
//
// where top is the one hash of the first level that has one. The first byte
// keeps the three apart, and the size fixes the shape, so no two contents have
// one root. Holes are bytes of value zero. A Proof holds the hashes that lead
// from a range of leaves to the root, so that ranges verify alone.
//
// # The stage
//
// A Stage is a folder of contents that were received but are not yet part of the
// tree. A content appears there under its name only whole and verified. Holes of
// sparse files stay holes.
//
// Nothing here knows of records' meaning, FUSE or the network.
package content
