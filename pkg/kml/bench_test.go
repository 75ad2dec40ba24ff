package kml

import (
	"io"
	"testing"
)

// BenchmarkLog_Append is a CREATE: the write and the hash included, which the
// next two benchmarks have alone.
func BenchmarkLog_Append(b *testing.B) {
	l := newLog(b, b.TempDir(), testHeader)
	defer l.Close()
	r := sampleCreate()
	body, _ := r.AppendTo(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(FrameRecord, 0, 1, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLog_AppendsWriteAlone(b *testing.B) {
	f := create(b, b.TempDir()+"/file")
	defer f.Close()
	r := sampleCreate()
	body, _ := r.AppendTo(nil)
	frame := make([]byte, frameSize(len(body)))
	off := int64(headerSize)
	for b.Loop() {
		if _, err := f.WriteAt(frame, off); err != nil {
			b.Fatal(err)
		}
		off += int64(len(frame))
	}
}

func BenchmarkLog_AppendsFrameAlone(b *testing.B) {
	fr := newFramer(&testHeader, "")
	r := sampleCreate()
	body, _ := r.AppendTo(nil)
	buf := make([]byte, 0, 1024)
	var pos Pos
	b.ReportAllocs()
	for b.Loop() {
		buf, pos = fr.appendFrame(buf[:0], pos, 0, 1, body)
	}
}

// BenchmarkReader_Next is per frame, a CREATE, checked.
func BenchmarkReader_Next(b *testing.B) {
	l := newLog(b, b.TempDir(), testHeader)
	defer l.Close()
	c := sampleCreate()
	body, _ := c.AppendTo(nil)
	for range 20000 {
		if _, err := l.Append(FrameRecord, 0, 1, body); err != nil {
			b.Fatal(err)
		}
	}
	r, err := l.ReadFrom(0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, err := r.Next()
		if err == io.EOF {
			r, err = l.ReadFrom(0)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLog_CheckRecent is what a server does for each push.
func BenchmarkLog_CheckRecent(b *testing.B) {
	l := newLog(b, b.TempDir(), testHeader)
	defer l.Close()
	fill(b, l, 5000)
	pos, err := l.PosAt(4500)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Check(pos); err != nil {
			b.Fatal(err)
		}
	}
}
