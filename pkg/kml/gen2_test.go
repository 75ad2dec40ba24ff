package kml

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The golden records that are known of the original's format.
const (
	gen2Create = `
94000000 02000100 92100000 e8030000 e8030000 64000000 01000000 01000000 64000000
dc53923d 00000000 dc53923d 00000000 00100000 00000000
4054923d 00000000 4054923d 00000000 00100000 00000000
4054923d 00000000 4054923d 00000000 00000000 00000000
a4810000 e8030000 64000000 07000000 2f68656c 6c6f0000 00000000 01000000 4054923d 94000000`
	gen2Close = `
88000000 02000100 92100000 e8030000 e8030000 64000000 05000000 01000000 64000000
a4810000 e8030000 64000000 4054923d 00000000 4054923d 00000000 00000000 00000000
4154923d 00000000 4154923d 00000000 05000000 00000000 0c000000 00000000 cdab3412 07000000
2f68656c 6c6f0000 00000000 02000000 4154923d 88000000`
	gen2Unlink = `
ac000000 02000100 92100000 e8030000 e8030000 64000000 03000000 01000000 64000000
4054923d 00000000 4054923d 00000000 00100000 00000000 4254923d 00000000 4254923d 00000000 00100000 00000000
4154923d 00000000 4154923d 00000000 05000000 00000000 a4810000 00000000 e8030000 00000000 64000000 00000000
02000000 05000000 00000000 2f000000 68656c6c 6f000000 00000000 03000000 4254923d ac000000`
)

func unhex(t tester, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gen2Golden(t tester) []byte {
	return bytes.Join([][]byte{unhex(t, gen2Create), unhex(t, gen2Close), unhex(t, gen2Unlink)}, make([]byte, 40))
}

const gen2Now = int64(1033000000) * 1e9

func gen2Common(op Op, recno, late uint32, size int) Gen2Record {
	return Gen2Record{
		Len: uint32(size), Op: op, PID: 4242, AUID: 1000, FSUID: 1000, FSGID: 100, Groups: []uint32{100},
		Recno: recno, Time: 1033000000 + late,
	}
}

func TestGen2_Golden(t *testing.T) {
	at := func(late int64, size uint64) Gen2Stamp {
		return Gen2Stamp{gen2Now + late*1e9, gen2Now + late*1e9, size}
	}
	create := gen2Common(OpCreate, 1, 0, 148)
	create.Path, create.Mode, create.UID, create.GID = "/hello", 0o100644, 1000, 100
	create.ParentBefore, create.ParentAfter, create.ObjectAfter = at(-100, 4096), at(0, 4096), at(0, 0)
	closed := gen2Common(OpClose, 2, 1, 136)
	closed.Path, closed.Mode, closed.UID, closed.GID = "/hello", 0o100644, 1000, 100
	closed.ObjectBefore, closed.ObjectAfter = at(0, 0), at(1, 5)
	closed.Ino, closed.Generation = 12, 0x1234abcd
	unlink := gen2Common(OpUnlink, 3, 2, 172)
	unlink.Path, unlink.Name, unlink.Rollback = "/", "hello", Gen2Rollback{Mode: 0o100644, UID: 1000, GID: 100}
	unlink.ParentBefore, unlink.ParentAfter, unlink.ObjectBefore = at(0, 4096), at(2, 4096), at(1, 5)
	closed.Offset, unlink.Offset = 148+40, 148+40+136+40

	r := NewGen2Reader(bytes.NewReader(append(gen2Golden(t), make([]byte, 70000)...)), "kml")
	for _, want := range []Gen2Record{create, closed, unlink} {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%v: %s", want.Op, d)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after zeros: %v", err)
	}
}

// gen2Build makes a record by the tables: 32-bit words and padded strings.
func gen2Build(op Op, parts ...any) []byte {
	le := binary.LittleEndian
	b := make([]byte, gen2Prefix)
	le.PutUint32(b[4:], Gen2Version)
	le.PutUint32(b[24:], uint32(op))
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = le.AppendUint32(b, uint32(p))
		case uint64:
			b = le.AppendUint64(b, p)
		case string:
			b = append(b, p...)
			for len(b)%4 != 0 {
				b = append(b, 0xee) // what lay in memory
			}
		case Gen2Stamp:
			b = le.AppendUint32(le.AppendUint32(b, uint32(p.Mtime/1e9)), uint32(p.Mtime%1e9))
			b = le.AppendUint32(le.AppendUint32(b, uint32(p.Ctime/1e9)), uint32(p.Ctime%1e9))
			b = le.AppendUint64(b, p.Size)
		}
	}
	size := uint32(len(b) + gen2Suffix)
	le.PutUint32(b, size)
	for _, v := range []uint32{0, 77, 1033000000, size} {
		b = le.AppendUint32(b, v)
	}
	return b
}

// Every opcode, with the total length that the tables give.
func TestGen2_EveryOpcode(t *testing.T) {
	v1, v2, v3, v4 := Gen2Stamp{1e9, 2e9, 3}, Gen2Stamp{4e9 + 5, 5e9 + 999999999, 6}, Gen2Stamp{7e9, 8e9, 9}, Gen2Stamp{10e9, 11e9, 12}
	back := Gen2Rollback{0o100600, 5, 6, 7}
	rollback := []any{0o100600, 5, uint64(6), uint64(7)}
	with := func(parts ...any) []any { return parts }
	cases := []struct {
		op    Op
		total int
		parts []any
		want  Gen2Record
	}{
		{OpNoop, 48, nil, Gen2Record{}},
		{OpMkdir, 136 + 4, with(v1, v2, v3, 0o40755, 1, 2, 3, "/d\x00"),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectAfter: v3, Mode: 0o40755, UID: 1, GID: 2, Path: "/d"}},
		{OpSymlink, 136 + 4 + 8, with(v1, v2, v3, 1, 2, 3, 5, "/l\x00", "there"),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectAfter: v3, UID: 1, GID: 2, Path: "/l", Target: "there"}},
		{OpMknod, 144 + 4, with(v1, v2, v3, 0o20600, 1, 2, 8, 1, 3, "/n\x00"),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectAfter: v3, Mode: 0o20600, UID: 1, GID: 2, Major: 8, Minor: 1, Path: "/n"}},
		{OpLink, 128 + 4 + 8, with(v1, v2, v3, 3, 5, "/a\x00", "/bcd\x00"),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectAfter: v3, Path: "/a", Path2: "/bcd"}},
		{OpRename, 152 + 4 + 8, with(v1, v2, v3, v4, 3, 5, "/a\x00", "/bcd\x00"),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, DestBefore: v3, DestAfter: v4, Path: "/a", Path2: "/bcd"}},
		{OpUnlink, 156 + 4 + 8 + 8, append(with(v1, v2, v3), append(rollback, 2, 5, 5, "/\x00", "hello", "where")...),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectBefore: v3, Rollback: back, Path: "/", Name: "hello", Target: "where"}},
		{OpRmdir, 152 + 4 + 4, append(with(v1, v2, v3), append(rollback, 2, 3, "/\x00", "dir")...),
			Gen2Record{ParentBefore: v1, ParentAfter: v2, ObjectBefore: v3, Rollback: back, Path: "/", Name: "dir"}},
		{OpSetattr, 144 + 4, append(with(v1, 33, 0o644, 1, 2, uint64(99), uint64(5), uint64(6), 0), append(rollback, 3, "/f\x00")...),
			Gen2Record{ObjectBefore: v1, Valid: 33, Mode: 0o644, UID: 1, GID: 2, Size: 99, Mtime: 5e9, Ctime: 6e9, Rollback: back, Path: "/f"}},
		{OpClose, 124 + 4, with(0o100644, 1, 2, v1, v2, uint64(1<<40), 9, 3, "/f\x00"),
			Gen2Record{Mode: 0o100644, UID: 1, GID: 2, ObjectBefore: v1, ObjectAfter: v2, Ino: 1 << 40, Generation: 9, Path: "/f"}},
		{OpSetxattr, 116 + 4 + 8 + 4, with(v1, v2, 1, 0o100644, 3, 6, 3, "/f\x00", "user.a", "val"),
			Gen2Record{ObjectBefore: v1, ObjectAfter: v2, Flags: 1, Mode: 0o100644, Path: "/f", Name: "user.a", Value: []byte("val")}},
		{OpDelxattr, 116 + 4 + 8, with(v1, v2, 1, 0o100644, 3, 7, 0, "/f\x00", "user.a\x00"),
			Gen2Record{ObjectBefore: v1, ObjectAfter: v2, Flags: 1, Mode: 0o100644, Path: "/f", Name: "user.a"}},
		{opGetFileID, 52 + 4, with(3, "/f\x00"), Gen2Record{Path: "/f"}},
	}
	for _, c := range cases {
		t.Run(gen2OpName(c.op), func(t *testing.T) {
			b := gen2Build(c.op, c.parts...)
			if len(b) != c.total {
				t.Errorf("%d bytes, the table says %d", len(b), c.total)
			}
			got, err := DecodeGen2(b)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Op, c.want.Len, c.want.Recno, c.want.Time = c.op, uint32(len(b)), 77, 1033000000
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			for n := range b {
				if _, err := DecodeGen2(b[:n]); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("cut to %d: %v", n, err)
				}
			}
		})
	}
}

func TestGen2_Refused(t *testing.T) {
	v := Gen2Stamp{}
	word := func(b []byte, at int, v uint32) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	for name, b := range map[string][]byte{
		"version":             word(unhex(t, gen2Create), 4, 0x00012001),
		"opcode":              word(unhex(t, gen2Create), 24, 19),
		"opcode of no record": gen2Build(OpWrite),
		"groups":              word(unhex(t, gen2Create), 28, 33),
		"length at start":     word(unhex(t, gen2Create), 0, 152),
		"length at end":       word(unhex(t, gen2Create), 144, 152),
		"nanoseconds":         word(unhex(t, gen2Create), 40, 1e9),
		"bytes left over":     gen2Build(OpNoop, 0),
		"path without slash":  gen2Build(OpMkdir, v, v, v, 0, 0, 0, 3, "dd\x00"),
		"path without NUL":    gen2Build(OpMkdir, v, v, v, 0, 0, 0, 3, "/dd"),
		"path with two NULs":  gen2Build(OpMkdir, v, v, v, 0, 0, 0, 5, "/d\x00d\x00"),
		"empty path":          gen2Build(OpMkdir, v, v, v, 0, 0, 0, 0),
		"long path":           gen2Build(OpMkdir, v, v, v, 0, 0, 0, -1, "/dd\x00"),
		"name with slash":     gen2Build(OpRmdir, v, v, v, 0, 0, uint64(0), uint64(0), 2, 3, "/\x00", "a/b"),
		"deleted value":       gen2Build(OpDelxattr, v, v, 0, 0, 3, 1, 1, "/f\x00", "a", "v"),
	} {
		if _, err := DecodeGen2(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGen2Reader_TornAndCorrupt(t *testing.T) {
	golden := gen2Golden(t)
	last := len(golden) - 172
	for n := last + 1; n < len(golden); n++ {
		r := NewGen2Reader(bytes.NewReader(golden[:n]), "kml")
		var err error
		for range 3 {
			_, err = r.Next()
		}
		var torn *TornError
		if !errors.As(err, &torn) || torn.Offset != int64(last) || torn.Length != int64(n-last) || torn.Seq != 2 {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for _, word := range []uint32{3, 44, 50, 1<<16 + 4} {
		b := bytes.Clone(golden)
		binary.LittleEndian.PutUint32(b[last:], word)
		r := NewGen2Reader(bytes.NewReader(b), "kml")
		var err error
		for range 3 {
			_, err = r.Next()
		}
		var bad *CorruptError
		if !errors.As(err, &bad) || bad.Offset != int64(last) || bad.Seq != 3 || bad.File != "kml" {
			t.Fatalf("length %d: %v", word, err)
		}
	}
	broken := NewGen2Reader(io.MultiReader(bytes.NewReader(golden[:20]), brokenReader{}), "kml")
	if _, err := broken.Next(); !errors.Is(err, errBroken) {
		t.Errorf("broken reader: %v", err)
	}
}

var errBroken = errors.New("disk on fire")

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func FuzzGen2(f *testing.F) {
	f.Add(gen2Golden(f))
	v := Gen2Stamp{1e9, 2e9, 3}
	f.Add(gen2Build(OpRename, v, v, v, v, 3, 5, "/a\x00", "/bcd\x00"))
	f.Add(gen2Build(OpSetxattr, v, v, 1, 0o100644, 3, 6, 3, "/f\x00", "user.a", "val"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewGen2Reader(bytes.NewReader(b), "kml")
		var end int64
		for {
			rec, err := r.Next()
			if err != nil {
				if err != io.EOF && !errors.Is(err, ErrTorn) && !errors.Is(err, ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			if rec.Offset < end || rec.Offset+int64(rec.Len) > int64(len(b)) {
				t.Fatalf("record at %d of %d bytes after %d", rec.Offset, rec.Len, end)
			}
			end = rec.Offset + int64(rec.Len)
			if _, err := rec.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
			rec.appendText(nil)
		}
	})
}
