package kml

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// Frames with a right checksum are still refused where they are not as they
// should be.
func TestFrame_Strict(t *testing.T) {
	fr := newFramer(&testHeader, "")
	good, pos := fr.appendFrame(nil, Pos{}, FlagMore, 5, []byte("hello"))
	size := len(good)
	if f, what := fr.parse(good); what != "" || f.Pos != pos || string(f.Body) != "hello" || f.Size() != int64(size) {
		t.Fatalf("%+v, %s", f, what)
	}
	for what, spoil := range map[string]func(b []byte){
		"length at its end":   func(b []byte) { b[size-4]++ },
		"checksum":            func(b []byte) { b[50]++ },
		"of another log":      func(b []byte) { b[12]++ },
		"group in a log that": func(b []byte) { b[8] = byte(FrameGroup) },
		"frame kind 9":        func(b []byte) { b[8] = 9 },
		"unknown flags":       func(b []byte) { b[9] = 2 },
		"padding":             func(b []byte) { b[frameHead+5] = 1 },
	} {
		b := bytes.Clone(good)
		spoil(b)
		if what != "checksum" {
			binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:size-frameTail], fr.crc))
		}
		if _, got := fr.parse(b); !strings.Contains(got, what) {
			t.Errorf("%s: %q", what, got)
		}
	}
	b := bytes.Clone(good)
	b[10] = 1
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:size-frameTail], fr.crc))
	if _, got := fr.parse(b); got == "" {
		t.Error("a reserved field is not zero")
	}
	f, _ := fr.parse(good)
	if what := fr.follows(&f, good, Pos{}); what != "" {
		t.Error(what)
	}
	if what := fr.follows(&f, good, Pos{Seq: 1}); !strings.Contains(what, "number 1 where 2") {
		t.Error(what)
	}
	if what := fr.follows(&f, good, Pos{Chain: Chain{1}}); !strings.Contains(what, "chain") {
		t.Error(what)
	}
}

func TestFrame_WrongKind(t *testing.T) {
	record, group := Frame{Kind: FrameRecord}, Frame{Kind: FrameGroup}
	if _, err := record.Group(); err == nil {
		t.Error("a record read as a group")
	}
	if _, err := group.Record(); err == nil {
		t.Error("a group read as a record")
	}
}

// A size for every length field, and the reverse.
func TestFrameSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, maxBody).Draw(t, "body")
		size := frameSize(n)
		if size%frameAlign != 0 || size < int64(n+frameHead+frameTail) || size >= int64(n+frameHead+frameTail+frameAlign) {
			t.Fatalf("a body of %d takes %d", n, size)
		}
		if frameSizeOf(uint32(n+frameHead+frameTail)) != size {
			t.Fatal("length field and size differ")
		}
	})
	for _, n := range []uint32{0, 1, frameHead + frameTail, MaxFrame + 1, 1<<32 - 1} {
		if frameSizeOf(n) != 0 {
			t.Errorf("length %d is possible", n)
		}
	}
}

func TestGroup_Strict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGroup(t)
		b, err := g.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := DecodeGroup(b[:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := DecodeGroup(append(bytes.Clone(b), 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("one byte more: %v", err)
		}
		for range 50 {
			c := bytes.Clone(b)
			c[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			canonicalGroup(t, c)
		}
	})
}

func TestGroup_ErrorSaysWhere(t *testing.T) {
	g := Group{Origin: UUID{1}, First: 1, Last: 2, Records: []Record{{Seq: 1, Op: OpNoop}, {Seq: 2, Op: OpNoop}}}
	b, err := g.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	second := groupHeadSize + smallestItem + groupItemSize
	b[second+1] = 10 // its opcode
	_, err = DecodeGroup(b)
	var bad *CorruptError
	if !errors.As(err, &bad) || bad.Offset != int64(second+1) || bad.Error() != "corrupt record: unknown opcode at byte 100" {
		t.Errorf("got %v", err)
	}
}

func TestErrors_Text(t *testing.T) {
	for want, err := range map[string]error{
		"corrupt log kml: frame 7 at offset 4096: bad":             &CorruptError{File: "kml", What: "bad", Seq: 7, Offset: 4096},
		"corrupt log kml: bad at offset 12":                        &CorruptError{File: "kml", What: "bad", Offset: 12},
		"corrupt record: bad at byte 3":                            &CorruptError{What: "bad", Offset: 3},
		"torn tail in log kml: 9 bytes at offset 8, after frame 7": &TornError{"kml", 7, 8, 9},
		"invalid CREATE record: Where: has a slash":                &InvalidError{OpCreate, "Where", "has a slash"},
		"log kml: position 9: history":                             &PosError{"kml", 9, 1, 8, errors.New("history")},
	} {
		if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q, want %q", err, want)
		}
	}
}

// What the kernel failed to write once is not synced by asking again.
func TestLog_SyncFailsForEver(t *testing.T) {
	l := newLog(t, t.TempDir(), testHeader)
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	good := l.f
	l.f = w
	first := l.Sync()
	l.f = good
	if !errors.Is(first, unix.EINVAL) {
		t.Fatal(first)
	}
	if err := l.Sync(); err != first {
		t.Errorf("then: %v", err)
	}
	fill(t, l, 1) // the log can still be written
}

// A View whose tail can't be walked backwards reads forwards.
func TestView_TailThatCannotBeWalked(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 4000)
	v := newView(t, dir)
	defer v.f.Close()
	if _, err := v.f.WriteAt(bytes.Repeat([]byte{0x70, 1, 0, 0, 0x70, 1, 0, 0}, firstBlock), l.EndOffset()); err != nil {
		t.Fatal(err)
	}
	v.SetEnd(l.End())
	r, err := v.ReadFrom(3900)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, r, 3901, 4000)
}

func TestParseUUID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
		if got, err := ParseUUID(u.String()); err != nil || got != u {
			t.Fatalf("%v: %v, %v", u, got, err)
		}
	})
	for _, s := range []string{"", "x", "6b1f429e55074c0d8a2c33109d7ef104", "6b1f429e-5507-4c0d-8a2c-33109d7ef10g", "6b1f429e-5507-4c0d-8a2c-33109d7ef1045"} {
		if _, err := ParseUUID(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}
