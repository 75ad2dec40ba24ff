// Package channeltest is a presto in memory, for tests of what talks to one: a
// tree, its KML, the order log and the stage, with the rules of channel.Presto
// and without FUSE. The logs and the stage are real files in a temporary
// folder; the tree is a map.
//
// A Presto is also the application: Write, Rename and the others are what a
// user would do on the mount.
package channeltest
