package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Options say how to open a cache. The zero value is the ordinary way.
type Options struct {
	// CacheType is what the administrator says the bottom is: "" (find out), ext2,
	// ext3 and ext4 (all served by the ext4 driver), xfs, btrfs, or for a folder
	// also tmpfs.
	CacheType string
	// ReadOnly changes nothing but what replaying a journal changes.
	ReadOnly bool
	// NoReplay, with ReadOnly, changes not even that: a journal is not replayed, and
	// what it holds is not seen.
	NoReplay bool
	// BottomOptions are mount options for the bottom: of its driver ("commit=30")
	// for a device, or of the mount ("noatime") for any. "ro" is ReadOnly.
	BottomOptions []string
	// AcceptCopy opens a cache that was copied; Cache.Copied then tells.
	AcceptCopy bool
}

func (o Options) readOnly() bool { return o.ReadOnly || slices.Contains(o.BottomOptions, "ro") }

// Bottom is a bottom file system, privately mounted: the ground of a cache, or
// of what is to become one.
type Bottom struct {
	source   string
	device   string // "" for a folder
	kind     string
	readOnly bool
	mount    *os.File
	root     *os.File
	loop     *loopDevice // nil unless source is a regular file
	mountID  uint64      // to find who keeps it, 0 unknown
}

// Mount mounts the bottom at source, a block device, an image file or a folder.
// It does not look for a cache on it. Errors: *Error with ErrInUse, ErrBottom or
// ErrNotCache (nothing on it that could carry one), or what the system said. It
// blocks while the kernel replays a journal. The caller closes the Bottom.
func Mount(ctx context.Context, source string, o Options) (*Bottom, error) {
	b, err := mountReadOnly(ctx, source, o)
	if err != nil || o.readOnly() {
		return b, err
	}
	if err := b.MakeWritable(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// mountReadOnly is Mount before anything may be written to the bottom.
func mountReadOnly(ctx context.Context, source string, o Options) (*Bottom, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := resolve(source)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	b := &Bottom{source: path, readOnly: true}
	switch mode := st.Mode(); {
	case mode.IsDir():
		err = b.openFolder(o)
	case mode.IsRegular():
		if b.loop, err = attachLoop(ctx, path, o.readOnly(), o.NoReplay); err == nil {
			b.device = b.loop.path
			err = b.openDevice(o)
		}
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		b.device = path
		err = b.openDevice(o)
	default:
		err = &Error{Source: path, Kind: ErrNotCache, Detail: "is neither a block device, nor an image file, nor a folder"}
	}
	if err == nil {
		err = b.openRoot()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// resolve gives the absolute path of source without symbolic links.
func resolve(source string) (string, error) {
	path, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", fmt.Errorf("find cache: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("find cache: %w", err)
	}
	return path, nil
}

// driver gives the kind that CacheType asks for, "" if it leaves it open.
func (o Options) driver() (string, error) {
	switch o.CacheType {
	case "ext2", "ext3", "ext4":
		return "ext4", nil
	case "", "xfs", "btrfs", "tmpfs":
		return o.CacheType, nil
	}
	return "", fmt.Errorf("cache type %q: want ext2, ext3, ext4, xfs, btrfs or tmpfs", o.CacheType)
}

func (b *Bottom) openFolder(o Options) error {
	want, err := o.driver()
	if err != nil {
		return err
	}
	dir, err := os.OpenFile(b.source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	kind, ok, err := folderType(dir)
	if err != nil {
		return err
	}
	if !ok {
		detail := fmt.Sprintf("lies on a %s file system, which cannot carry a cache; use ext4, xfs, btrfs or tmpfs", kind)
		if kind == "FUSE" {
			detail += " (if this is where a cache is mounted, name its device or folder instead)"
		}
		return &Error{Source: b.source, Kind: ErrBottom, Detail: detail}
	}
	if want != "" && want != kind {
		return b.wrongType(o.CacheType, kind)
	}
	b.kind = kind
	b.mount, err = cloneFolder(dir, o.BottomOptions)
	return err
}

func (b *Bottom) wrongType(said, found string) error {
	return &Error{Source: b.source, Kind: ErrBottom,
		Detail: fmt.Sprintf("carries %s, but the cache type given is %s; correct it, or leave it out", found, said)}
}

func (b *Bottom) openDevice(o Options) error {
	want, err := o.driver()
	if err != nil {
		return err
	}
	if want == "tmpfs" {
		return &Error{Source: b.source, Kind: ErrBottom, Detail: "tmpfs is not on a device: name a folder on it"}
	}
	kind, err := b.probe()
	if err != nil {
		return err
	}
	switch {
	case kind == "":
		return &Error{Source: b.source, Kind: ErrNotCache, Detail: "not a cache: no ext4, xfs or btrfs is on it; format it with: mkizofs " + b.source}
	case want != "" && want != kind:
		return b.wrongType(o.CacheType, kind)
	}
	b.kind = kind
	options := append([]string(nil), o.BottomOptions...)
	if o.NoReplay {
		options = append(options, noReplay(kind)...)
	} else if kind == "ext4" && !hasKey(options, "errors") {
		// A log on a file system that goes on after a fault would lie.
		options = append(options, "errors=remount-ro")
	}
	b.mount, err = mountKind(b.device, kind, options)
	if errors.Is(err, unix.EBUSY) {
		return b.inUse()
	}
	return err
}

// probe finds out what is on the device, which must not be in use by others.
func (b *Bottom) probe() (string, error) {
	f, err := os.OpenFile(b.device, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return "", b.inUse()
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	kind, err := probeDevice(f)
	if err != nil {
		return "", &Error{Source: b.source, Kind: ErrNotCache, Detail: err.Error()}
	}
	return kind, nil
}

func (b *Bottom) openRoot() error {
	var err error
	b.root, err = openAt(b.mount, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var st unix.Statx_t
	if err := unix.Statx(int(b.root.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err == nil && st.Mask&unix.STATX_MNT_ID != 0 {
		b.mountID = st.Mnt_id
	}
	return nil
}

// MakeWritable lets a bottom that was mounted read-only be written to. Until then
// nothing but what replaying a journal changes has changed on it.
func (b *Bottom) MakeWritable() error {
	if !b.readOnly {
		return nil
	}
	change := makeWritable
	if b.device == "" {
		change = makeCloneWritable
	}
	if err := change(b.mount); err != nil {
		return err
	}
	b.readOnly = false
	return nil
}

// Check makes sure that the bottom can carry a cache: file handles that open,
// and trusted extended attributes, tried on dir (the root, or the control
// folder). The error is an *Error with ErrBottom.
func (b *Bottom) Check(dir *os.File) error {
	err := checkHandles(b.root, dir)
	if err == nil {
		err = checkXattrs(dir, b.readOnly)
	}
	if err != nil {
		return &Error{Source: b.source, Kind: ErrBottom, Detail: fmt.Sprintf("its %s cannot carry a cache: %v", b.kind, err)}
	}
	return nil
}

// Entries counts what users have put into the bottom's root: all but the control
// folder, what a killed Create left, and e2fsck's folder.
func (b *Bottom) Entries() (int, error) {
	dir, err := reopenDir(b.root)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", b.source, err)
	}
	n := 0
	for _, name := range names {
		own := name == ControlDir || name == unfinished+ControlDir || name == LostFound && b.kind == "ext4"
		if !own {
			n++
		}
	}
	return n, nil
}

// HasControl tells whether there is something with the name of the control
// folder, whatever it is.
func (b *Bottom) HasControl() (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(b.root.Fd()), ControlDir, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the control folder of %s: %w", b.source, err)
	}
	return true, nil
}

// Root is the bottom's root directory, open for reading. It belongs to b.
func (b *Bottom) Root() *os.File { return b.root }

// Type is "ext4", "xfs", "btrfs" or "tmpfs".
func (b *Bottom) Type() string { return b.kind }

// Source is the real path of the device, image file or folder.
func (b *Bottom) Source() string { return b.source }

// Device is the path of the block device, a loop device for an image file and ""
// for a folder.
func (b *Bottom) Device() string { return b.device }

// Sync makes all that is on the bottom durable. It blocks on the disk.
func (b *Bottom) Sync() error {
	err := unix.Syncfs(int(b.root.Fd()))
	runtime.KeepAlive(b)
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.source, err)
	}
	return nil
}

// Close unmounts, and returns when the device is free and clean, the loop device
// detached. It waits up to ten seconds for processes that still hold files of
// it, and then names them in the error; the unmount happens when they let go.
// A second call does nothing.
func (b *Bottom) Close() error {
	for _, f := range []*os.File{b.root, b.mount} {
		if f != nil {
			f.Close() // read-only directories: nothing can be lost here
		}
	}
	mounted := b.mount != nil
	b.root, b.mount = nil, nil
	if l := b.loop; l != nil {
		b.loop = nil
		return l.close(b.heldBy)
	}
	if b.device == "" || !mounted {
		return nil
	}
	err := waitUntil(releaseLimit, func() (bool, error) {
		f, err := os.OpenFile(b.device, os.O_RDONLY|unix.O_EXCL, 0)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		if err == nil {
			f.Close()
		}
		return err == nil, err
	})
	if errors.Is(err, errStillHeld) {
		return fmt.Errorf("unmount %s: still in use%s", b.device, b.heldBy())
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", b.device, err)
	}
	return nil
}
