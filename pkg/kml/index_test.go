package kml

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// indexed makes a log with a dozen marks in its index, closes it and returns its
// end and the index.
func indexed(t tester, dir string) (Pos, []byte) {
	t.Helper()
	l := newLog(t, dir, testHeader)
	fill(t, l, 7000)
	end := l.End()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "kml.index"))
	if err != nil {
		t.Fatal(err)
	}
	if n := (len(b) - sidecarHead) / sidecarEntry; n < 10 {
		t.Fatalf("only %d marks", n)
	}
	return end, b
}

// Whatever the index is like, the log opens, reads right, and leaves an index as
// it should be.
func TestIndex_WrongIndex(t *testing.T) {
	other := testHeader
	other.Owner = UUID{0xbb}
	otherDir := t.TempDir()
	ol := newLog(t, otherDir, other)
	fill(t, ol, 7000)
	ol.Close()
	foreign, err := os.ReadFile(filepath.Join(otherDir, "kml.index"))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte, at int) []byte { b[at] ^= 4; return b }
	cases := map[string]func(b []byte) []byte{
		"missing":        func(b []byte) []byte { return nil },
		"right":          func(b []byte) []byte { return b },
		"behind":         func(b []byte) []byte { return b[:sidecarHead+3*sidecarEntry] },
		"only the head":  func(b []byte) []byte { return b[:sidecarHead] },
		"torn":           func(b []byte) []byte { return b[:len(b)-7] },
		"garbage after":  func(b []byte) []byte { return append(b, "garbage"...) },
		"garbage":        func(b []byte) []byte { return bytes.Repeat([]byte("garbage"), 1000) },
		"zeros":          func(b []byte) []byte { return make([]byte, len(b)) },
		"bad head":       func(b []byte) []byte { return flip(b, 20) },
		"bad first":      func(b []byte) []byte { return flip(b, sidecarHead+9) },
		"bad last":       func(b []byte) []byte { return flip(b, len(b)-10) },
		"of another log": func(b []byte) []byte { return foreign },
		"entry repeated": func(b []byte) []byte { return append(b, b[len(b)-sidecarEntry:]...) },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			end, b := indexed(t, dir)
			path := filepath.Join(dir, "kml.index")
			if err := os.WriteFile(path, spoil(bytes.Clone(b)), 0o600); err != nil {
				t.Fatal(err)
			}
			l := reopen(t, dir)
			defer l.Close()
			if l.End() != end {
				t.Fatalf("ends at %v", l.End())
			}
			for _, seq := range []uint64{1, 3500, 6999} {
				r, err := l.ReadFrom(seq)
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, r, int(seq)+1, 7000)
			}
			if again, _ := os.ReadFile(path); !bytes.Equal(again, b) {
				t.Error("the index was not made right")
			}
		})
	}
}

// A log that went back in time under its index, and then on in another way: no
// mark of the former history is believed.
func TestIndex_OfALogThatWentBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kml")
	l := newLog(t, dir, testHeader)
	fill(t, l, 3000)
	back := l.EndOffset()
	fill(t, l, 7000)
	former := l.End()
	l.Close()
	index, err := os.ReadFile(path + ".index")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, back); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, dir)
	if l.End().Seq != 3000 {
		t.Fatal(l.End())
	}
	if _, err := l.Append(FrameRecord, 0, 0, []byte("another history")); err != nil {
		t.Fatal(err)
	}
	l.side.f = nil // it was written by the log that is gone
	for range 5000 {
		if _, err := l.Append(FrameRecord, 0, 0, body(1)); err != nil {
			t.Fatal(err)
		}
	}
	end := l.End()
	l.Close()
	if err := os.WriteFile(path+".index", index, 0o600); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, dir)
	defer l.Close()
	if l.End() != end {
		t.Fatalf("ends at %v, want %v", l.End(), end)
	}
	if err := l.Check(former); !errors.Is(err, ErrForked) {
		t.Error(err)
	}
	r, err := l.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	if n := drain(t, r); n != end.Seq {
		t.Errorf("read to %d", n)
	}
}

// A mark in the middle that lies about its place is found out when it is used.
func TestIndex_LyingMark(t *testing.T) {
	dir := t.TempDir()
	_, b := indexed(t, dir)
	l := reopen(t, dir)
	want, err := l.PosAt(l.index.marks[4].pos.Seq)
	if err != nil {
		t.Fatal(err)
	}
	lie := l.index.marks[4]
	lie.pos.Chain[3]++
	entry := l.side.encode(lie)
	l.Close()
	copy(b[sidecarHead+4*sidecarEntry:], entry)
	if err := os.WriteFile(filepath.Join(dir, "kml.index"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, dir)
	defer l.Close()
	if l.index.marks[4].pos != lie.pos {
		t.Fatal("the lie was not told")
	}
	if got, err := l.PosAt(want.Seq); err != nil || got != want {
		t.Fatalf("got %v %v, %v", got, got.Chain, err)
	}
}

// With its index, a log is opened without a look at its beginning.
func TestIndex_SparesReading(t *testing.T) {
	dir := t.TempDir()
	end, _ := indexed(t, dir)
	f := create(t, filepath.Join(dir, "kml"))
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 300<<10), headerSize); err != nil {
		t.Fatal(err)
	}
	l := reopen(t, dir)
	defer l.Close()
	if l.End() != end {
		t.Fatal(l.End())
	}
	if _, err := l.PosAt(10); !errors.Is(err, ErrCorrupt) {
		t.Errorf("in the hole: %v", err)
	}
	if _, err := Open(create(t, filepath.Join(dir, "kml")), nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without index: %v", err)
	}
}

// limitFileSize makes writes of this process beyond n bytes fail or fall short.
func limitFileSize(t *testing.T, n uint64) (lift func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	}
}

func TestLog_UsableAfterAFailedWrite(t *testing.T) {
	for _, short := range []uint64{0, 1, 8, 55} {
		dir := t.TempDir()
		l := newLog(t, dir, testHeader)
		fill(t, l, 5)
		end, off := l.End(), l.EndOffset()
		lift := limitFileSize(t, uint64(off)+short)
		_, err := l.Append(FrameRecord, 0, 0, body(6))
		_, errMany := l.AppendMany(FrameRecord, nil, 0, [][]byte{body(6), body(7)})
		lift()
		if !errors.Is(err, unix.EFBIG) || !errors.Is(errMany, unix.EFBIG) {
			t.Fatalf("short by %d: %v, %v", short, err, errMany)
		}
		if l.End() != end || l.Torn() != 0 {
			t.Fatalf("ends at %v, torn %d", l.End(), l.Torn())
		}
		if st, _ := l.f.Stat(); st.Size() != off {
			t.Fatalf("file has %d bytes, want %d", st.Size(), off)
		}
		fill(t, l, 10)
		r, err := l.ReadFrom(0)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, r, 1, 10)
		l.Close()
	}
}

// Where the tail can't be cut back either, the next append does that first.
func TestLog_CutsBackBeforeTheNextAppend(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 5)
	if _, err := l.f.WriteAt([]byte("half a frame, and then nothing"), l.EndOffset()); err != nil {
		t.Fatal(err)
	}
	l.torn, l.cut = 30, true
	fill(t, l, 6)
	r, err := l.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, r, 1, 6)
	if st, _ := l.f.Stat(); st.Size() != l.EndOffset() {
		t.Errorf("file has %d bytes, want %d", st.Size(), l.EndOffset())
	}
}

// An index that can't be written does not disturb the log.
func TestIndex_CannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	end, _ := indexed(t, dir)
	index, err := os.Open(filepath.Join(dir, "kml.index"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(create(t, filepath.Join(dir, "kml")), index)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.End() != end {
		t.Fatal(l.End())
	}
	fill(t, l, 9000)
	if got, err := l.PosAt(7000); err != nil || got != end {
		t.Fatal(got, err)
	}
}

func TestLog_Closed(t *testing.T) {
	l := newLog(t, t.TempDir(), testHeader)
	fill(t, l, 3)
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(FrameRecord, 0, 0, []byte{1}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := l.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("sync: %v", err)
	}
	if l.End().Seq != 3 {
		t.Error("lost its end")
	}
}
