package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// fsconfigCreateExcl is FSCONFIG_CMD_CREATE_EXCL (Linux 6.6): like CREATE, but
// EBUSY where it would share a superblock that is mounted already.
const fsconfigCreateExcl = 8

// mountAttrs are the options that belong to a mount and not to a file system.
var mountAttrs = map[string]int{
	"nodev": unix.MOUNT_ATTR_NODEV, "nosuid": unix.MOUNT_ATTR_NOSUID, "noexec": unix.MOUNT_ATTR_NOEXEC,
	"noatime": unix.MOUNT_ATTR_NOATIME, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
	"strictatime": unix.MOUNT_ATTR_STRICTATIME, "relatime": unix.MOUNT_ATTR_RELATIME,
}

// noReplay are the options of a driver that make it leave the journal alone.
func noReplay(kind string) []string {
	switch kind {
	case "ext4":
		return []string{"noload", "errors=continue"}
	case "xfs":
		return []string{"norecovery"}
	default:
		return []string{"rescue=nologreplay"}
	}
}

// splitOptions takes the mount's own attributes out of options.
func splitOptions(options []string, readOnly bool) (attrs int, rest []string) {
	// Nothing is run from, or opened as a device on, a mount that nobody sees.
	attrs = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	if readOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	for _, o := range options {
		if a, ok := mountAttrs[o]; ok {
			attrs |= a
		} else if o != "" && o != "defaults" && o != "rw" {
			rest = append(rest, o)
		}
	}
	return attrs, rest
}

// mountKind mounts device, which carries kind, where nobody sees it. The mount
// ends with the last descriptor of it. shared allows joining a file system that
// is mounted already; without it that is EBUSY.
func mountKind(device, kind string, options []string, readOnly, shared bool) (*os.File, error) {
	ctx, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("mount %s: this kernel has no %s driver; load it with: modprobe %s", device, kind, kind)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, privilege(err))
	}
	defer unix.Close(ctx)
	attrs, rest := splitOptions(options, readOnly)
	if err := configure(ctx, device, kind, rest, readOnly); err != nil {
		return nil, err
	}
	if err := createSuperblock(ctx, device, shared); err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", device, kind, err, kernelLog(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", device, kind, err, kernelLog(ctx))
	}
	return os.NewFile(uintptr(fd), device), nil
}

func configure(ctx int, device, kind string, options []string, readOnly bool) error {
	if err := unix.FsconfigSetString(ctx, "source", device); err != nil {
		return fmt.Errorf("mount %s: %w%s", device, err, kernelLog(ctx))
	}
	if readOnly {
		options = append(options, "ro")
	} else if kind == "ext4" && !hasKey(options, "errors") {
		// A log on a file system that goes on after a fault would lie.
		options = append(options, "errors=remount-ro")
	}
	for _, o := range options {
		key, value, valued := strings.Cut(o, "=")
		var err error
		if valued {
			err = unix.FsconfigSetString(ctx, key, value)
		} else {
			err = unix.FsconfigSetFlag(ctx, key)
		}
		if err != nil {
			return fmt.Errorf("mount %s as %s: option %q: %w%s", device, kind, o, err, kernelLog(ctx))
		}
	}
	return nil
}

func hasKey(options []string, key string) bool {
	for _, o := range options {
		if o == key || strings.HasPrefix(o, key+"=") {
			return true
		}
	}
	return false
}

func createSuperblock(ctx int, device string, shared bool) error {
	if shared {
		return unix.FsconfigCreate(ctx)
	}
	_, _, errno := unix.Syscall6(unix.SYS_FSCONFIG, uintptr(ctx), fsconfigCreateExcl, 0, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.EOPNOTSUPP: // an older kernel: the caller has made sure by O_EXCL
		return unix.FsconfigCreate(ctx)
	}
	return errno
}

// kernelLog gives what the kernel said about the mount, as ": text".
func kernelLog(ctx int) string {
	var said []string
	b := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(ctx, b)
		if err != nil || n <= 0 {
			break
		}
		line := string(bytes.TrimSpace(b[:n]))
		if len(line) > 2 && line[1] == ' ' { // "e text", "w text", "i text"
			line = line[2:]
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return ""
	}
	return ": " + strings.Join(said, "; ")
}

// cloneFolder gives a private mount of the folder dir, without what is mounted
// below it.
func cloneFolder(dir *os.File, options []string, readOnly bool) (*os.File, error) {
	attrs, rest := splitOptions(options, readOnly)
	if len(rest) > 0 {
		return nil, fmt.Errorf("open %s: option %q is for a device, and this is a folder", dir.Name(), rest[0])
	}
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir.Name(), privilege(err))
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	set := unix.MountAttr{Attr_set: uint64(attrs)}
	if attrs&unix.MOUNT_ATTR__ATIME != 0 {
		set.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &set); err != nil {
		f.Close()
		return nil, fmt.Errorf("set options of %s: %w", dir.Name(), err)
	}
	return f, nil
}

// privilege makes EPERM of a mount call speak.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: this must be done as root", err)
	}
	return err
}
