package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountType is what a mounted fileset is in the mount table.
const mountType = "fuse.intermezzo"

// placement checks device, channel and mount point of a fileset.
func (c *checker) placement(ctx context.Context, f *Fileset) {
	where := "fileset " + f.Name
	if f.Device == "" && f.Mountpoint == "" {
		c.note(where, fmt.Sprintf("`inconfig fileset set %s --device DEVICE --mountpoint DIR`", f.Name), "it is not said where it is on this host")
	}
	if f.Device != "" {
		c.device(ctx, f)
	}
	c.channel(f)
	if f.Mountpoint != "" {
		c.mountpoint(f)
	}
}

// device checks that f.Device is a cache that has f.
func (c *checker) device(ctx context.Context, f *Fileset) {
	path, err := ResolveDevice(f.Device)
	if err != nil {
		c.fault(f.Device, fmt.Sprintf("`mkizofs` formats a device; `inconfig fileset set %s --device DEVICE` names another", f.Name), "fileset %s: %v", f.Name, err)
		return
	}
	view, seen := c.views[path]
	if !seen {
		view = c.lookInside(ctx, path)
		c.views[path] = view
	}
	if view != nil {
		c.cacheHas(path, view, f)
	}
}

// lookInside gives what is in a cache: its presto knows, else it is opened. nil
// where it can't be said.
func (c *checker) lookInside(ctx context.Context, path string) *CacheView {
	for _, ch := range c.channels {
		if ch.Err == nil && sameFile(ch.Source, path) {
			return &ch.Cache
		}
	}
	if c.opts.LookInside == nil || !isRoot() {
		return nil
	}
	view, err := c.opts.LookInside(ctx, path)
	if err != nil {
		c.fault(path, "", "%s", strings.TrimPrefix(err.Error(), path+": "))
		return nil
	}
	return &view
}

func (c *checker) cacheHas(path string, view *CacheView, f *Fileset) {
	i := slices.IndexFunc(view.Filesets, func(cf CacheFileset) bool { return cf.Name == f.Name })
	if i < 0 {
		var names []string
		for _, cf := range view.Filesets {
			names = append(names, cf.Name)
		}
		fix := didYouMean(f.Name, names)
		if fix == "" {
			fix = fmt.Sprintf("`mkizofs --help` tells how to add %s to it; or correct the name or the device in fsetdb", f.Name)
		}
		c.fault(path, fix, "the cache has no fileset %q; it has %s", f.Name, orElse(strings.Join(names, ", "), "none"))
		return
	}
	in := view.Filesets[i]
	where := fmt.Sprintf("%s, fileset %s", path, f.Name)
	if in.Damage != "" {
		c.fault(where, "`lento status` tells more; fsck.intermezzo checks the cache", "it is out of service: %s", in.Damage)
	}
	if role := c.config.Role(f); in.Role != "" && in.Role != role {
		c.fault(where, fmt.Sprintf("set server in fsetdb to what it was, or use another cache (this host is %s)", c.config.Sysid.Name),
			"by fsetdb this host is its %s, but the cache was used as that of a %s", role, in.Role)
	}
	if !in.UUID.IsZero() && !f.UUID.IsZero() && in.UUID != f.UUID {
		c.fault(where, "use the cache of this fileset, or format a new one with mkizofs", "it is another fileset of the same name: its uuid is %s, and %s in fsetdb", in.UUID, f.UUID)
	}
}

// channel checks that nobody else serves the channel of f.
func (c *checker) channel(f *Fileset) {
	device, err := ResolveDevice(f.Device)
	for _, ch := range c.channels {
		ours := err == nil && sameFile(ch.Source, device)
		switch {
		case ch.Err != nil:
		case ch.Channel == f.Channel && f.Device != "" && !ours:
			c.fault(fmt.Sprintf("channel %d", ch.Channel), fmt.Sprintf("give %s another with `inconfig fileset set %s --channel N`, or unmount the other cache", f.Name, f.Name),
				"fileset %s wants it, and the cache %s uses it (process %d)", f.Name, ch.Source, ch.PID)
		case ch.Channel != f.Channel && ours:
			c.warn(fmt.Sprintf("channel %d", ch.Channel), fmt.Sprintf("`inconfig fileset set %s --channel %d`, or mount it anew", f.Name, ch.Channel),
				"the cache %s of fileset %s is served on it, and not on channel %d as in fsetdb", ch.Source, f.Name, f.Channel)
		}
	}
}

// mountpoint checks the folder to mount on. What is mounted is not touched: a
// mount whose presto is dead may not answer.
func (c *checker) mountpoint(f *Fileset) {
	dir := f.Mountpoint
	var top *MountView
	for i := range c.mounts {
		if c.mounts[i].Dir == dir {
			top = &c.mounts[i]
		}
	}
	switch {
	case top != nil && top.Type == mountType:
		c.mounted(f, top)
		return
	case top != nil && dir != "/":
		c.warn(dir, "mount the fileset elsewhere, or unmount that", "fileset %s belongs here, and %s (%s) is mounted", f.Name, top.Source, top.Type)
		return
	}
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fault(dir, "mkdir -p "+dir, "the mount point of fileset %s does not exist", f.Name)
	case err != nil:
		c.fault(dir, "", "the mount point of fileset %s: %v", f.Name, errnoOf(err))
	case info.Mode()&fs.ModeSymlink != 0:
		c.warn(dir, "name the folder it leads to", "the mount point of fileset %s is a symbolic link", f.Name)
	case !info.IsDir():
		c.fault(dir, "", "the mount point of fileset %s is not a folder", f.Name)
	default:
		c.emptyFolder(f)
	}
}

func (c *checker) mounted(f *Fileset, m *MountView) {
	device, err := ResolveDevice(f.Device)
	if f.Device != "" && (err != nil || !sameFile(m.Source, device)) {
		c.fault(f.Mountpoint, "unmount it, and mount "+f.Device, "fileset %s should be mounted from %s, and %s is", f.Name, f.Device, m.Source)
	}
	if c.opts.Channels != nil && !slices.ContainsFunc(c.channels, func(ch ChannelView) bool { return ch.Source == m.Source || sameFile(ch.Source, m.Source) }) {
		c.fault(f.Mountpoint, fmt.Sprintf("`lento umount %s`, then mount it again", f.Mountpoint), "fileset %s is mounted, and no presto in %s serves it", f.Name, c.opts.Run)
	}
}

func (c *checker) emptyFolder(f *Fileset) {
	c.note(f.Mountpoint, "", "fileset %s is not mounted", f.Name)
	d, err := os.Open(f.Mountpoint)
	if err != nil {
		return // not ours to read
	}
	defer d.Close()
	if names, err := d.Readdirnames(1); err == nil && len(names) > 0 && f.Mountpoint != "/" {
		c.warn(f.Mountpoint, "move them away; `mkizofs --adopt` makes a fileset of a tree that is there", "the mount point of fileset %s is not empty; a mount will hide what is in it (%s)", f.Name, names[0])
	}
}

// ResolveDevice gives the path of a cache's device, loop file or folder, which
// may be written as LABEL= or UUID=. It fails where there is nothing that could
// be one.
func ResolveDevice(device string) (string, error) {
	path := device
	if tag, value, ok := strings.Cut(device, "="); ok && !strings.HasPrefix(device, "/") {
		path = filepath.Join("/dev/disk/by-"+strings.ToLower(tag), value)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s does not exist", path)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, errnoOf(err))
	}
	if mode := info.Mode(); !mode.IsRegular() && !mode.IsDir() && (mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0) {
		return "", fmt.Errorf("%s is neither a block device nor a loop file nor a folder", path)
	}
	return path, nil
}

// sameFile reports whether two paths lead to one file, folder or device.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX != nil || errY != nil {
		return false
	}
	s, okS := x.Sys().(*syscall.Stat_t)
	t, okT := y.Sys().(*syscall.Stat_t)
	if okS && okT && s.Mode&unix.S_IFMT == unix.S_IFBLK && t.Mode&unix.S_IFMT == unix.S_IFBLK {
		return s.Rdev == t.Rdev // a device may have several nodes
	}
	return os.SameFile(x, y)
}

// CacheType tells what cache_type= of a device, loop file or folder is, "" where
// it is none that a cache can be on, or can't be read.
func CacheType(device string) string {
	path, err := ResolveDevice(device)
	if err != nil {
		return ""
	}
	var st unix.Statfs_t
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if unix.Statfs(path, &st) != nil {
			return ""
		}
		return map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}[int64(st.Type)]
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, s := range []struct {
		magic  string
		offset int64
		kind   string
	}{{"\x53\xef", 1080, "ext4"}, {"XFSB", 0, "xfs"}, {"_BHRfS_M", 65600, "btrfs"}} {
		b := make([]byte, len(s.magic))
		if _, err := f.ReadAt(b, s.offset); err == nil || errors.Is(err, io.EOF) {
			if string(b) == s.magic {
				return s.kind
			}
		}
	}
	return ""
}
