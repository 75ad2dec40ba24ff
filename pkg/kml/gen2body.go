package kml

import (
	"fmt"

	"strings"
)

// takeBody takes what lies between the groups and the suffix.
func (r *Gen2Record) takeBody(c *cursor) {
	at := c.off
	switch r.Op {
	case OpNoop:
	case OpCreate, OpMkdir, OpMknod, OpSymlink, OpLink:
		r.takeNew(c)
	case OpUnlink, OpRmdir:
		r.takeRemoval(c)
	case OpRename:
		r.takeRename(c)
	case OpSetattr:
		r.takeSetattr(c)
	case OpClose:
		r.takeClose(c)
	case OpSetxattr, OpDelxattr:
		r.takeXattr(c)
	case opGetFileID:
		n := c.u32("length of path")
		r.Path = gen2Path(c, n)
	default:
		c.fail(fmt.Sprintf("opcode %d is not that of a record", r.Op), at-4)
	}
}

// takeNew takes a record that gives an object a name.
func (r *Gen2Record) takeNew(c *cursor) {
	r.ParentBefore, r.ParentAfter, r.ObjectAfter = gen2Stamp(c), gen2Stamp(c), gen2Stamp(c)
	if r.Op == OpLink {
		n, n2 := c.u32("length of path"), c.u32("length of new path")
		r.Path, r.Path2 = gen2Path(c, n), gen2Path(c, n2)
		return
	}
	if r.Op != OpSymlink {
		r.Mode = c.u32("mode")
	}
	r.UID, r.GID = c.u32("uid"), c.u32("gid")
	if r.Op == OpMknod {
		r.Major, r.Minor = c.u32("major"), c.u32("minor")
	}
	n := c.u32("length of path")
	if r.Op != OpSymlink {
		r.Path = gen2Path(c, n)
		return
	}
	n2 := c.u32("length of target")
	r.Path = gen2Path(c, n)
	r.Target = gen2String(c, n2, "target")
}

func (r *Gen2Record) takeRemoval(c *cursor) {
	r.ParentBefore, r.ParentAfter, r.ObjectBefore = gen2Stamp(c), gen2Stamp(c), gen2Stamp(c)
	r.Rollback = gen2Rollback(c)
	n, n2, n3 := c.u32("length of path"), c.u32("length of name"), uint32(0)
	if r.Op == OpUnlink {
		n3 = c.u32("length of old target")
	}
	r.Path = gen2Path(c, n)
	at := c.off
	r.Name = gen2String(c, n2, "name")
	if r.Name == "" || strings.Contains(r.Name, "/") {
		c.fail("name is empty or has a slash", at)
	}
	if n3 > 0 {
		r.Target = gen2String(c, n3, "old target")
	}
}

func (r *Gen2Record) takeRename(c *cursor) {
	r.ParentBefore, r.ParentAfter = gen2Stamp(c), gen2Stamp(c)
	r.DestBefore, r.DestAfter = gen2Stamp(c), gen2Stamp(c)
	n, n2 := c.u32("length of path"), c.u32("length of new path")
	r.Path, r.Path2 = gen2Path(c, n), gen2Path(c, n2)
}

func (r *Gen2Record) takeSetattr(c *cursor) {
	r.ObjectBefore = gen2Stamp(c)
	r.Valid, r.Mode, r.UID, r.GID = c.u32("valid"), c.u32("mode"), c.u32("uid"), c.u32("gid")
	r.Size = c.u64("size")
	r.Mtime, r.Ctime = gen2Time(c), gen2Time(c)
	r.Flags = c.u32("attribute flags")
	r.Rollback = gen2Rollback(c)
	n := c.u32("length of path")
	r.Path = gen2Path(c, n)
}

func (r *Gen2Record) takeClose(c *cursor) {
	r.Mode, r.UID, r.GID = c.u32("open mode"), c.u32("open uid"), c.u32("open gid")
	r.ObjectBefore, r.ObjectAfter = gen2Stamp(c), gen2Stamp(c)
	r.Ino, r.Generation = c.u64("inode"), c.u32("generation")
	n := c.u32("length of path")
	r.Path = gen2Path(c, n)
}

func (r *Gen2Record) takeXattr(c *cursor) {
	r.ObjectBefore, r.ObjectAfter = gen2Stamp(c), gen2Stamp(c)
	r.Flags, r.Mode = c.u32("flags"), c.u32("mode")
	n, n2, n3 := c.u32("length of path"), c.u32("length of name"), c.u32("length of value")
	if n3 > gen2MaxXattr || (n3 > 0 && r.Op == OpDelxattr) {
		c.fail("length of value is impossible", c.off-4)
		return
	}
	r.Path = gen2Path(c, n)
	at := c.off
	// Whether the name counts its NUL is not known for certain.
	r.Name = strings.TrimSuffix(string(gen2Padded(c, n2, "name")), "\x00")
	if r.Name == "" || strings.Contains(r.Name, "\x00") {
		c.fail("name is empty or has a NUL byte", at)
	}
	if n3 > 0 {
		r.Value = append([]byte(nil), gen2Padded(c, n3, "value")...)
	}
}

func gen2Stamp(c *cursor) Gen2Stamp {
	return Gen2Stamp{Mtime: gen2Time(c), Ctime: gen2Time(c), Size: c.u64("size of a version")}
}

func gen2Rollback(c *cursor) Gen2Rollback {
	return Gen2Rollback{Mode: c.u32("old mode"), Rdev: c.u32("old rdev"), UID: c.u64("old uid"), GID: c.u64("old gid")}
}

// gen2Time takes seconds in 64 bits, or, as kernels 2.6 wrote with the same
// version number, seconds and nanoseconds in 32 bits each. The first is the
// second without nanoseconds, for the next eighty years.
func gen2Time(c *cursor) int64 {
	at := c.off
	sec, nsec := c.u32("time"), c.u32("time")
	if nsec >= 1e9 {
		c.fail("time has more than a second of nanoseconds", at)
		return 0
	}
	return int64(sec)*1e9 + int64(nsec)
}

// gen2Padded takes n bytes and what rounds them up to a word.
func gen2Padded(c *cursor, n uint32, what string) []byte {
	if int64(n) > int64(c.left()) {
		c.fail(what+" is cut off", c.off)
		return nil
	}
	b := c.take(int(n), what)
	c.take(int(-n&3), what)
	return b
}

// gen2String takes a string of n bytes that is not empty and has no NUL.
func gen2String(c *cursor, n uint32, what string) string {
	at := c.off
	s := string(gen2Padded(c, n, what))
	if s == "" || strings.Contains(s, "\x00") {
		c.fail(what+" is empty or has a NUL byte", at)
	}
	return s
}

// gen2Path takes a path of n bytes, its NUL included.
func gen2Path(c *cursor, n uint32) string {
	at := c.off
	s := string(gen2Padded(c, n, "path"))
	if c.what == "" && (len(s) < 2 || s[0] != '/' || strings.IndexByte(s, 0) != len(s)-1) {
		c.fail("path does not begin with a slash and end with a NUL byte", at)
		return ""
	}
	return strings.TrimSuffix(s, "\x00")
}
