// Package mkfs makes caches: it formats a device or an image file with ext4 and
// makes a cache of it, makes one of an empty folder, or adopts a tree that is
// there already.
//
// What is on a target is found out first, by its signatures and, where a file
// system with a driver is on it, by looking inside. Anything but an empty target
// is refused, by name, with the next step; Request.Force overrules that. A
// target that is mounted or in use is always refused: to format it would destroy
// it under the feet of who uses it.
//
// The ext4 comes from go-diskfs, of which only the creation is used, or from an
// installed mke2fs; both make the same file system: 4 KiB blocks, 256-byte inodes
// with room for xattrs, a journal, extents, 64bit, dir_index, metadata_csum and no
// fast_commit. Its content is made by the kernel, through pkg/cache. XFS and
// Btrfs are made by their own tools, and then adopted.
package mkfs
