// Package replica is the client role of a daemon for one fileset: it follows the
// order of the server and has presto apply it, and pushes what is changed here.
// Both go on at once over one connection, which is made again whenever it
// breaks.
//
// What lives how long: a Replica, for good; a local, as long as a connection to
// presto; a conn, as long as a connection to the server. A conn has a receiver
// (follow.go), an applier (apply.go), a pusher (push.go) and fetchers of large
// contents (fetch.go), and nothing in it outlives it: where things stand is
// known by presto and the server alone, and asked at the start.
//
// Apply is never given up halfway: it runs under the context of the local.
package replica
