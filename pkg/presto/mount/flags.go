package mount

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/intermezzofs/intermezzo/pkg/config"
)

// flags are the options that every file system has.
type flags struct {
	attr  uint64   // MOUNT_ATTR_*, of the mount
	super []string // flags of the file system, by their option names
}

// readOnly reports whether the mount was asked to be read-only.
func (f flags) readOnly() bool { return f.attr&unix.MOUNT_ATTR_RDONLY != 0 }

// attrOptions are options that set or clear attributes of the mount: set, then
// the bits that are cleared first.
func attrOptions() map[string][2]uint64 {
	return map[string][2]uint64{
		"nosuid": {unix.MOUNT_ATTR_NOSUID}, "suid": {0, unix.MOUNT_ATTR_NOSUID},
		"nodev": {unix.MOUNT_ATTR_NODEV}, "dev": {0, unix.MOUNT_ATTR_NODEV},
		"noexec": {unix.MOUNT_ATTR_NOEXEC}, "exec": {0, unix.MOUNT_ATTR_NOEXEC},
		"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {0, unix.MOUNT_ATTR_NOSYMFOLLOW},
		"nodiratime": {unix.MOUNT_ATTR_NODIRATIME}, "diratime": {0, unix.MOUNT_ATTR_NODIRATIME},
		"noatime":       {unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
		"strictatime":   {unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
		"relatime":      {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
		"atime":         {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
		"norelatime":    {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
		"nostrictatime": {unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	}
}

// flagsOf gives the flags that o asks for. Later options win, as with mount(8).
func flagsOf(o config.MountOptions) (f flags) {
	table := attrOptions()
	for _, name := range o.VFS {
		switch bits, ok := table[name]; {
		case ok:
			f.attr = f.attr&^bits[1] | bits[0]
		case name == "sync", name == "dirsync", name == "lazytime":
			f.super = append(f.super, name)
		case name == "async":
			f.super = without(f.super, "sync")
		case name == "nolazytime":
			f.super = without(f.super, "lazytime")
		}
		// What is left asks for what is the case anyway.
	}
	if o.ReadOnly {
		f.attr |= unix.MOUNT_ATTR_RDONLY
	}
	return f
}

func without(list []string, name string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == name })
}

// remountFlags are the flags of mount(2) that change a mount to f.
func (f flags) remountFlags() (uintptr, error) {
	if len(f.super) > 0 {
		return 0, fmt.Errorf("option %s can't be changed by a remount", f.super[0])
	}
	flags := uintptr(unix.MS_REMOUNT)
	for attr, ms := range map[uint64]uintptr{
		unix.MOUNT_ATTR_RDONLY: unix.MS_RDONLY, unix.MOUNT_ATTR_NOSUID: unix.MS_NOSUID,
		unix.MOUNT_ATTR_NODEV: unix.MS_NODEV, unix.MOUNT_ATTR_NOEXEC: unix.MS_NOEXEC,
		unix.MOUNT_ATTR_NOSYMFOLLOW: unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NODIRATIME: unix.MS_NODIRATIME,
		unix.MOUNT_ATTR_NOATIME: unix.MS_NOATIME, unix.MOUNT_ATTR_STRICTATIME: unix.MS_STRICTATIME,
	} {
		if f.attr&attr != 0 {
			flags |= ms
		}
	}
	return flags, nil
}
