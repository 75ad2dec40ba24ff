package content

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// treeOf writes p to a file, with its pages of zeros as holes, and makes the tree.
func treeOf(t testing.TB, p []byte) *Tree {
	t.Helper()
	f := tempFile(t)
	for off := 0; off < len(p); off += 4096 {
		page := p[off:min(off+4096, len(p))]
		if !bytes.Equal(page, make([]byte, len(page))) {
			if _, err := f.WriteAt(page, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(p))); err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree(context.Background(), f, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Every range of every content has a proof that holds for it, and for nothing
// else.
func TestProof_Ranges(t *testing.T) {
	type sample struct {
		p    []byte
		tree *Tree
	}
	var samples []sample
	for i, n := range sizes {
		p := noise(n, uint64(i))
		if n > 20*LeafSize {
			clear(p[LeafSize : 18*LeafSize]) // holes, a whole subtree among them
		}
		samples = append(samples, sample{p, treeOf(t, p)})
		if got := samples[i].tree.Root(); got != plainRoot(p) {
			t.Fatalf("%d bytes: root %x", n, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(samples).Draw(t, "sample")
		first := rapid.Int64Range(0, Leaves(s.tree.Size())-1).Draw(t, "first")
		count := rapid.Int64Range(1, min(Leaves(s.tree.Size())-first, 40)).Draw(t, "count")
		made, err := s.tree.Proof(first, count)
		if err != nil {
			t.Fatal(err)
		}
		p, err := DecodeProof(AppendProof(nil, made))
		if err != nil || !reflect.DeepEqual(p, made) {
			t.Fatalf("decoded %+v, %v", p, err)
		}
		data := bytes.Clone(s.p[p.Range().Off:p.Range().End()])
		if err := VerifyRange(s.tree.Root(), p, data); err != nil {
			t.Fatal(err)
		}
		if err := VerifyRange(plainRoot([]byte("else")), p, data); !errors.Is(err, ErrMismatch) {
			t.Fatalf("another root: %v", err)
		}
		if len(data) > 0 {
			data[rapid.IntRange(0, len(data)-1).Draw(t, "byte")] ^= 1
			if err := VerifyRange(s.tree.Root(), p, data); !errors.Is(err, ErrMismatch) {
				t.Fatalf("other bytes: %v", err)
			}
			if err := VerifyRange(s.tree.Root(), p, data[1:]); !errors.Is(err, ErrMismatch) {
				t.Fatalf("fewer bytes: %v", err)
			}
		}
	})
}

func TestProof_Malformed(t *testing.T) {
	tree := treeOf(t, noise(40*LeafSize, 1))
	good, err := tree.Proof(17, 2)
	if err != nil {
		t.Fatal(err)
	}
	enc := AppendProof(nil, good)
	for name, b := range map[string][]byte{
		"empty": nil, "cut": enc[:len(enc)-1], "a hash too few": enc[:len(enc)-32], "a byte too many": append(bytes.Clone(enc), 0),
		"version 2": append([]byte{2}, enc[1:]...), "only the header": enc[:25],
	} {
		if _, err := DecodeProof(b); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range map[string]Proof{
		"negative size": {Size: -1, Count: 1}, "no leaves": {Size: 5}, "beyond the end": {Size: 5, First: 1, Count: 1},
		"too many": {Size: 5, Count: 2}, "overflow": {Size: 1 << 62, First: 1 << 45, Count: 1<<63 - 1}, "no hashes": {Size: 40 * LeafSize, Count: 1},
	} {
		if err := VerifyRange(tree.Root(), &p, nil); !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, 0}, {0, 41}, {40, 1}} {
		if _, err := tree.Proof(r[0], r[1]); !errors.Is(err, ErrProof) {
			t.Errorf("leaves %v: %v", r, err)
		}
	}
}

func TestLeavesOf(t *testing.T) {
	tests := []struct {
		e            Extent
		first, count int64
		ok           bool
	}{
		{Extent{0, 1}, 0, 1, true}, {Extent{LeafSize - 1, 2}, 0, 2, true}, {Extent{LeafSize, LeafSize}, 1, 1, true},
		{Extent{0, 3*LeafSize + 5}, 0, 4, true}, {Extent{0, 3*LeafSize + 6}, 0, 0, false}, {Extent{0, 0}, 0, 0, false},
		{Extent{-1, 2}, 0, 0, false}, {Extent{1<<63 - 1, 1<<63 - 1}, 0, 0, false},
	}
	for _, tt := range tests {
		first, count, err := LeavesOf(tt.e, 3*LeafSize+5)
		if first != tt.first || count != tt.count || (err == nil) != tt.ok {
			t.Errorf("%+v: %d+%d, %v", tt.e, first, count, err)
		}
	}
}

// Whatever comes in: no panic, no great allocation, and what is accepted has one
// encoding.
func FuzzDecodeProof(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendProof(nil, &Proof{Size: 5, Count: 1}))
	f.Add(AppendProof(nil, &Proof{Size: 3 * LeafSize, First: 1, Count: 1, Hashes: make([][32]byte, 2)}))
	f.Add(AppendProof(nil, &Proof{Size: 1<<63 - 1, First: 1 << 46, Count: 7}))
	data := noise(3*LeafSize, 1)
	root := SumBytes(data)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeProof(b)
		if err != nil {
			if !errors.Is(err, ErrProof) {
				t.Fatalf("not an ErrProof: %v", err)
			}
			return
		}
		if !bytes.Equal(AppendProof(nil, p), b) {
			t.Fatal("encoded differently")
		}
		n := min(p.Range().Len, int64(len(data)))
		err = VerifyRange(root, p, data[:n])
		if err != nil && !errors.Is(err, ErrMismatch) {
			t.Fatalf("a decoded proof is malformed: %v", err)
		}
	})
}
