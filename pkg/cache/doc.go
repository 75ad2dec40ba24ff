// Package cache knows what a cache looks like on its bottom file system, and
// opens one safely.
//
// A cache lies on a block device, in a regular file (through a loop device), or
// in a folder. Open mounts the bottom privately: the mount is in no namespace,
// so nobody else sees it, and it ends with the process however that ends. For a
// folder it is a private view of that folder in which nothing mounted below it
// appears. Everything after that is done relative to directory descriptors, and
// symbolic links are never followed.
//
// One process owns a cache at a time: it holds the flock of the control
// folder's lock file from Open to Close. A cache that was copied, is of a newer
// format, or lies on a file system that cannot carry one is refused by name.
//
// A copy of the files of a cache is noticed by their inodes. A copy of a whole
// device or image is the same in every inode; that is noticed by the chain of the
// logs, when it meets another host.
//
// On disk, see layout.go. The two descriptions, of the cache (Info) and of each
// fileset (FilesetInfo), are TOML, decoded strictly, and always replaced whole.
//
// A Cache and its Filesets may be used by several goroutines; Close must be the
// last call.
package cache
