package kml

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallLog is the bytes of a log with a few frames.
func smallLog(t tester, dir string, n int) []byte {
	t.Helper()
	l := newLog(t, dir, testHeader)
	fill(t, l, n)
	l.Close()
	b, err := os.ReadFile(filepath.Join(dir, "kml"))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "kml"))
	return b
}

// mend gives frames, as far as their lengths lead, right checksums and tags, so
// that fuzzing gets behind them.
func mend(b []byte) {
	le := binary.LittleEndian
	tag := testHeader.tag()
	for b = b[min(len(b), headerSize):]; len(b) >= frameMin; {
		size := frameSizeOf(le.Uint32(b))
		if size == 0 || size > int64(len(b)) {
			return
		}
		le.PutUint32(b[12:], tag)
		le.PutUint32(b[size-frameTail:], le.Uint32(b))
		le.PutUint32(b[4:], crc32.Checksum(b[8:size-frameTail], castagnoli()))
		b = b[size:]
	}
}

// inMemory makes a file with these bytes that takes no disk.
func inMemory(t tester, b []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("kml", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "kml")
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

func FuzzOpenLog(f *testing.F) {
	whole := smallLog(f, f.TempDir(), 4)
	frames := whole[headerSize:]
	f.Add(frames, false)
	f.Add(frames[:len(frames)-5], false)
	f.Add(append(frames[:len(frames):len(frames)], make([]byte, 200)...), true)
	f.Fuzz(func(t *testing.T, frames []byte, mended bool) {
		b := append(whole[:headerSize:headerSize], frames...)
		if mended {
			mend(b)
		}
		file := inMemory(t, b)
		l, err := Open(file, inMemory(t, nil))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer l.Close()
		r, err := l.ReadFrom(0)
		if err != nil {
			t.Fatal(err)
		}
		if n := drain(t, r); n != l.End().Seq {
			t.Fatalf("read to %d of %d", n, l.End().Seq)
		}
		if end, err := Verify(l.f, nil); err != nil || end != l.End() {
			t.Fatalf("verified to %v, opened to %v: %v", end, l.End(), err)
		}
		if int64(len(b)) != l.EndOffset()+l.Torn() {
			t.Fatalf("%d bytes, end %d, torn %d", len(b), l.EndOffset(), l.Torn())
		}
		pos, err := l.Append(FrameRecord, 0, 0, body(1))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Open(create(t, fmt.Sprintf("/proc/self/fd/%d", file.Fd())), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if again.End() != pos || again.Torn() != 0 {
			t.Fatalf("reopened at %v torn %d, want %v", again.End(), again.Torn(), pos)
		}
	})
}
