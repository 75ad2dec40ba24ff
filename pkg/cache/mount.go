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
func splitOptions(options []string) (attrs int, rest []string) {
	// Nothing is run from, or opened as a device on, a mount that nobody sees.
	attrs = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	for _, o := range options {
		if a, ok := mountAttrs[o]; ok {
			attrs |= a
		} else if o != "" && o != "defaults" && o != "rw" && o != "ro" {
			rest = append(rest, o)
		}
	}
	return attrs, rest
}

// mountKind mounts device, which carries kind, where nobody sees it and as a file
// system that is read-only. The mount ends with the last descriptor of it. An
// EBUSY means that the file system is mounted already.
func mountKind(device, kind string, options []string) (*os.File, error) {
	return newMount(device, kind, options, true, createAlone)
}

// joinKind mounts device as mountKind does, but where it is mounted already joins
// that; it must be read-only just then if that one is.
func joinKind(device, kind string, readOnly bool) (*os.File, error) {
	return newMount(device, kind, nil, readOnly, unix.FsconfigCreate)
}

func newMount(device, kind string, options []string, readOnly bool, create func(ctx int) error) (*os.File, error) {
	ctx, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("mount %s: this kernel has no %s driver; load it with: modprobe %s", device, kind, kind)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, privilege(err))
	}
	defer unix.Close(ctx)
	attrs, rest := splitOptions(options)
	if readOnly {
		rest = append(rest, "ro")
	}
	if err := unix.FsconfigSetString(ctx, "source", device); err != nil {
		return nil, fmt.Errorf("mount %s: %w%s", device, err, kernelLog(ctx))
	}
	for _, o := range rest {
		if err := setOption(ctx, o); err != nil {
			return nil, fmt.Errorf("mount %s as %s: option %q: %w%s", device, kind, o, err, kernelLog(ctx))
		}
	}
	if err := create(ctx); err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", device, kind, err, kernelLog(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mount %s as %s: %w%s", device, kind, err, kernelLog(ctx))
	}
	return os.NewFile(uintptr(fd), device), nil
}

// setOption gives the file system "key=value", or the flag "key".
func setOption(ctx int, option string) error {
	key, value, valued := strings.Cut(option, "=")
	if valued {
		return unix.FsconfigSetString(ctx, key, value)
	}
	return unix.FsconfigSetFlag(ctx, key)
}

func hasKey(options []string, key string) bool {
	for _, o := range options {
		if o == key || strings.HasPrefix(o, key+"=") {
			return true
		}
	}
	return false
}

// createAlone makes the superblock, or EBUSY if it exists.
func createAlone(ctx int) error {
	_, _, errno := unix.Syscall6(unix.SYS_FSCONFIG, uintptr(ctx), fsconfigCreateExcl, 0, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.EOPNOTSUPP: // an older kernel: the caller has made sure by O_EXCL
		return unix.FsconfigCreate(ctx)
	}
	return errno
}

// makeWritable makes the file system of a mount of mountKind writable.
func makeWritable(mount *os.File) error {
	ctx, err := unix.Fspick(int(mount.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("make %s writable: %w", mount.Name(), err)
	}
	defer unix.Close(ctx)
	err = unix.FsconfigSetFlag(ctx, "rw")
	if err == nil {
		err = unix.FsconfigReconfigure(ctx)
	}
	if err != nil {
		return fmt.Errorf("make %s writable: %w%s", mount.Name(), err, kernelLog(ctx))
	}
	return nil
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

// cloneFolder gives a private, read-only mount of the folder dir, without what is
// mounted below it.
func cloneFolder(dir *os.File, options []string) (*os.File, error) {
	attrs, rest := splitOptions(options)
	if len(rest) > 0 {
		return nil, fmt.Errorf("open %s: option %q is for a device, and this is a folder", dir.Name(), rest[0])
	}
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", dir.Name(), privilege(err))
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	set := unix.MountAttr{Attr_set: uint64(attrs | unix.MOUNT_ATTR_RDONLY)}
	if hasKey(options, "noatime") || hasKey(options, "strictatime") || hasKey(options, "relatime") {
		set.Attr_clr = unix.MOUNT_ATTR__ATIME
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &set); err != nil {
		f.Close()
		return nil, fmt.Errorf("set options of %s: %w", dir.Name(), err)
	}
	return f, nil
}

// makeCloneWritable makes a mount of cloneFolder writable.
func makeCloneWritable(mount *os.File) error {
	set := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH, &set); err != nil {
		return fmt.Errorf("make %s writable: %w", mount.Name(), err)
	}
	return nil
}

// privilege makes EPERM of a mount call speak.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: this must be done as root", err)
	}
	return err
}
