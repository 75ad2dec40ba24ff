package kml

import "pgregory.net/rapid"

// allOps are the opcodes that are records.
var allOps = func() []Op {
	var ops []Op
	for op := range 256 {
		if _, _, ok := fieldsOf(Op(op)); ok {
			ops = append(ops, Op(op))
		}
	}
	return ops
}()

func drawUUID(t *rapid.T) UUID {
	// A few values come again and again, as in real records.
	if rapid.Bool().Draw(t, "known") {
		return UUID{rapid.ByteRange(0, 3).Draw(t, "space")}
	}
	return UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
}

func drawID(t *rapid.T) ObjectID {
	if rapid.IntRange(0, 4).Draw(t, "root") == 0 {
		return RootID
	}
	id := ObjectID{drawUUID(t), rapid.Uint64().Draw(t, "ino"), rapid.Uint32().Draw(t, "gen"), rapid.Int64().Draw(t, "birth")}
	if id.IsZero() {
		return RootID
	}
	return id
}

func drawName(t *rapid.T) Name {
	s := rapid.SliceOfN(rapid.Byte(), 1, MaxName).Draw(t, "name")
	for i := range s {
		if s[i] == 0 || s[i] == '/' {
			s[i] = 'x'
		}
	}
	if string(s) == "." || string(s) == ".." {
		s = []byte("dot")
	}
	return Name{drawID(t), string(s)}
}

func drawVersion(t *rapid.T) Version {
	return Version{rapid.Int64Range(0, 1<<62).Draw(t, "size"), rapid.Int64().Draw(t, "mtime"), rapid.Int64Min(1).Draw(t, "ctime")}
}

func drawAttr(t *rapid.T, op Op) Attr {
	mode := rapid.Uint32Range(1, 0o7777).Draw(t, "mode")
	switch op {
	case OpCreate:
		mode |= modeRegular
	case OpMkdir:
		mode |= modeDir
	case OpSymlink:
		mode |= modeSymlink
	case OpMknod:
		mode |= 0o020000
	case OpClose:
		return Attr{Mode: mode}
	case OpRename:
		return Attr{Mode: rapid.SampledFrom([]uint32{modeRegular, modeDir, modeSymlink}).Draw(t, "type")}
	}
	return Attr{
		mode, rapid.Uint32().Draw(t, "uid"), rapid.Uint32().Draw(t, "gid"), rapid.Uint64().Draw(t, "rdev"),
		rapid.Int64Min(0).Draw(t, "size"), rapid.Int64().Draw(t, "mtime"),
	}
}

func drawXattr(t *rapid.T) Xattr {
	x := Xattr{Name: "user." + rapid.StringMatching(`[a-z]{1,20}`).Draw(t, "xattr")}
	if v := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"); len(v) > 0 {
		x.Value = v
	}
	return x
}

// drawRecord draws a record of op with every field it must have and any of those
// it may have.
func drawRecord(t *rapid.T, op Op) Record {
	may, must, _ := fieldsOf(op)
	have := field(rapid.Uint32().Draw(t, "fields"))&may | must
	r := Record{Op: op, Time: rapid.Int64().Draw(t, "time")}
	r.Cred = Cred{
		PID: rapid.Uint32().Draw(t, "pid"), AUID: rapid.Uint32().Draw(t, "auid"),
		FSUID: rapid.Uint32().Draw(t, "fsuid"), FSGID: rapid.Uint32().Draw(t, "fsgid"),
	}
	on := func(f field) bool { return have&f != 0 }
	if on(fGroups) {
		r.Cred.Groups = rapid.SliceOfN(rapid.Uint32(), 1, 40).Draw(t, "groups")
	}
	if on(fObject) {
		r.Object = drawID(t)
	}
	if on(fWhere) {
		r.Where = drawName(t)
	}
	if on(fTo) {
		r.To = drawName(t)
	}
	if on(fReplaced) {
		r.Replaced = drawID(t)
	}
	r.ReplacedLast = on(fReplacedLast) && on(fReplaced)
	r.Last = on(fLast)
	for i, v := range []*Version{&r.Before, &r.After, &r.ParentBefore, &r.ParentAfter, &r.ToBefore, &r.ToAfter} {
		if on(fBefore << i) {
			*v = drawVersion(t)
		}
	}
	drawRest(t, &r, on)
	return r
}

func drawRest(t *rapid.T, r *Record, on func(field) bool) {
	if on(fValid) {
		r.Valid = rapid.SampledFrom([]Valid{ValidMode, ValidUID | ValidGID, ValidMtime, validAll}).Draw(t, "valid")
	}
	if on(fAttr) {
		r.Attr = drawAttr(t, r.Op)
	}
	if on(fOld) {
		r.Old = drawAttr(t, OpSetattr)
	}
	if on(fTarget) {
		r.Target = rapid.StringMatching(`[a-z/.]{1,200}`).Draw(t, "target")
	}
	if on(fXattr) {
		r.Xattr = drawXattr(t)
		if r.Op == OpDelxattr {
			r.Xattr.Value = nil
		}
	}
	if on(fOldXattr) {
		old := drawXattr(t)
		old.Name = r.Xattr.Name
		r.OldXattr = &old
	}
	if on(fXattrs) {
		for range rapid.IntRange(1, 4).Draw(t, "xattrs") {
			r.Xattrs = append(r.Xattrs, drawXattr(t))
		}
	}
	if on(fCloseSeq) {
		r.CloseSeq = rapid.Uint64Min(1).Draw(t, "close")
	}
	if on(fContent) {
		r.Content.Root = [32]byte(rapid.SliceOfN(rapid.ByteMin(1), 32, 32).Draw(t, "content"))
		r.Content.Inexact = on(fInexact)
	}
	if on(fOffset) {
		r.Offset = rapid.Int64Range(1, 1<<50).Draw(t, "offset")
	}
	if on(fData) {
		r.Data = rapid.SliceOfN(rapid.Byte(), 1, 500).Draw(t, "data")
	}
}

func drawGroup(t *rapid.T) Group {
	g := Group{Origin: drawUUID(t), OriginEpoch: rapid.Uint32().Draw(t, "epoch"), Chain: Chain(drawUUID(t))}
	if g.Origin.IsZero() {
		g.Origin = UUID{1}
	}
	g.First = rapid.Uint64Range(1, 1<<60).Draw(t, "first")
	g.Last = g.First + rapid.Uint64Range(0, 20).Draw(t, "more")
	for seq := g.First; seq <= g.Last; seq++ {
		if rapid.Bool().Draw(t, "kept") {
			r := drawRecord(t, rapid.SampledFrom(allOps).Draw(t, "op"))
			r.Seq = seq
			g.Records = append(g.Records, r)
		}
	}
	return g
}
