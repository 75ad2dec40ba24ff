// Package kml is the log: records, their encoding, and the append-only file
// that holds them.
//
// Two logs of one format exist for each fileset. The kernel modification log
// (KML, file "kml") has the changes made on this cache, one record a frame,
// numbered by the cache. The order log (file "order") has the groups of the
// fileset in the order that the sequencer gave them: on the server as they were
// accepted, on a replica as they were received. docs/LOG-FORMAT.md has both,
// byte by byte.
//
// The package knows nothing of FUSE, sockets or policy.
package kml
