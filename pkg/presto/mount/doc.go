// Package mount puts a fileset at a mount point and takes it away again. It is
// the part of "lento mount", "lento umount" and the mount(8) helpers that runs in
// the caller's process: it checks what was asked, finds the presto that serves
// the cache or starts one, makes a FUSE mount that lies nowhere yet, hands the
// descriptor of /dev/fuse to presto over the channel, and puts the mount in its
// place once it answers. So nobody ever meets a mount that nobody serves, and
// giving up leaves nothing to be cleaned.
//
// One presto serves one cache. It is found by asking every channel of the run
// folder what it serves; the run folder holds
//
//	N        the socket of channel N
//	N.pid    the process that serves it
//	N.log    what that process had to say
//	lock     flock(2)ed while a presto is looked for and started
//
// umount(8) calls its helper without our environment, so a presto in another
// run folder is found by its command line, which begins with "@lento presto"
// (the @ also makes systemd spare it at shutdown, when its mount is still needed).
//
// An entry in the table of mount(8), /run/mount/utab, makes umount(8) call the
// helper, which waits for the end of presto (utab.go).
//
// Nothing here asks a mounted fileset anything before the mount is complete or
// once it is to go: a hung or dead presto must not hang the tools.
package mount
