package kml

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// The JSON of a line: what is zero or not used is left out. Times are RFC 3339
// with nanoseconds, numbers that may pass 2^53 and ids are strings, bytes are
// base64. Names and other texts that are not UTF-8 are {"base64": ...}.
type (
	jsonLine struct {
		Position uint64      `json:"position"`
		Epoch    uint32      `json:"epoch"`
		Chain    string      `json:"chain"`
		Offset   int64       `json:"offset"`
		Logged   string      `json:"logged"`
		More     bool        `json:"more,omitempty"`
		Group    *jsonGroup  `json:"group,omitempty"`
		Record   *jsonRecord `json:"record,omitempty"`
	}

	jsonGroup struct {
		Origin string `json:"origin"`
		Epoch  uint32 `json:"epoch"`
		First  uint64 `json:"first"`
		Last   uint64 `json:"last"`
		Chain  string `json:"chain"`
	}

	jsonRecord struct {
		Seq          uint64       `json:"seq"`
		Op           string       `json:"op"`
		Time         string       `json:"time"`
		Cred         jsonCred     `json:"cred"`
		Object       string       `json:"object,omitempty"`
		Where        *jsonName    `json:"where,omitempty"`
		To           *jsonName    `json:"to,omitempty"`
		Replaced     string       `json:"replaced,omitempty"`
		ReplacedLast bool         `json:"replaced_last,omitempty"`
		Last         bool         `json:"last,omitempty"`
		Before       *jsonVersion `json:"before,omitempty"`
		After        *jsonVersion `json:"after,omitempty"`
		ParentBefore *jsonVersion `json:"parent_before,omitempty"`
		ParentAfter  *jsonVersion `json:"parent_after,omitempty"`
		ToBefore     *jsonVersion `json:"to_before,omitempty"`
		ToAfter      *jsonVersion `json:"to_after,omitempty"`
		Valid        uint32       `json:"valid,omitempty"`
		Attr         *jsonAttr    `json:"attr,omitempty"`
		Old          *jsonAttr    `json:"old,omitempty"`
		Target       *text        `json:"target,omitempty"`
		Xattr        *jsonXattr   `json:"xattr,omitempty"`
		OldXattr     *jsonXattr   `json:"old_xattr,omitempty"`
		Xattrs       []jsonXattr  `json:"xattrs,omitempty"`
		CloseSeq     uint64       `json:"close_seq,omitempty"`
		Content      string       `json:"content,omitempty"`
		Inexact      bool         `json:"inexact,omitempty"`
		FileOffset   int64        `json:"file_offset,omitempty"`
		Data         []byte       `json:"data,omitempty"`
	}

	jsonCred struct {
		PID    uint32   `json:"pid"`
		AUID   uint32   `json:"auid"`
		FSUID  uint32   `json:"fsuid"`
		FSGID  uint32   `json:"fsgid"`
		Groups []uint32 `json:"groups,omitempty"`
	}

	jsonName struct {
		Parent string `json:"parent"`
		Name   text   `json:"name"`
	}

	jsonVersion struct {
		Size  int64  `json:"size"`
		Mtime string `json:"mtime"`
		Ctime string `json:"ctime"`
	}

	jsonAttr struct {
		Mode  string `json:"mode"`
		UID   uint32 `json:"uid"`
		GID   uint32 `json:"gid"`
		Rdev  string `json:"rdev,omitempty"`
		Size  int64  `json:"size"`
		Mtime string `json:"mtime"`
	}

	jsonXattr struct {
		Name  text   `json:"name"`
		Value []byte `json:"value"`
	}
)

// text is a string of any bytes.
type text string

// MarshalJSON gives a string, or an object where it is not UTF-8.
func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(struct {
		Base64 []byte `json:"base64"`
	}{[]byte(t)})
}

// MarshalJSON gives the object that docs/LOG-FORMAT.md describes.
func (d *dumpLine) MarshalJSON() ([]byte, error) {
	f := d.Frame
	l := jsonLine{
		Position: f.Pos.Seq, Epoch: f.Pos.Epoch, Chain: f.Pos.Chain.String(),
		Offset: f.Offset, Logged: jsonTime(f.Time), More: f.Flags&FlagMore != 0,
	}
	if g := d.Group; g != nil {
		l.Group = &jsonGroup{g.Origin.String(), g.OriginEpoch, g.First, g.Last, g.Chain.String()}
	}
	if d.Record != nil {
		l.Record = d.Record.toJSON()
	}
	return json.Marshal(&l)
}

func (r *Record) toJSON() *jsonRecord {
	have := r.fields()
	j := &jsonRecord{
		Seq: r.Seq, Op: r.Op.String(), Time: jsonTime(r.Time), Cred: jsonCred(r.Cred),
		Object: jsonID(r.Object), Where: r.Where.toJSON(), To: r.To.toJSON(),
		Replaced: jsonID(r.Replaced), ReplacedLast: r.ReplacedLast, Last: r.Last,
		Before: r.Before.toJSON(), After: r.After.toJSON(),
		ParentBefore: r.ParentBefore.toJSON(), ParentAfter: r.ParentAfter.toJSON(),
		ToBefore: r.ToBefore.toJSON(), ToAfter: r.ToAfter.toJSON(),
		Valid: uint32(r.Valid), Attr: r.Attr.toJSON(), Old: r.Old.toJSON(),
		CloseSeq: r.CloseSeq, Inexact: r.Content.Inexact, FileOffset: r.Offset, Data: r.Data,
	}
	if have&fTarget != 0 {
		j.Target = (*text)(&r.Target)
	}
	if have&fXattr != 0 {
		j.Xattr = &jsonXattr{text(r.Xattr.Name), r.Xattr.Value}
	}
	if r.OldXattr != nil {
		j.OldXattr = &jsonXattr{text(r.OldXattr.Name), r.OldXattr.Value}
	}
	for _, x := range r.Xattrs {
		j.Xattrs = append(j.Xattrs, jsonXattr{text(x.Name), x.Value})
	}
	if have&fContent != 0 {
		j.Content = fmt.Sprintf("%x", r.Content.Root)
	}
	return j
}

func (n *Name) toJSON() *jsonName {
	if n.IsZero() {
		return nil
	}
	return &jsonName{jsonID(n.Parent), text(n.Name)}
}

func (v *Version) toJSON() *jsonVersion {
	if *v == (Version{}) {
		return nil
	}
	return &jsonVersion{v.Size, jsonTime(v.Mtime), jsonTime(v.Ctime)}
}

func (a *Attr) toJSON() *jsonAttr {
	if *a == (Attr{}) {
		return nil
	}
	j := &jsonAttr{Mode: fmt.Sprintf("%06o", a.Mode), UID: a.UID, GID: a.GID, Size: a.Size, Mtime: jsonTime(a.Mtime)}
	if a.Rdev != 0 {
		j.Rdev = fmt.Sprintf("%d:%d", a.Rdev>>32, uint32(a.Rdev))
	}
	return j
}

// jsonID is the String of an id with its whole space.
func jsonID(id ObjectID) string {
	switch {
	case id.IsZero():
		return ""
	case id == RootID:
		return "root"
	}
	return fmt.Sprintf("%v:%x.%x.%x", id.Space, id.Ino, id.Gen, uint64(id.Birth))
}

func jsonTime(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// jsonGen2 is the JSON of a record of the original.
type jsonGen2 struct {
	Recno      uint32                  `json:"recno"`
	Offset     int64                   `json:"offset"`
	Op         string                  `json:"op"`
	Time       string                  `json:"time"`
	Cred       jsonCred                `json:"cred"`
	Path       text                    `json:"path,omitempty"`
	NewPath    text                    `json:"new_path,omitempty"`
	Name       text                    `json:"name,omitempty"`
	Target     text                    `json:"target,omitempty"`
	Value      []byte                  `json:"value,omitempty"`
	Mode       string                  `json:"mode,omitempty"`
	UID        uint32                  `json:"uid,omitempty"`
	GID        uint32                  `json:"gid,omitempty"`
	Major      uint32                  `json:"major,omitempty"`
	Minor      uint32                  `json:"minor,omitempty"`
	Valid      uint32                  `json:"valid,omitempty"`
	Size       uint64                  `json:"size,omitempty"`
	Mtime      string                  `json:"mtime,omitempty"`
	Ctime      string                  `json:"ctime,omitempty"`
	Flags      uint32                  `json:"flags,omitempty"`
	Rollback   *jsonRollback           `json:"rollback,omitempty"`
	Ino        uint64                  `json:"ino,omitempty"`
	Generation uint32                  `json:"generation,omitempty"`
	Versions   map[string]*jsonVersion `json:"versions,omitempty"`
}

type jsonRollback struct {
	Mode string `json:"mode"`
	Rdev uint32 `json:"rdev"`
	UID  uint64 `json:"uid"`
	GID  uint64 `json:"gid"`
}

// MarshalJSON gives the record in the manner of our own.
func (r *Gen2Record) MarshalJSON() ([]byte, error) {
	j := jsonGen2{
		Recno: r.Recno, Offset: r.Offset, Op: gen2OpName(r.Op), Time: jsonTime(int64(r.Time) * 1e9),
		Cred: jsonCred{r.PID, r.AUID, r.FSUID, r.FSGID, r.Groups},
		Path: text(r.Path), NewPath: text(r.Path2), Name: text(r.Name), Target: text(r.Target), Value: r.Value,
		UID: r.UID, GID: r.GID, Major: r.Major, Minor: r.Minor, Valid: r.Valid, Size: r.Size,
		Flags: r.Flags, Ino: r.Ino, Generation: r.Generation, Versions: map[string]*jsonVersion{},
	}
	if r.Mode != 0 {
		j.Mode = fmt.Sprintf("%06o", r.Mode)
	}
	if r.Op == OpSetattr {
		j.Mtime, j.Ctime = jsonTime(r.Mtime), jsonTime(r.Ctime)
	}
	if b := r.Rollback; b != (Gen2Rollback{}) {
		j.Rollback = &jsonRollback{fmt.Sprintf("%06o", b.Mode), b.Rdev, b.UID, b.GID}
	}
	for _, s := range r.stamps() {
		if s.stamp != (Gen2Stamp{}) {
			j.Versions[s.name] = &jsonVersion{int64(s.stamp.Size), jsonTime(s.stamp.Mtime), jsonTime(s.stamp.Ctime)}
		}
	}
	return json.Marshal(&j)
}
