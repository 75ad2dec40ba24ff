package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// helperName is what mount(8) runs for our type.
const helperName = "mount." + FSType

// helperFolders are where it looks.
var helperFolders = []string{"/sbin", "/sbin/fs.d", "/sbin/fs"}

// fstab checks the lines of our type, and those that are in their way.
func (c *checker) fstab() {
	entries, err := ReadFstab(c.opts.Fstab)
	if err != nil {
		c.fault(c.opts.Fstab, "", "%v", err)
		return
	}
	byFileset := map[string]FstabEntry{}
	ours := false
	for _, e := range entries {
		where := fmt.Sprintf("%s:%d", c.opts.Fstab, e.Line)
		if e.Type != FSType {
			c.foreignLine(where, e)
			continue
		}
		ours = true
		o, err := ParseMountOptions(e.Options)
		if err != nil {
			c.fault(where, "correct the options of the line", "%v", err)
			continue
		}
		if first, ok := byFileset[o.Fileset]; ok {
			c.fault(where, "remove one of the two", "fileset %s has a line already: line %d", o.Fileset, first.Line)
			continue
		}
		byFileset[o.Fileset] = e
		c.fstabLine(where, e, o)
	}
	for _, f := range c.filesets {
		if _, ok := byFileset[f.Name]; !ok && f.Mountpoint != "" && f.Device != "" {
			c.note(c.opts.Fstab, fmt.Sprintf("`inconfig fstab --write %s`", f.Name), "it has no line for fileset %s, which so is mounted by `lento mount` only", f.Name)
		}
	}
	if ours {
		c.mountHelper()
	}
}

// foreignLine looks whether something else is to be mounted in our place.
func (c *checker) foreignLine(where string, e FstabEntry) {
	for _, f := range c.filesets {
		if f.Mountpoint == e.Dir && e.Dir != "/" {
			c.fault(where, "change that line, or `inconfig fileset set "+f.Name+" --mountpoint DIR`", "%s (%s) is to be mounted on %s, where fileset %s belongs", e.Device, e.Type, e.Dir, f.Name)
		}
	}
}

func (c *checker) fstabLine(where string, e FstabEntry, o MountOptions) {
	if e.Dir != "/" && strings.HasSuffix(e.Dir, "/") {
		c.fault(where, "write "+filepath.Clean(e.Dir), "the mount point %s has a slash at the end", e.Dir)
	} else if err := o.CheckMountpoint(e.Dir); err != nil {
		c.fault(where, fmt.Sprintf("write mtpt=%s", e.Dir), "%v", err)
	}
	f := c.config.Fileset(o.Fileset)
	if f == nil {
		var names []string
		for _, have := range c.config.Filesets {
			names = append(names, have.Name)
		}
		c.fault(where, orElse(didYouMean(o.Fileset, names), "remove the line, or add the fileset with `inconfig fileset add`"), "fileset %q is not in fsetdb", o.Fileset)
		return
	}
	if !slices.Contains(c.filesets, f) {
		return
	}
	rewrite := fmt.Sprintf("`inconfig fstab --write %s` corrects the line", f.Name)
	if f.Mountpoint != "" && filepath.Clean(e.Dir) != f.Mountpoint {
		c.fault(where, rewrite, "fileset %s is mounted on %s by this line, and on %s by fsetdb", f.Name, e.Dir, f.Mountpoint)
	}
	if f.Device != "" && e.Device != f.Device && !sameDevice(e.Device, f.Device) {
		c.fault(where, rewrite, "the device of fileset %s is %s in this line, and %s in fsetdb", f.Name, e.Device, f.Device)
	}
	if o.Channel >= 0 && o.Channel != f.Channel {
		c.fault(where, rewrite, "fileset %s has channel %d in this line, and %d in fsetdb", f.Name, o.Channel, f.Channel)
	}
	if f.Device == "" {
		c.fstabDevice(where, e)
	}
	if kind := CacheType(e.Device); kind != "" && o.CacheType != "" && o.Driver() != kind {
		c.fault(where, "write cache_type="+kind, "cache_type=%s, and %s is %s", o.CacheType, e.Device, kind)
	}
}

// fstabDevice checks a device that only fstab names.
func (c *checker) fstabDevice(where string, e FstabEntry) {
	if err := CheckDevicePath(e.Device); err != nil {
		c.fault(where, "", "%v", err)
		return
	}
	if _, err := ResolveDevice(e.Device); err != nil {
		c.fault(where, "`mkizofs` formats a device; correct the line if it is another", "%v", err)
	}
}

func sameDevice(a, b string) bool {
	x, errX := ResolveDevice(a)
	y, errY := ResolveDevice(b)
	return errX == nil && errY == nil && sameFile(x, y)
}

func (c *checker) mountHelper() {
	for _, folder := range helperFolders {
		info, err := os.Stat(filepath.Join(folder, helperName))
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return
		}
	}
	c.warn(filepath.Join(helperFolders[0], helperName), "make it a link to lento; `make install` does", "mount(8) needs it for the lines in %s, and it is not there", c.opts.Fstab)
}
