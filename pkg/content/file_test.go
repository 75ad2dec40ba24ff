package content

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestExtents(t *testing.T) {
	f := tempFile(t)
	const block = 64 << 10
	page := noise(block, 1)
	for _, at := range []int64{1, 2, 5} {
		if _, err := f.WriteAt(page, at*block); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		size int64
		want []Extent
	}{
		{0, nil},
		{block, nil},
		{block + 10, []Extent{{block, 10}}},
		{4 * block, []Extent{{block, 2 * block}}},
		{6 * block, []Extent{{block, 2 * block}, {5 * block, block}}},
		{9 * block, []Extent{{block, 2 * block}, {5 * block, block}}}, // beyond the end is a hole
	}
	for _, tt := range tests {
		got, err := Extents(f, tt.size)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%d bytes: %v, %v", tt.size, got, err)
		}
	}
	f.Close()
	if _, err := Extents(f, 5); err == nil {
		t.Error("no error for a closed file")
	}
}

func TestSumFile(t *testing.T) {
	ctx := context.Background()
	for _, n := range sizes {
		f := tempFile(t)
		p := noise(n, 7)
		if _, err := f.Write(p); err != nil {
			t.Fatal(err)
		}
		if got, err := SumFile(ctx, f, int64(n)); err != nil || got != plainRoot(p) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
		if got, err := SumFile(ctx, f, int64(n/2)); err != nil || got != plainRoot(p[:n/2]) {
			t.Errorf("half of %d bytes: %x, %v", n, got, err)
		}
		if _, err := SumFile(ctx, f, int64(n+1)); !errors.Is(err, ErrShort) {
			t.Errorf("more than %d bytes: %v", n, err)
		}
	}
}

// A file of a terabyte with two small islands takes no time, and has the root
// that its bytes have.
func TestSumFile_Holes(t *testing.T) {
	ctx := context.Background()
	f := tempFile(t)
	p := make([]byte, 40*LeafSize)
	for _, at := range []int{3*LeafSize + 4096, 30 * LeafSize} {
		copy(p[at:], noise(5000, uint64(at)))
		if _, err := f.WriteAt(p[at:at+5000], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if got, err := SumFile(ctx, f, int64(len(p))); err != nil || got != plainRoot(p) {
		t.Errorf("%x, %v", got, err)
	}
	var h Hasher
	h.Write(p)
	want, err := h.Sum(1 << 40)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := SumFile(ctx, f, 1<<40); err != nil || got != want.Root {
		t.Errorf("a terabyte: %x, %v", got, err)
	}
}

func TestSumFile_Cancelled(t *testing.T) {
	f := tempFile(t)
	f.Write(noise(LeafSize, 1))
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	cancel(stop)
	if _, err := SumFile(ctx, f, LeafSize); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}
