// Package ramdisk will make the boot image of a client whose root file system is
// a fileset: a small root that mounts the cache, waits for its first
// integration, and switches over to it.
//
// It is not built yet. The package has no code, and nothing imports it.
package ramdisk
