package treediff

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// compareAttributes reports what two objects of one type differ in, apart from
// content and hard links.
func (c *comparer) compareAttributes(path string, a, b *entry) {
	differ := func(p Property, x, y string) {
		if x != y {
			c.report(Difference{path, p, x, y})
		}
	}
	differ(Mode, mode(a), mode(b))
	differ(Owner, owner(a), owner(b))
	differ(Mtime, mtime(a), mtime(b))
	switch a.kind() {
	case unix.S_IFREG:
		differ(Size, strconv.FormatInt(a.st.Size, 10), strconv.FormatInt(b.st.Size, 10))
	case unix.S_IFLNK:
		differ(Target, strconv.Quote(a.target), strconv.Quote(b.target))
	case unix.S_IFBLK, unix.S_IFCHR:
		differ(Device, device(a), device(b))
	}
	for _, attr := range attrNames(a, b) {
		x, y := attrText(a, attr), attrText(b, attr)
		if x != y {
			c.report(Difference{path, Xattr, attr + " " + x, attr + " " + y})
		}
	}
}

// attrNames gives the names that at least one of two objects has, sorted.
func attrNames(a, b *entry) []string {
	if len(a.xattrs) == 0 && len(b.xattrs) == 0 {
		return nil
	}
	all := slices.AppendSeq(slices.Collect(maps.Keys(a.xattrs)), maps.Keys(b.xattrs))
	slices.Sort(all)
	return slices.Compact(all)
}

// attrText gives the whole value, because two values that differ must look
// different.
func attrText(e *entry, attr string) string {
	value, ok := e.xattrs[attr]
	if !ok {
		return "absent"
	}
	return strconv.Quote(value)
}

func mode(e *entry) string  { return fmt.Sprintf("%04o", e.st.Mode&0o7777) }
func owner(e *entry) string { return fmt.Sprintf("%d:%d", e.st.Uid, e.st.Gid) }
func device(e *entry) string {
	return fmt.Sprintf("%d,%d", unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev))
}

func mtime(e *entry) string {
	return time.Unix(e.st.Mtim.Sec, e.st.Mtim.Nsec).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

func presence(e *entry) string {
	if !e.found {
		return "absent"
	}
	return kindName(e.kind())
}

func groupName(path, first string) string {
	if path == first {
		return "none of the names before it"
	}
	return "a link to " + QuotePath(first)
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFCHR:
		return "character device"
	}
	return fmt.Sprintf("type %o", kind)
}
