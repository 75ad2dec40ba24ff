package kml

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tester is what testing.T, testing.B and rapid.T have in common here.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

var testHeader = Header{
	Kind: KindKML, Fileset: UUID{0xf5}, Owner: UUID{0xca, 0xc4, 0xe}, Epoch: 3, Created: 1_790_000_000_000_000_000,
}

func create(t tester, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// newLog makes and opens a log in dir, with an index unless told not to.
func newLog(t tester, dir string, h Header) *Log {
	t.Helper()
	f := create(t, filepath.Join(dir, "kml"))
	if err := Format(f, h); err != nil {
		t.Fatal(err)
	}
	f.Close()
	return reopen(t, dir)
}

func reopen(t tester, dir string) *Log {
	t.Helper()
	l, err := Open(create(t, filepath.Join(dir, "kml")), create(t, filepath.Join(dir, "kml.index")))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// body is the body of frame i in these tests: a record.
func body(i int) []byte {
	r := Record{Op: OpWrite, Time: int64(i), Object: RootID, Data: bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1+i%40)}
	b, err := r.AppendTo(nil)
	if err != nil {
		panic(err)
	}
	return b
}

// fill appends frames up to the number n.
func fill(t tester, l *Log, n int) {
	t.Helper()
	for i := int(l.End().Seq) + 1; i <= n; i++ {
		pos, err := l.Append(FrameRecord, uint8(i%7/6), int64(i)*1000, body(i))
		if err != nil || pos.Seq != uint64(i) {
			t.Fatalf("append %d: %v, %v", i, pos, err)
		}
	}
}

// readAll reads what is left and checks that it is frames first to last of fill.
func readAll(t tester, r *Reader, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		f, err := r.Next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.Pos.Seq != uint64(i) || !bytes.Equal(f.Body, body(i)) || f.Time != int64(i)*1000 || f.Flags != uint8(i%7/6) || f.Kind != FrameRecord {
			t.Fatalf("frame %d is %+v", i, f)
		}
	}
	if f, err := r.Next(); err != io.EOF {
		t.Fatalf("after the last frame: %v, %v", f.Pos, err)
	}
}

func TestLog_AppendAndRead(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	want := testHeader
	want.Base.Epoch = want.Epoch
	if d := cmp.Diff(want, l.Header()); d != "" {
		t.Error(d)
	}
	if l.End() != want.Base || l.EndOffset() != headerSize || l.Torn() != 0 {
		t.Errorf("a new log ends at %+v, offset %d", l.End(), l.EndOffset())
	}
	const n = 5000
	fill(t, l, n)
	ends := map[uint64]Pos{0: want.Base}
	r, err := l.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		ends[f.Pos.Seq] = f.Pos
	}
	end := l.End()
	check := func(l *Log) {
		for _, seq := range []uint64{0, 1, 2, 700, 2500, n - 1025, n - 1024, n - 1, n} {
			pos, err := l.PosAt(seq)
			if err != nil || pos != ends[seq] {
				t.Fatalf("PosAt(%d) = %v %v, want %v (%v)", seq, pos, pos.Chain, ends[seq], err)
			}
			if err := l.Check(pos); err != nil {
				t.Fatal(err)
			}
			r, err := l.ReadFrom(seq)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, r, int(seq)+1, n)
		}
	}
	check(l)
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, dir)
	defer l.Close()
	if l.End() != end {
		t.Fatalf("reopened at %v, was %v", l.End(), end)
	}
	check(l)
	fill(t, l, n+10)
}

func TestLog_Positions(t *testing.T) {
	h := testHeader
	h.Base = Pos{Epoch: 2, Seq: 100, Chain: Chain{1, 2, 3}}
	l := newLog(t, t.TempDir(), h)
	defer l.Close()
	fill(t, l, 110)
	end := l.End()
	for _, c := range []struct {
		p    Pos
		want error
	}{
		{h.Base, nil},
		{end, nil},
		{Pos{2, 99, Chain{}}, ErrCut},
		{Pos{}, ErrCut},
		{Pos{3, 100, Chain{1, 2, 3}}, ErrForked},
		{Pos{2, 100, Chain{1, 2, 4}}, ErrForked},
		{Pos{2, 110, end.Chain}, ErrForked},
		{Pos{3, 110, Chain{}}, ErrForked},
		{Pos{3, 105, end.Chain}, ErrForked},
		{Pos{3, 111, end.Chain}, ErrForked},
	} {
		if err := l.Check(c.p); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("Check(%v): %v, want %v", c.p, err, c.want)
		}
	}
	var pe *PosError
	if _, err := l.ReadFrom(111); !errors.Is(err, ErrBeyond) || !errors.As(err, &pe) || pe.End != 110 || pe.Base != 100 {
		t.Errorf("beyond: %v", err)
	}
	if _, err := l.PosAt(99); !errors.Is(err, ErrCut) {
		t.Errorf("cut: %v", err)
	}
	fresh := newLog(t, t.TempDir(), testHeader)
	defer fresh.Close()
	if err := fresh.Check(Pos{}); err != nil {
		t.Errorf("the beginning: %v", err)
	}
	if err := fresh.Check(Pos{Chain: Chain{1}}); !errors.Is(err, ErrForked) {
		t.Errorf("a beginning with a chain value: %v", err)
	}
}

// The chain covers epoch, kind, number and body, and neither flags nor time.
func TestLog_Chain(t *testing.T) {
	end := func(h Header, flags uint8, now int64, bodies ...string) Chain {
		l := newLog(t, t.TempDir(), h)
		defer l.Close()
		for _, b := range bodies {
			if _, err := l.Append(h.Kind.frameKind(), flags, now, []byte(b)); err != nil {
				t.Fatal(err)
			}
		}
		return l.End().Chain
	}
	same := end(testHeader, 0, 1, "a", "b")
	if end(testHeader, FlagMore, 2, "a", "b") != same {
		t.Error("flags or time change the chain")
	}
	owner, epoch, kind, base := testHeader, testHeader, testHeader, testHeader
	owner.Owner = UUID{9}
	epoch.Epoch++
	kind.Kind = KindOrder
	base.Base = Pos{Epoch: 1, Seq: 7}
	if end(owner, 0, 1, "a", "b") != same {
		t.Error("a copy of the log at another host has another chain")
	}
	for what, got := range map[string]Chain{
		"first body": end(testHeader, 0, 1, "x", "b"), "last body": end(testHeader, 0, 1, "a", "x"),
		"epoch": end(epoch, 0, 1, "a", "b"), "kind": end(kind, 0, 1, "a", "b"), "number": end(base, 0, 1, "a", "b"),
	} {
		if got == same {
			t.Errorf("%s does not change the chain", what)
		}
	}
}

func TestLog_AppendMany(t *testing.T) {
	l := newLog(t, t.TempDir(), testHeader)
	defer l.Close()
	one := newLog(t, t.TempDir(), testHeader)
	defer one.Close()
	var bodies [][]byte
	var flags []uint8
	for i := 1; i <= 3000; i++ {
		bodies = append(bodies, body(i))
		flags = append(flags, uint8(i%7/6))
	}
	ends, err := l.AppendMany(FrameRecord, flags, 1000, bodies)
	if err != nil || len(ends) != 3000 {
		t.Fatal(len(ends), err)
	}
	for i := range bodies {
		pos, err := one.Append(FrameRecord, flags[i], 1000, bodies[i])
		if err != nil || pos != ends[i] {
			t.Fatalf("frame %d: %v, one by one %v (%v)", i+1, ends[i], pos, err)
		}
	}
	if l.EndOffset() != one.EndOffset() {
		t.Error("not the same bytes")
	}
	if ends, err := l.AppendMany(FrameRecord, nil, 1, nil); err != nil || len(ends) != 0 {
		t.Errorf("nothing: %v, %v", ends, err)
	}
	before := l.End()
	for name, err := range map[string]error{
		"flags": second(l.AppendMany(FrameRecord, []uint8{1}, 1, [][]byte{{1}, {2}})),
		"flag":  second(l.AppendMany(FrameRecord, []uint8{0, 2}, 1, [][]byte{{1}, {2}})),
		"empty": second(l.AppendMany(FrameRecord, nil, 1, [][]byte{{1}, {}})),
		"kind":  second(l.Append(FrameGroup, 0, 1, []byte{1})),
		"large": second(l.Append(FrameRecord, 0, 1, make([]byte, maxBody+1))),
	} {
		if err == nil || l.End() != before {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLog_After(t *testing.T) {
	l := newLog(t, t.TempDir(), testHeader)
	defer l.Close()
	fill(t, l, 3)
	bodies := [][]byte{body(4), body(5), body(6)}
	want := l.After(bodies)
	got, err := l.AppendMany(FrameRecord, nil, 0, bodies)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestLog_LargeFrame(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	big := bytes.Repeat([]byte("0123456789abcdef"), maxBody/16)
	fill(t, l, 3)
	if _, err := l.Append(FrameRecord, 0, 1, big); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(FrameRecord, 0, 1, []byte("after")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	l = reopen(t, dir)
	defer l.Close()
	r, err := l.ReadFrom(3)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.Next(); err != nil || !bytes.Equal(f.Body, big) {
		t.Fatalf("large frame: %d bytes, %v", len(f.Body), err)
	}
	if f, err := r.Next(); err != nil || string(f.Body) != "after" {
		t.Fatalf("after it: %q, %v", f.Body, err)
	}
}

// A log is cut at every byte of its last frame, and every byte of that frame is
// spoiled: each time, what was before is there, and the log can be used.
func TestOpen_TornTail(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	fill(t, l, 9)
	start, end := l.EndOffset(), l.End()
	fill(t, l, 10)
	size := l.EndOffset()
	l.Close()
	whole, err := os.ReadFile(filepath.Join(dir, "kml"))
	if err != nil {
		t.Fatal(err)
	}
	torn := func(name string, b []byte) {
		path := filepath.Join(dir, "torn")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(create(t, path), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer l.Close()
		want := int64(len(b)) - start
		if l.End() != end || l.EndOffset() != start || l.Torn() != want {
			t.Fatalf("%s: ends at %v, torn %d of %d", name, l.End(), l.Torn(), want)
		}
		if want%3 == 0 {
			if cut, err := l.CutTorn(); err != nil || !bytes.Equal(cut, b[start:]) {
				t.Fatalf("%s: cut %x, %v", name, cut, err)
			}
		}
		fill(t, l, 12)
		if l.Torn() != 0 {
			t.Fatalf("%s: still torn", name)
		}
		if end, err := Verify(l.f, func(p error) bool { t.Fatal(p); return false }); err != nil || end != l.End() {
			t.Fatalf("%s: %v, %v", name, end, err)
		}
	}
	for n := start; n < size; n++ {
		torn(fmt.Sprintf("cut at %d", n), whole[:n])
	}
	for n := start; n < size; n++ {
		b := bytes.Clone(whole)
		b[n] ^= 0x10
		torn(fmt.Sprintf("spoiled at %d", n), b)
	}
	torn("zeros", append(bytes.Clone(whole[:start]), make([]byte, 3*firstBlock+5)...))
	torn("garbage", append(bytes.Clone(whole[:start]), bytes.Repeat([]byte("garbage "), 100)...))
}

// Every byte of a small log is spoiled: what is not in the last frame is never
// overlooked, and the error says where.
func TestOpen_EveryByteSpoiled(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	var starts []int64
	for i := 1; i <= 6; i++ {
		starts = append(starts, l.EndOffset())
		fill(t, l, i)
	}
	l.Close()
	whole, err := os.ReadFile(filepath.Join(dir, "kml"))
	if err != nil {
		t.Fatal(err)
	}
	for at := range starts[5] {
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at % 8)
		f := inMemory(t, b)
		var problems []error
		end, err := Verify(f, func(p error) bool { problems = append(problems, p); return true })
		i, _ := slices.BinarySearch(starts, at+1)
		if at >= headerSize && (err != nil || len(problems) != 1 || end.Seq != uint64(i)-1) {
			t.Fatalf("verify with byte %d spoiled: %v, %v, %v", at, end, problems, err)
		}
		l, err := Open(f, nil)
		var bad *CorruptError
		if err == nil {
			l.Close()
			t.Fatalf("byte %d spoiled: opened", at)
		}
		if !errors.As(err, &bad) {
			t.Fatalf("byte %d spoiled: %v", at, err)
		}
		if at >= headerSize && (bad.Seq != uint64(i) || bad.Offset != starts[i-1] || bad.File != f.Name()) {
			t.Fatalf("byte %d spoiled, in frame %d at %d: %v", at, i, starts[i-1], err)
		}
	}
}

// A frame that is whole but not of this history is never a torn tail.
func TestOpen_ForeignFrameAtEnd(t *testing.T) {
	build := func(n int) (string, []byte, int64) {
		dir := t.TempDir()
		l := newLog(t, dir, testHeader)
		defer l.Close()
		fill(t, l, 4)
		at := l.EndOffset()
		if _, err := l.Append(FrameRecord, 0, 0, []byte{byte(n)}); err != nil {
			t.Fatal(err)
		}
		fill(t, l, 6)
		b, err := os.ReadFile(filepath.Join(dir, "kml"))
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "kml"), b, at
	}
	path, one, at := build(1)
	_, two, _ := build(2)
	last := at + frameSize(1)
	b := append(one[:last:last], two[last:]...)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(create(t, path), nil)
	var bad *CorruptError
	if !errors.As(err, &bad) || bad.Seq != 6 {
		t.Fatalf("got %v", err)
	}
}

// A frame that lies in the body of a torn one, because a log was written to a
// file that is logged, is not one of this log: its tag or its number is wrong.
func TestOpen_FrameInsideATornBody(t *testing.T) {
	dir := t.TempDir()
	other := testHeader
	other.Owner = UUID{0xbb}
	ours, theirs := newFramer(&testHeader, ""), newFramer(&other, "")
	for name, inside := range map[string][]byte{
		"another log":     bytesOf(theirs.appendFrame(nil, Pos{Seq: 6}, 0, 0, body(7))),
		"before this":     bytesOf(ours.appendFrame(nil, Pos{Seq: 3}, 0, 0, body(4))),
		"far beyond this": bytesOf(ours.appendFrame(nil, Pos{Seq: 90}, 0, 0, body(91))),
	} {
		path := filepath.Join(t.TempDir(), "kml")
		b := smallLog(t, dir, 5)
		size := int64(len(b))
		b, _ = ours.appendFrame(b, Pos{Seq: 5}, 0, 0, append(make([]byte, 24), inside...))
		if err := os.WriteFile(path, b[:len(b)-8], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(create(t, path), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if l.EndOffset() != size || l.Torn() != int64(len(b))-8-size {
			t.Errorf("%s: ends at %d, torn %d", name, l.EndOffset(), l.Torn())
		}
		l.Close()
	}
}

func bytesOf(b []byte, _ Pos) []byte { return b }

func TestOpen_BadHeader(t *testing.T) {
	dir := t.TempDir()
	newer := testHeader.encode()
	newer[8] = 2
	newer = resum(newer)
	odd := testHeader.encode()
	odd[200] = 1
	odd = resum(odd)
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":   {nil, ErrCorrupt},
		"short":   {testHeader.encode()[:4095], ErrCorrupt},
		"text":    {bytes.Repeat([]byte("text"), 2000), ErrCorrupt},
		"newer":   {newer, ErrVersion},
		"odd":     {odd, ErrCorrupt},
		"no kind": {(&Header{}).encode(), ErrCorrupt},
	} {
		path := filepath.Join(dir, "log")
		if err := os.WriteFile(path, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(create(t, path), nil); !errors.Is(err, c.want) || !bytes.Contains([]byte(err.Error()), []byte(path)) {
			t.Errorf("%s: %v", name, err)
		}
		f := create(t, path)
		if _, err := NewView(f); !errors.Is(err, c.want) {
			t.Errorf("%s: view: %v", name, err)
		}
		if _, err := Verify(f, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: verify: %v", name, err)
		}
		f.Close()
	}
}

func TestFormat_Refuses(t *testing.T) {
	f := create(t, filepath.Join(t.TempDir(), "kml"))
	defer f.Close()
	if err := Format(f, Header{}); err == nil {
		t.Error("no kind")
	}
	if err := Format(f, Header{Kind: KindKML, Base: Pos{Chain: Chain{1}}}); err == nil {
		t.Error("base of number 0 with a chain value")
	}
	if err := Format(f, testHeader); err != nil {
		t.Fatal(err)
	}
	if err := Format(f, testHeader); err == nil {
		t.Error("formatted twice")
	}
}

func TestLog_ConcurrentAppendAndRead(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	const writers, each = 4, 800
	vf := create(t, filepath.Join(dir, "kml"))
	defer vf.Close()
	v, err := NewView(vf)
	if err != nil {
		t.Fatal(err)
	}
	moved := make(chan Pos, writers*each)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				pos, err := l.Append(FrameRecord, 0, 1, body(w*each+i))
				if err != nil {
					t.Error(err)
					return
				}
				moved <- pos
			}
		})
	}
	go func() { wg.Wait(); close(moved) }()
	lr, err := l.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	vr, err := v.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	for pos := range moved {
		v.SetEnd(pos)
		if n := drain(t, vr); n < pos.Seq {
			t.Fatalf("view read to %d of %d", n, pos.Seq)
		}
		if n := drain(t, lr); n < pos.Seq {
			t.Fatalf("log read to %d of %d", n, pos.Seq)
		}
		if err := l.Check(pos); err != nil {
			t.Fatal(err)
		}
	}
	if vr.Pos() != l.End() || lr.Pos() != l.End() {
		t.Fatal("not all was read")
	}
	if _, err := Verify(vf, func(p error) bool { t.Error(p); return true }); err != nil {
		t.Fatal(err)
	}
}

func drain(t tester, r *Reader) uint64 {
	t.Helper()
	for {
		if _, err := r.Next(); err == io.EOF {
			return r.Pos().Seq
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// The model: appends, reopenings with and without index, torn tails and reads in
// any order give the bodies that were appended.
func TestLog_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "kml")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l := newLog(t, dir, testHeader)
		defer func() { l.Close() }()
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				n += rapid.IntRange(1, 900).Draw(t, "frames")
				fill(t, l, n)
			},
			"reopen": func(t *rapid.T) {
				l.Close()
				l = reopen(t, dir)
			},
			"reopen without index": func(t *rapid.T) {
				l.Close()
				os.Remove(filepath.Join(dir, "kml.index"))
				l = reopen(t, dir)
			},
			"tear": func(t *rapid.T) {
				end := l.EndOffset()
				l.Close()
				f := create(t, filepath.Join(dir, "kml"))
				f.WriteAt(rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "tail"), end)
				f.Close()
				l = reopen(t, dir)
			},
			"read": func(t *rapid.T) {
				from := rapid.IntRange(0, n).Draw(t, "from")
				r, err := l.ReadFrom(uint64(from))
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, r, from+1, n)
			},
			"": func(t *rapid.T) {
				if l.End().Seq != uint64(n) {
					t.Fatalf("ends at %v, want %d", l.End(), n)
				}
			},
		})
	})
}

// resum gives a header that was changed a right checksum.
func resum(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli()))
	return b
}
