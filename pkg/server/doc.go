// Package server is the server role of a daemon for one fileset: it binds and
// makes durable what is changed here, streams the order to those who follow,
// and takes what replicators push. It never decides an order itself: presto's
// Accept is the sequencer, and a Server only serialises who asks it.
//
// A Server is a wire.Backend. It answers for as long as presto does; in between
// it says that the fileset is not mounted.
package server
