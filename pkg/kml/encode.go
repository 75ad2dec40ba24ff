package kml

import (
	"encoding/binary"
	"fmt"
)

// RecordVersion is the version of the encoding of records. It is the first byte
// of each.
const RecordVersion = 1

// How an encoded object id begins. A space that was already named in the same
// record is referred to by its place, from idRef on.
const (
	idZero = 0
	idRoot = 1
	idFull = 2 // the 16 bytes of a new space follow
	idRef  = 3 // the first space of this record; idRef+1 the second, and so on
)

// maxSpaces is how many spaces one record can name: Object, Where, To, Replaced.
const maxSpaces = 4

// What an encoded Attr has, in the order of its bits.
const (
	attrMode = 1 << iota
	attrUID
	attrGID
	attrRdev
	attrSize
	attrMtime
	attrAll = 1<<iota - 1
)

// AppendTo appends the encoding of r to b and returns it. Seq is not part of it:
// the frame or group around a record has it. r is checked first, and b is
// returned as it was with an *InvalidError if it can't be encoded. Nothing is
// allocated where b has room.
func (r *Record) AppendTo(b []byte) ([]byte, error) {
	have := r.fields()
	if err := r.validate(have); err != nil {
		return b, err
	}
	start := len(b)
	b = append(b, RecordVersion, byte(r.Op))
	b = binary.LittleEndian.AppendUint32(b, uint32(have))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time))
	b = r.appendCred(b)
	var s spaces
	b = r.appendIdentity(b, have, &s)
	b = r.appendVersions(b, have)
	b = r.appendRest(b, have)
	if len(b)-start > MaxRecord {
		return b[:start], &InvalidError{r.Op, "Xattrs", fmt.Sprintf("make a record of %d bytes", len(b)-start)}
	}
	return b, nil
}

func (r *Record) appendCred(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(r.Cred.PID))
	b = binary.AppendUvarint(b, uint64(r.Cred.AUID))
	b = binary.AppendUvarint(b, uint64(r.Cred.FSUID))
	b = binary.AppendUvarint(b, uint64(r.Cred.FSGID))
	if len(r.Cred.Groups) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(r.Cred.Groups)))
	for _, g := range r.Cred.Groups {
		b = binary.AppendUvarint(b, uint64(g))
	}
	return b
}

// appendIdentity appends the fields that say which objects and names.
func (r *Record) appendIdentity(b []byte, have field, s *spaces) []byte {
	if have&fObject != 0 {
		b = s.appendID(b, &r.Object)
	}
	if have&fWhere != 0 {
		b = s.appendID(b, &r.Where.Parent)
		b = appendShort(b, r.Where.Name)
	}
	if have&fTo != 0 {
		b = s.appendID(b, &r.To.Parent)
		b = appendShort(b, r.To.Name)
	}
	if have&fReplaced != 0 {
		b = s.appendID(b, &r.Replaced)
	}
	return b
}

func (r *Record) appendVersions(b []byte, have field) []byte {
	if have&fBefore != 0 {
		b = r.Before.appendTo(b)
	}
	if have&fAfter != 0 {
		b = r.After.appendTo(b)
	}
	if have&fParentBefore != 0 {
		b = r.ParentBefore.appendTo(b)
	}
	if have&fParentAfter != 0 {
		b = r.ParentAfter.appendTo(b)
	}
	if have&fToBefore != 0 {
		b = r.ToBefore.appendTo(b)
	}
	if have&fToAfter != 0 {
		b = r.ToAfter.appendTo(b)
	}
	return b
}

// appendRest appends the fields from Valid on.
func (r *Record) appendRest(b []byte, have field) []byte {
	if have&fValid != 0 {
		b = append(b, byte(r.Valid))
	}
	if have&fAttr != 0 {
		b = r.Attr.appendTo(b)
	}
	if have&fOld != 0 {
		b = r.Old.appendTo(b)
	}
	if have&fTarget != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Target)))
		b = append(b, r.Target...)
	}
	if have&(fXattr|fOldXattr|fXattrs) != 0 {
		b = r.appendXattrs(b, have)
	}
	if have&fCloseSeq != 0 {
		b = binary.LittleEndian.AppendUint64(b, r.CloseSeq)
	}
	if have&fContent != 0 {
		b = append(b, r.Content.Root[:]...)
	}
	if have&fOffset != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Offset))
	}
	if have&fData != 0 {
		b = appendLong(b, r.Data)
	}
	return b
}

func (r *Record) appendXattrs(b []byte, have field) []byte {
	if have&fXattr != 0 {
		b = appendShort(b, r.Xattr.Name)
		if r.Op != OpDelxattr {
			b = appendLong(b, r.Xattr.Value)
		}
	}
	if have&fOldXattr != 0 {
		b = appendLong(b, r.OldXattr.Value)
	}
	if have&fXattrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(r.Xattrs)))
		for i := range r.Xattrs {
			b = appendShort(b, r.Xattrs[i].Name)
			b = appendLong(b, r.Xattrs[i].Value)
		}
	}
	return b
}

func (v *Version) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(v.Size))
	b = binary.LittleEndian.AppendUint64(b, uint64(v.Mtime))
	return binary.LittleEndian.AppendUint64(b, uint64(v.Ctime))
}

func (a *Attr) appendTo(b []byte) []byte {
	at := len(b)
	b = append(b, 0)
	part := func(bit byte, v uint64) {
		if v != 0 {
			b[at] |= bit
			b = binary.AppendUvarint(b, v)
		}
	}
	part(attrMode, uint64(a.Mode))
	part(attrUID, uint64(a.UID))
	part(attrGID, uint64(a.GID))
	part(attrRdev, a.Rdev)
	part(attrSize, uint64(a.Size))
	if a.Mtime != 0 {
		b[at] |= attrMtime
		b = binary.LittleEndian.AppendUint64(b, uint64(a.Mtime))
	}
	return b
}

// spaces are the id spaces that a record has named so far.
type spaces struct {
	seen [maxSpaces]UUID
	n    int
}

// find returns the place of u, or -1.
func (s *spaces) find(u *UUID) int {
	for i := range s.n {
		if s.seen[i] == *u {
			return i
		}
	}
	return -1
}

func (s *spaces) appendID(b []byte, id *ObjectID) []byte {
	switch {
	case *id == ObjectID{}:
		return append(b, idZero)
	case *id == ObjectID{Ino: 1}: // RootID
		return append(b, idRoot)
	}
	if at := s.find(&id.Space); at >= 0 {
		b = append(b, idRef+byte(at))
	} else {
		s.seen[s.n] = id.Space
		s.n++
		b = append(b, idFull)
		b = append(b, id.Space[:]...)
	}
	b = binary.AppendUvarint(b, id.Ino)
	b = binary.LittleEndian.AppendUint32(b, id.Gen)
	return binary.LittleEndian.AppendUint64(b, uint64(id.Birth))
}

// appendShort appends a string of 1 to 255 bytes.
func appendShort(b []byte, s string) []byte {
	b = append(b, byte(len(s)))
	return append(b, s...)
}

// appendLong appends bytes after their length.
func appendLong(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}
