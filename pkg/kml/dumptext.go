package kml

import (
	"fmt"
	"strconv"
	"time"
)

// dumpLine is one record in its frame, or a group that has none.
type dumpLine struct {
	Frame  *Frame
	Group  *Group
	Record *Record
}

func (d *dumpLine) appendText(b []byte) []byte {
	b = strconv.AppendUint(b, d.Frame.Pos.Seq, 10)
	if g := d.Group; g != nil {
		b = fmt.Appendf(b, " %s", g.Origin.String()[:8])
		if d.Record == nil {
			return fmt.Appendf(b, "/%d-%d nothing left", g.First, g.Last)
		}
		b = fmt.Appendf(b, "/%d", d.Record.Seq)
	}
	b = d.Record.appendText(append(b, ' '))
	if d.Frame.Flags&FlagMore != 0 {
		b = append(b, " more"...)
	}
	return b
}

// appendText appends a record as words: what it is about first, then what has a
// name as name=value.
func (r *Record) appendText(b []byte) []byte {
	have := r.fields()
	b = appendTime(b, r.Time)
	b = fmt.Appendf(b, " %v", r.Op)
	if have&fObject != 0 {
		b = fmt.Appendf(b, " %v", r.Object)
	}
	if have&fWhere != 0 {
		b = appendName(append(b, " at "...), &r.Where)
	}
	if have&fTo != 0 {
		b = appendName(append(b, " to "...), &r.To)
	}
	if have&fReplaced != 0 {
		b = fmt.Appendf(b, " replaced=%v", r.Replaced)
	}
	if r.ReplacedLast {
		b = append(b, " replaced-last"...)
	}
	if r.Last {
		b = append(b, " last"...)
	}
	b = r.appendChange(b, have)
	b = r.appendVersionText(b)
	b = fmt.Appendf(b, " pid=%d auid=%d fsuid=%d fsgid=%d", r.Cred.PID, r.Cred.AUID, r.Cred.FSUID, r.Cred.FSGID)
	if have&fGroups != 0 {
		b = fmt.Appendf(b, " groups=%v", r.Cred.Groups)
	}
	return b
}

// appendChange appends the values that the record sets, and those before.
func (r *Record) appendChange(b []byte, have field) []byte {
	if have&fValid != 0 {
		b = fmt.Appendf(b, " valid=%d", uint32(r.Valid))
	}
	if have&fAttr != 0 {
		b = r.Attr.appendText(b, "")
	}
	if have&fOld != 0 {
		b = r.Old.appendText(b, "old-")
	}
	if have&fTarget != 0 {
		b = fmt.Appendf(b, " target=%q", r.Target)
	}
	if have&fXattr != 0 {
		b = fmt.Appendf(b, " xattr=%q", r.Xattr.Name)
		if r.Op == OpSetxattr {
			b = fmt.Appendf(b, "=%x", r.Xattr.Value)
		}
	}
	if r.OldXattr != nil {
		b = fmt.Appendf(b, " old-xattr=%x", r.OldXattr.Value)
	}
	for _, x := range r.Xattrs {
		b = fmt.Appendf(b, " xattr=%q=%x", x.Name, x.Value)
	}
	if have&fCloseSeq != 0 {
		b = fmt.Appendf(b, " close=%d", r.CloseSeq)
	}
	if have&fContent != 0 {
		b = fmt.Appendf(b, " content=%x", r.Content.Root)
	}
	if r.Content.Inexact {
		b = append(b, " inexact"...)
	}
	if have&fData != 0 {
		b = fmt.Appendf(b, " offset=%d length=%d", r.Offset, len(r.Data))
	}
	return b
}

func (r *Record) appendVersionText(b []byte) []byte {
	for _, v := range []struct {
		name    string
		version Version
	}{
		{"before", r.Before}, {"after", r.After},
		{"parent-before", r.ParentBefore}, {"parent-after", r.ParentAfter},
		{"to-before", r.ToBefore}, {"to-after", r.ToAfter},
	} {
		if v.version != (Version{}) {
			b = fmt.Appendf(b, " %s=%d@", v.name, v.version.Size)
			b = appendTime(b, v.version.Mtime)
		}
	}
	return b
}

func (a *Attr) appendText(b []byte, prefix string) []byte {
	b = fmt.Appendf(b, " %smode=%06o %suid=%d %sgid=%d", prefix, a.Mode, prefix, a.UID, prefix, a.GID)
	if a.Rdev != 0 {
		b = fmt.Appendf(b, " %srdev=%d:%d", prefix, a.Rdev>>32, uint32(a.Rdev))
	}
	b = fmt.Appendf(b, " %ssize=%d", prefix, a.Size)
	if a.Mtime != 0 {
		b = appendTime(fmt.Appendf(b, " %smtime=", prefix), a.Mtime)
	}
	return b
}

func appendName(b []byte, n *Name) []byte {
	return strconv.AppendQuote(fmt.Appendf(b, "%v/", n.Parent), n.Name)
}

// appendTime appends nanoseconds since the epoch in the form of RFC 3339.
func appendTime(b []byte, ns int64) []byte {
	return time.Unix(0, ns).UTC().AppendFormat(b, time.RFC3339Nano)
}

// appendText makes a record of the original a line.
func (r *Gen2Record) appendText(b []byte) []byte {
	b = appendTime(fmt.Appendf(b, "%d ", r.Recno), int64(r.Time)*1e9)
	b = fmt.Appendf(b, " %s", gen2OpName(r.Op))
	for _, s := range []string{r.Path, r.Path2, r.Name} {
		if s != "" {
			b = strconv.AppendQuote(append(b, ' '), s)
		}
	}
	if r.Target != "" {
		b = fmt.Appendf(b, " target=%q", r.Target)
	}
	switch r.Op {
	case OpSetattr:
		b = fmt.Appendf(b, " valid=%#x mode=%06o uid=%d gid=%d size=%d mtime=", r.Valid, r.Mode, r.UID, r.GID, r.Size)
		b = appendTime(b, r.Mtime)
	case OpCreate, OpMkdir, OpMknod, OpClose:
		b = fmt.Appendf(b, " mode=%06o uid=%d gid=%d", r.Mode, r.UID, r.GID)
	case OpSymlink:
		b = fmt.Appendf(b, " uid=%d gid=%d", r.UID, r.GID)
	case OpUnlink, OpRmdir:
		b = fmt.Appendf(b, " old-mode=%06o old-uid=%d old-gid=%d", r.Rollback.Mode, r.Rollback.UID, r.Rollback.GID)
	case OpSetxattr:
		b = fmt.Appendf(b, " value=%x", r.Value)
	}
	if r.Op == OpMknod {
		b = fmt.Appendf(b, " rdev=%d:%d", r.Major, r.Minor)
	}
	if r.Op == OpClose {
		b = fmt.Appendf(b, " ino=%d gen=%#x", r.Ino, r.Generation)
	}
	b = r.appendStamps(b)
	b = fmt.Appendf(b, " pid=%d auid=%d fsuid=%d fsgid=%d", r.PID, r.AUID, r.FSUID, r.FSGID)
	if len(r.Groups) > 0 {
		b = fmt.Appendf(b, " groups=%v", r.Groups)
	}
	return b
}

func (r *Gen2Record) appendStamps(b []byte) []byte {
	for _, s := range r.stamps() {
		if s.stamp != (Gen2Stamp{}) {
			b = appendTime(fmt.Appendf(b, " %s=%d@", s.name, s.stamp.Size), s.stamp.Mtime)
		}
	}
	return b
}

type namedStamp struct {
	name  string
	stamp Gen2Stamp
}

func (r *Gen2Record) stamps() []namedStamp {
	return []namedStamp{
		{"before", r.ObjectBefore}, {"after", r.ObjectAfter},
		{"parent-before", r.ParentBefore}, {"parent-after", r.ParentAfter},
		{"to-before", r.DestBefore}, {"to-after", r.DestAfter},
	}
}

// gen2OpName is the name of an opcode as the original had it.
func gen2OpName(op Op) string {
	switch op {
	case OpSetxattr:
		return "SETEXTATTR"
	case OpDelxattr:
		return "DELEXTATTR"
	case opGetFileID:
		return "GET_FILEID"
	}
	return op.String()
}
