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
// The owner of a log opens it as a Log, to append and read. Another process that
// was told the valid end reads it through a View. Both give Readers, which check
// every frame. Verify and Dump are for people. Gen2Reader reads the logs of the
// original InterMezzo.
//
// A log is never rewritten. What lies behind its valid end is not part of it,
// and a position (Pos) says by its chain value which history it belongs to.
// Everything is strict: there is one way to encode each thing, and whatever else
// is found is an error with its place, never a panic and never a guess.
//
// The package knows nothing of FUSE, sockets or policy.
package kml
