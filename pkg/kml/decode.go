package kml

import "errors"

// DecodeRecord reads one record, which must fill b. Everything that AppendTo
// would not have written is a *CorruptError: another version, an unknown opcode
// or field, a value not in its shortest form, bytes left over. The record is a
// copy; b may be used again. What is allocated is bounded by len(b). Seq of the
// record is 0.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	err := r.decode(b)
	return r, err
}

// decode fills r, which must be zero, from b. On an error r is zero again.
func (r *Record) decode(b []byte) error {
	c := cursor{b: b}
	have := r.takeHead(&c)
	var s spaces
	r.takeIdentity(&c, have, &s)
	r.takeVersions(&c, have)
	r.takeRest(&c, have)
	if c.what == "" && c.left() > 0 {
		c.fail("bytes left over", c.off)
	}
	if c.what == "" {
		// What is there and zero would have been left out.
		if odd := have ^ r.fields(); odd != 0 {
			c.fail(odd.name()+" is present and empty", 0)
		} else if err := r.validate(have); err != nil {
			var bad *InvalidError
			errors.As(err, &bad)
			c.fail(bad.Op.String()+": "+bad.Field+" "+bad.What, 0)
		}
	}
	if c.what != "" {
		*r = Record{}
	}
	return c.err(0)
}

// takeHead takes what every record has and returns its set of further fields.
func (r *Record) takeHead(c *cursor) field {
	if v := c.u8("version"); v != RecordVersion {
		c.fail("unknown record version", 0)
	}
	r.Op = Op(c.u8("opcode"))
	have := field(c.u32("field word"))
	may, must, ok := fieldsOf(r.Op)
	switch {
	case !ok:
		c.fail("unknown opcode", 1)
	case have&^may != 0:
		c.fail("field word has a field that the opcode does not use", 2)
	case must&^have != 0:
		c.fail("field word lacks a field that the opcode needs", 2)
	}
	r.Time = c.i64("time")
	r.Cred.PID = c.uvarint32("pid")
	r.Cred.AUID = c.uvarint32("auid")
	r.Cred.FSUID = c.uvarint32("fsuid")
	r.Cred.FSGID = c.uvarint32("fsgid")
	if c.what == "" && have&fGroups != 0 {
		n := c.uvarint(MaxGroups, "number of groups")
		if int(n) > c.left() {
			c.fail("list of groups is cut off", c.off)
			return 0
		}
		r.Cred.Groups = make([]uint32, n)
		for i := range r.Cred.Groups {
			r.Cred.Groups[i] = c.uvarint32("group")
		}
	}
	if c.what != "" {
		return 0
	}
	return have
}

func (r *Record) takeIdentity(c *cursor, have field, s *spaces) {
	if have&fObject != 0 {
		s.takeID(c, &r.Object)
	}
	if have&fWhere != 0 {
		s.takeID(c, &r.Where.Parent)
		r.Where.Name = c.short("name")
	}
	if have&fTo != 0 {
		s.takeID(c, &r.To.Parent)
		r.To.Name = c.short("new name")
	}
	if have&fReplaced != 0 {
		s.takeID(c, &r.Replaced)
	}
}

func (r *Record) takeVersions(c *cursor, have field) {
	if have&fBefore != 0 {
		r.Before.take(c)
	}
	if have&fAfter != 0 {
		r.After.take(c)
	}
	if have&fParentBefore != 0 {
		r.ParentBefore.take(c)
	}
	if have&fParentAfter != 0 {
		r.ParentAfter.take(c)
	}
	if have&fToBefore != 0 {
		r.ToBefore.take(c)
	}
	if have&fToAfter != 0 {
		r.ToAfter.take(c)
	}
}

// takeRest takes the fields from Valid on.
func (r *Record) takeRest(c *cursor, have field) {
	r.ReplacedLast = have&fReplacedLast != 0
	r.Last = have&fLast != 0
	r.Content.Inexact = have&fInexact != 0
	if have&fValid != 0 {
		r.Valid = Valid(c.u8("valid"))
	}
	if have&fAttr != 0 {
		r.Attr.take(c)
	}
	if have&fOld != 0 {
		r.Old.take(c)
	}
	if have&fTarget != 0 {
		n := c.uvarint(MaxTarget, "length of target")
		r.Target = string(c.take(int(n), "target"))
	}
	if have&(fXattr|fOldXattr|fXattrs) != 0 {
		r.takeXattrs(c, have)
	}
	if have&fCloseSeq != 0 {
		r.CloseSeq = c.u64("number of the close")
	}
	if have&fContent != 0 {
		copy(r.Content.Root[:], c.take(len(r.Content.Root), "content"))
	}
	if have&fOffset != 0 {
		r.Offset = c.i64("offset")
	}
	if have&fData != 0 {
		r.Data = c.long(MaxData, "data")
	}
}

func (r *Record) takeXattrs(c *cursor, have field) {
	if have&fXattr != 0 {
		r.Xattr.Name = c.short("xattr name")
		if r.Op != OpDelxattr {
			r.Xattr.Value = c.long(MaxXattrValue, "xattr value")
		}
	}
	if have&fOldXattr != 0 {
		r.OldXattr = &Xattr{Name: r.Xattr.Name, Value: c.long(MaxXattrValue, "old xattr value")}
	}
	if have&fXattrs == 0 {
		return
	}
	n := int(c.uvarint(MaxXattrs, "number of xattrs"))
	if n*3 > c.left() { // an xattr is 3 bytes at least
		c.fail("list of xattrs is cut off", c.off)
		return
	}
	r.Xattrs = make([]Xattr, n)
	for i := range r.Xattrs {
		r.Xattrs[i].Name = c.short("xattr name")
		r.Xattrs[i].Value = c.long(MaxXattrValue, "xattr value")
	}
}

func (v *Version) take(c *cursor) {
	v.Size = c.size("size of a version")
	v.Mtime = c.i64("mtime of a version")
	v.Ctime = c.i64("ctime of a version")
}

func (a *Attr) take(c *cursor) {
	at := c.off
	mask := c.u8("attributes")
	if mask&^attrAll != 0 {
		c.fail("attributes have unknown bits", at)
		return
	}
	if mask&attrMode != 0 {
		a.Mode = c.uvarint32("mode")
	}
	if mask&attrUID != 0 {
		a.UID = c.uvarint32("uid")
	}
	if mask&attrGID != 0 {
		a.GID = c.uvarint32("gid")
	}
	if mask&attrRdev != 0 {
		a.Rdev = c.uvarint(1<<64-1, "rdev")
	}
	if mask&attrSize != 0 {
		a.Size = c.size("size")
	}
	if mask&attrMtime != 0 {
		a.Mtime = c.i64("mtime")
	}
	if c.what == "" && mask != a.mask() {
		c.fail("attributes have a field that is zero", at)
	}
}

// mask says which fields of a are not zero.
func (a *Attr) mask() byte {
	var m byte
	if a.Mode != 0 {
		m |= attrMode
	}
	if a.UID != 0 {
		m |= attrUID
	}
	if a.GID != 0 {
		m |= attrGID
	}
	if a.Rdev != 0 {
		m |= attrRdev
	}
	if a.Size != 0 {
		m |= attrSize
	}
	if a.Mtime != 0 {
		m |= attrMtime
	}
	return m
}

func (s *spaces) takeID(c *cursor, id *ObjectID) {
	at := c.off
	tag := c.u8("object id")
	switch {
	case c.what != "" || tag == idZero:
		return
	case tag == idRoot:
		id.Ino = RootID.Ino
		return
	case tag == idFull:
		copy(id.Space[:], c.take(len(id.Space), "id space"))
		if s.find(&id.Space) >= 0 || s.n == maxSpaces {
			c.fail("id space is named twice", at)
			return
		}
		s.seen[s.n] = id.Space
		s.n++
	case int(tag-idRef) < s.n:
		id.Space = s.seen[tag-idRef]
	default:
		c.fail("object id of an unknown form", at)
		return
	}
	id.Ino = c.uvarint(1<<64-1, "inode number")
	id.Gen = c.u32("generation")
	id.Birth = c.i64("birth time")
	if c.what == "" && (*id == RootID || id.IsZero()) {
		c.fail("object id is not in its shortest form", at)
	}
}
