package kml

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func newView(t tester, dir string) *View {
	t.Helper()
	v, err := NewView(create(t, filepath.Join(dir, "kml")))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestView_StopsAtTheEndItWasTold(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	v := newView(t, dir)
	defer v.f.Close()
	if v.Header() != l.Header() || v.End() != l.Header().Base {
		t.Error("header or first end differ")
	}
	fill(t, l, 5000)
	r, err := v.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("before it was told: %v", err)
	}
	if _, err := v.ReadFrom(1); !errors.Is(err, ErrBeyond) {
		t.Fatalf("beyond: %v", err)
	}
	for _, n := range []int{1, 2, 300, 4900, 5000} {
		first := int(r.Pos().Seq) + 1
		end, err := l.PosAt(uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		v.SetEnd(end)
		v.SetEnd(l.Header().Base) // too late
		readAll(t, r, first, n)
		if err := v.Check(end); err != nil {
			t.Fatal(err)
		}
		if err := v.Check(Pos{Epoch: end.Epoch, Seq: end.Seq + 1}); !errors.Is(err, ErrForked) {
			t.Fatal(err)
		}
	}
}

// What lies beyond the end may change after it was read: a View must not use
// what it read ahead.
func TestView_DoesNotUseWhatItReadAhead(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 3)
	v := newView(t, dir)
	defer v.f.Close()
	off := l.EndOffset()
	if _, err := v.f.WriteAt(make([]byte, 4000), off); err != nil {
		t.Fatal(err)
	}
	v.SetEnd(l.End())
	r, err := v.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, r, 1, 3)
	if err := v.f.Truncate(off); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 30)
	v.SetEnd(l.End())
	readAll(t, r, 4, 30)
}

// A View that has read nothing finds every place, from the near side.
func TestView_FromEverywhere(t *testing.T) {
	dir := t.TempDir()
	h := testHeader
	h.Base = Pos{Epoch: 1, Seq: 20, Chain: Chain{7}}
	l := newLog(t, dir, h)
	defer l.Close()
	const n = 6000
	fill(t, l, n)
	torn := create(t, filepath.Join(dir, "kml"))
	defer torn.Close()
	if _, err := torn.WriteAt(make([]byte, 1000), l.EndOffset()); err != nil {
		t.Fatal(err)
	}
	for _, end := range []uint64{n, n - 1, n - 2000} {
		for _, seq := range []uint64{20, 21, 1000, 3000, end - 1000, end - 1, end} {
			v := newView(t, dir)
			pos, err := l.PosAt(end)
			if err != nil {
				t.Fatal(err)
			}
			v.SetEnd(pos)
			want, err := l.PosAt(seq)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Check(want); err != nil {
				t.Fatalf("%d of %d: %v", seq, end, err)
			}
			r, err := v.ReadFrom(seq)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, r, int(seq)+1, int(end))
			v.f.Close()
		}
	}
}

// Near the end, a View reads only what is near the end.
func TestView_ReadsBackwards(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 8000)
	// If the first half is gone, only someone who reads it notices.
	hole := create(t, filepath.Join(dir, "kml"))
	defer hole.Close()
	if _, err := hole.WriteAt(make([]byte, l.EndOffset()/2-headerSize), headerSize); err != nil {
		t.Fatal(err)
	}
	v := newView(t, dir)
	defer v.f.Close()
	v.SetEnd(l.End())
	r, err := v.ReadFrom(6000)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, r, 6001, 8000)
	if _, err := v.ReadFrom(100); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("in the hole: %v", err)
	}
}

func TestView_OtherHistory(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	defer l.Close()
	fill(t, l, 3000)
	v := newView(t, dir)
	defer v.f.Close()
	end := l.End()
	end.Chain[0]++
	v.SetEnd(end)
	r, err := v.ReadFrom(0)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, ErrForked) || r.Pos().Seq != 2999 {
		t.Errorf("at %v: %v", r.Pos(), err)
	}
	if _, err := v.ReadFrom(3000); !errors.Is(err, ErrForked) {
		t.Errorf("at the end: %v", err)
	}
	fresh := newView(t, dir)
	defer fresh.f.Close()
	fresh.SetEnd(end)
	if _, err := fresh.ReadFrom(3000); !errors.Is(err, ErrForked) {
		t.Errorf("at the end, coming from there: %v", err)
	}
}

func TestView_FileShorterThanTold(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir, testHeader)
	fill(t, l, 10)
	end := l.End()
	cut := l.EndOffset() - frameSize(len(body(10)))
	l.Close()
	if err := os.Truncate(filepath.Join(dir, "kml"), cut); err != nil {
		t.Fatal(err)
	}
	v := newView(t, dir)
	defer v.f.Close()
	v.SetEnd(end)
	r, err := v.ReadFrom(9)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
