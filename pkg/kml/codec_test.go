package kml

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRecord_RoundTrip(t *testing.T) {
	for _, op := range allOps {
		t.Run(op.String(), rapid.MakeCheck(func(t *rapid.T) {
			want := drawRecord(t, op)
			b, err := want.AppendTo([]byte("before"))
			if err != nil {
				t.Fatalf("encode %+v: %v", want, err)
			}
			if string(b[:6]) != "before" {
				t.Fatal("AppendTo changed what was there")
			}
			b = b[6:]
			got, err := DecodeRecord(b)
			if err != nil {
				t.Fatalf("decode: %v", err)
			}
			for i := range b {
				b[i] = 0xaa // the record must not point into it
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
		}))
	}
}

func TestGroup_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawGroup(t)
		b, err := want.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeGroup(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// Nothing but what AppendTo writes may be accepted: cut anywhere, one byte more,
// one bit flipped.
func TestRecord_Strict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t, rapid.SampledFrom(allOps).Draw(t, "op"))
		b, err := r.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := DecodeRecord(b[:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := DecodeRecord(append(bytes.Clone(b), 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("one byte more: %v", err)
		}
		for range 50 {
			c := bytes.Clone(b)
			c[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			canonical(t, c)
		}
	})
}

type fataler interface{ Fatalf(string, ...any) }

// canonical checks that b is refused or is just what its record encodes to.
func canonical(t fataler, b []byte) {
	r, err := DecodeRecord(b)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("decode %x: %v is no CorruptError", b, err)
		}
		return
	}
	again, err := r.AppendTo(nil)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("decoded %x, which encodes to %x (%v)", b, again, err)
	}
}

func canonicalGroup(t fataler, b []byte) {
	g, err := DecodeGroup(b)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("decode %x: %v is no CorruptError", b, err)
		}
		return
	}
	again, err := g.AppendTo(nil)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("decoded %x, which encodes to %x (%v)", b, again, err)
	}
}

// sampleCreate is what a CREATE is like: 12 bytes of name, three groups.
func sampleCreate() Record {
	space := UUID{0x6b, 0x1f, 0x42, 0x9e, 0x55, 0x07, 0x4c, 0x0d, 0x8a, 0x2c, 0x33, 0x10, 0x9d, 0x7e, 0xf1, 0x04}
	const now = 1_790_000_000_123_456_789
	return Record{
		Op: OpCreate, Time: now,
		Cred:         Cred{PID: 4242, AUID: 1000, FSUID: 1000, FSGID: 100, Groups: []uint32{24, 27, 100}},
		Object:       ObjectID{Space: space, Ino: 1234567, Gen: 0xdeadbeef, Birth: now - 1000},
		Where:        Name{Parent: ObjectID{Space: space, Ino: 131073, Gen: 0x1234abcd, Birth: now - 5e9}, Name: "document.txt"},
		After:        Version{Mtime: now - 1000, Ctime: now - 1000},
		ParentBefore: Version{Size: 4096, Mtime: now - 5e9, Ctime: now - 5e9},
		ParentAfter:  Version{Size: 4096, Mtime: now - 1000, Ctime: now - 1000},
		Attr:         Attr{Mode: 0o100644, UID: 1000, GID: 100, Mtime: now - 1000},
	}
}

func TestRecord_CreateIsSmall(t *testing.T) {
	r := sampleCreate()
	b, err := r.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a CREATE is %d bytes, its frame %d", len(b), frameSize(len(b)))
	if len(b) > 200 {
		t.Errorf("a CREATE is %d bytes", len(b))
	}
}

func TestRecord_AppendToAllocatesNothing(t *testing.T) {
	r := sampleCreate()
	b := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { b, _ = r.AppendTo(b[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Each case spoils a good record of its opcode.
func TestRecord_Refused(t *testing.T) {
	long := func(n int) string { return strings.Repeat("n", n) }
	create, unlink, rename := sampleCreate(), sampleCreate(), sampleCreate()
	id, where := create.Object, create.Where
	unlink = Record{Op: OpUnlink, Object: id, Where: where}
	rename = Record{Op: OpRename, Object: id, Where: where, To: where}
	setx := Record{Op: OpSetxattr, Object: id, Xattr: Xattr{Name: "user.a"}}
	cases := []struct {
		name string
		good Record
		bad  func(*Record)
	}{
		{"unknown opcode", create, func(r *Record) { r.Op = 10 }},
		{"NOOP about an object", Record{Op: OpNoop}, func(r *Record) { r.Object = id }},
		{"no object", create, func(r *Record) { r.Object = ObjectID{} }},
		{"field of another opcode", create, func(r *Record) { r.To = where }},
		{"target on a file", create, func(r *Record) { r.Target = "t" }},
		{"no name", create, func(r *Record) { r.Where = Name{} }},
		{"no parent", create, func(r *Record) { r.Where.Parent = ObjectID{} }},
		{"empty name", create, func(r *Record) { r.Where.Name = "" }},
		{"dot", create, func(r *Record) { r.Where.Name = "." }},
		{"dot dot", rename, func(r *Record) { r.To.Name = ".." }},
		{"slash", create, func(r *Record) { r.Where.Name = "a/b" }},
		{"NUL", create, func(r *Record) { r.Where.Name = "a\x00" }},
		{"long name", create, func(r *Record) { r.Where.Name = long(256) }},
		{"directory made by CREATE", create, func(r *Record) { r.Attr.Mode = 0o040755 }},
		{"mode without type", create, func(r *Record) { r.Attr.Mode = 0o644 }},
		{"large mode", unlink, func(r *Record) { r.Old.Mode = 1 << 16 }},
		{"negative size", create, func(r *Record) { r.Attr.Size = -1 }},
		{"negative size of a version", create, func(r *Record) { r.After.Size = math.MinInt64 }},
		{"too many groups", create, func(r *Record) { r.Cred.Groups = make([]uint32, MaxGroups+1) }},
		{"long target", unlink, func(r *Record) { r.Target = long(4096) }},
		{"NUL in target", unlink, func(r *Record) { r.Target = "a\x00" }},
		{"last of nothing replaced", rename, func(r *Record) { r.ReplacedLast = true }},
		{"xattr without name", setx, func(r *Record) { r.Xattr = Xattr{Value: []byte{1}} }},
		{"long xattr name", setx, func(r *Record) { r.Xattr.Name = long(256) }},
		{"large xattr", setx, func(r *Record) { r.Xattr.Value = make([]byte, MaxXattrValue+1) }},
		{"removed xattr with value", setx, func(r *Record) { r.Op, r.Xattr.Value = OpDelxattr, []byte{1} }},
		{"other old xattr", setx, func(r *Record) { r.OldXattr = &Xattr{Name: "user.b"} }},
		{"too many xattrs", create, func(r *Record) { r.Xattrs = make([]Xattr, MaxXattrs+1) }},
		{"owner in CLOSE", Record{Op: OpClose, Object: id}, func(r *Record) { r.Attr = Attr{Mode: 0o100644, UID: 1} }},
		{"inexact nothing", Record{Op: OpClose, Object: id}, func(r *Record) { r.Content.Inexact = true }},
		{"no valid bits", Record{Op: OpSetattr, Object: id, Valid: ValidUID}, func(r *Record) { r.Valid = 0 }},
		{"atime", Record{Op: OpSetattr, Object: id, Valid: ValidUID}, func(r *Record) { r.Valid = 16 }},
		{"negative offset", Record{Op: OpWrite, Object: id, Data: []byte{1}}, func(r *Record) { r.Offset = -1 }},
		{"offset at the end of the world", Record{Op: OpWrite, Object: id, Data: []byte{1}}, func(r *Record) { r.Offset = math.MaxInt64 }},
		{"large data", Record{Op: OpWrite, Object: id, Data: []byte{1}}, func(r *Record) { r.Data = make([]byte, MaxData+1) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := c.good
			if err := r.Validate(); err != nil {
				t.Fatalf("the good one: %v", err)
			}
			c.bad(&r)
			b, err := r.AppendTo([]byte("x"))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || !errors.Is(err, ErrInvalid) || string(b) != "x" {
				t.Errorf("got %v, %q", err, b)
			}
		})
	}
}

func TestGroup_Refused(t *testing.T) {
	noop := func(seq uint64) Record { return Record{Seq: seq, Op: OpNoop} }
	good := Group{Origin: UUID{1}, First: 5, Last: 9, Records: []Record{noop(5), noop(7), noop(9)}}
	if _, err := good.AppendTo(nil); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(*Group){
		"no origin":        func(g *Group) { g.Origin = UUID{} },
		"from 0":           func(g *Group) { g.First = 0 },
		"backwards":        func(g *Group) { g.Last = 4 },
		"record before":    func(g *Group) { g.Records = []Record{noop(4)} },
		"record after":     func(g *Group) { g.Records = []Record{noop(10)} },
		"out of order":     func(g *Group) { g.Records = []Record{noop(7), noop(6)} },
		"number twice":     func(g *Group) { g.Records = []Record{noop(7), noop(7)} },
		"bad record":       func(g *Group) { g.Records = []Record{{Seq: 5, Op: OpCreate}} },
		"too many records": func(g *Group) { g.Last = 1 << 20; g.Records = make([]Record, MaxGroupRecords+1) },
	} {
		t.Run(name, func(t *testing.T) {
			g := good
			bad(&g)
			if b, err := g.AppendTo([]byte("x")); !errors.Is(err, ErrInvalid) || string(b) != "x" {
				t.Errorf("got %v, %q", err, b)
			}
		})
	}
}

// A decoder must not be made to allocate what the input has no room for.
func TestDecode_AllocationIsBounded(t *testing.T) {
	r := Record{Op: OpNoop, Cred: Cred{Groups: []uint32{1}}}
	b, _ := r.AppendTo(nil)
	b = append(b[:len(b)-2], 0x80, 0x80, 0x04) // 65536 groups, none there
	g := Group{Origin: UUID{1}, First: 1, Last: 1 << 20}
	gb, _ := g.AppendTo(nil)
	gb[groupHeadSize-4], gb[groupHeadSize-3] = 0, 255
	for name, f := range map[string]func(){
		"groups":  func() { DecodeRecord(b) },
		"records": func() { DecodeGroup(gb) },
	} {
		const n = 1000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			f()
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 2000 {
			t.Errorf("%s: %d bytes", name, got)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for i, op := range allOps {
		r := rapid.Custom(func(t *rapid.T) Record { return drawRecord(t, op) }).Example(i)
		b, err := r.AppendTo(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { canonical(t, b) })
}

func FuzzDecodeGroup(f *testing.F) {
	for i := range 8 {
		g := rapid.Custom(drawGroup).Example(i)
		b, err := g.AppendTo(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { canonicalGroup(t, b) })
}

func BenchmarkRecord_AppendTo(b *testing.B) {
	r, buf := sampleCreate(), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = r.AppendTo(buf[:0])
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	r := sampleCreate()
	buf, _ := r.AppendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRecord(buf); err != nil {
			b.Fatal(err)
		}
	}
}
