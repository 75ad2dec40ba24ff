// Package daemon is what lento and intersync are made of: a process that looks
// after filesets of this host. For each it waits until the cache is mounted,
// attaches to its presto, and runs its role, pkg/server or pkg/replica. One
// listener serves all filesets whose server this host is. Trouble with one
// fileset stops no other; it is told on the status socket and tried again.
//
// Beside that, it gathers for "lento status" what configuration, prestos and
// daemons of a host say (Collect).
//
// The run folder has, for each such process by its name ("lento", or
// "intersync-N" for channel N),
//
//	NAME.sock   the status socket, mode 0600: HTTP, GET /v1/status gives a Report
//	NAME.pid    its process id; flock(2)ed as long as it runs
//	NAME.log    its log while it is in the background
package daemon
