package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// plainRoot is the definition in the package comment, word by word.
func plainRoot(p []byte) [32]byte {
	var level [][]byte
	for rest := p; len(level) == 0 || len(rest) > 0; {
		n := min(len(rest), 65536)
		d := sha256.Sum256(append([]byte{0}, rest[:n]...))
		level, rest = append(level, d[:]), rest[n:]
	}
	for len(level) > 1 {
		var up [][]byte
		for len(level) > 0 {
			n := min(len(level), 16)
			d := sha256.Sum256(append([]byte{1}, bytes.Join(level[:n], nil)...))
			up, level = append(up, d[:]), level[n:]
		}
		level = up
	}
	b := binary.LittleEndian.AppendUint64([]byte{2}, uint64(len(p)))
	return sha256.Sum256(append(b, level[0]...))
}

// noise returns n bytes that are the same for the same seed.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p)
	return p
}

var sizes = []int{
	0, 1, 4095, LeafSize - 1, LeafSize, LeafSize + 1, 3*LeafSize - 7, 15 * LeafSize, 16 * LeafSize, 16*LeafSize + 1,
	17 * LeafSize, 33*LeafSize + 5, 255 * LeafSize, 256 * LeafSize, 256*LeafSize + 1, 273*LeafSize - 1,
}

func TestSumBytes_Definition(t *testing.T) {
	for _, n := range sizes {
		p := noise(n, 1)
		if got := SumBytes(p); got != plainRoot(p) {
			t.Errorf("%d bytes: root %x", n, got)
		}
	}
}

// The roots of contents that everybody can make. They never change.
func TestSumBytes_Golden(t *testing.T) {
	tests := []struct {
		name string
		p    []byte
		root string
	}{
		{"nothing", nil, "c0e50f0d90d6e2fea1e6f53d4f758ed5fc9035a399a8eb215c29c6ff3ea05425"},
		{"hello", []byte("hello, world\n"), "31bcc5b4223dd111f97cccd588dc3d9aaaf363de7ce1f69ffb6f8baf207f456b"},
		{"1 MiB and 1 of 0x5a", bytes.Repeat([]byte{0x5a}, 1<<20+1), "7bb3e4fde22a3f2350aed7c2f628acf768126c8dac73c6b28380bc9d718c8ee8"},
		{"1 MiB of zeros", make([]byte, 1<<20), "ea9219ead5387324ad5be080ee48effdd6dd65aeab8fe4de9a8454983c8c68ea"},
	}
	for _, tt := range tests {
		got := SumBytes(tt.p)
		if hex.EncodeToString(got[:]) != tt.root {
			t.Errorf("%s: %x", tt.name, got)
		}
	}
}

func TestHasher_AnyCuts(t *testing.T) {
	p := noise(5*LeafSize+100, 2)
	want := plainRoot(p)
	rapid.Check(t, func(t *rapid.T) {
		var h Hasher
		for rest := p; len(rest) > 0; {
			n := rapid.IntRange(0, len(rest)).Draw(t, "n")
			if n < 1000 {
				n = min(n+LeafSize-500, len(rest)) // around the borders, and never too many
			}
			h.Write(rest[:n])
			rest = rest[n:]
		}
		if got, err := h.Sum(int64(len(p))); err != nil || got.Root != want || got.Inexact {
			t.Fatalf("got %v, %v", got, err)
		}
		h.Reset()
		h.Write(p[:10])
		if got, _ := h.Sum(10); got.Root != plainRoot(p[:10]) {
			t.Fatal("Reset leaves something behind")
		}
	})
}

// Holes are zeros, wherever they are.
func TestHasher_Holes(t *testing.T) {
	data := noise(3*LeafSize, 3)
	rapid.Check(t, func(t *rapid.T) {
		var h Hasher
		var plain []byte
		for range rapid.IntRange(1, 4).Draw(t, "parts") {
			n := rapid.SampledFrom([]int{1, 500, LeafSize - 1, LeafSize, LeafSize + 1, 2*LeafSize + 3, 16 * LeafSize, 40 * LeafSize}).Draw(t, "hole")
			if err := h.WriteHole(int64(n)); err != nil {
				t.Fatal(err)
			}
			plain = append(plain, make([]byte, n)...)
			d := data[:rapid.SampledFrom([]int{0, 1, LeafSize, 2*LeafSize + 9}).Draw(t, "data")]
			h.Write(d)
			plain = append(plain, d...)
		}
		tail := rapid.IntRange(0, 20).Draw(t, "tail") * 10000
		plain = append(plain, make([]byte, tail)...)
		if got, err := h.Sum(int64(len(plain))); err != nil || got.Root != plainRoot(plain) {
			t.Fatalf("%d bytes: got %v, %v", len(plain), got, err)
		}
	})
}

func TestHasher_Limits(t *testing.T) {
	var h Hasher
	h.Write([]byte("abc"))
	if _, err := h.Sum(2); err == nil {
		t.Error("summed less than was written")
	}
	if err := h.WriteHole(-1); err == nil {
		t.Error("took a negative hole")
	}
	if err := h.WriteHole(math.MaxInt64); err == nil {
		t.Error("took more than 2^63-1 bytes")
	}
	if err := h.WriteHole(math.MaxInt64 - 3); err != nil {
		t.Errorf("did not take 2^63-1 bytes: %v", err)
	}
	if _, err := h.Write([]byte("d")); err == nil {
		t.Error("took one byte more")
	}
	if _, err := h.Sum(math.MaxInt64); err != nil {
		t.Error(err)
	}
}

func TestLeaves(t *testing.T) {
	for size, want := range map[int64]int64{0: 1, 1: 1, LeafSize: 1, LeafSize + 1: 2, 16 * LeafSize: 16, math.MaxInt64: 1 << 47} {
		if got := Leaves(size); got != want {
			t.Errorf("%d bytes: %d leaves", size, got)
		}
	}
}

func BenchmarkSumBytes(b *testing.B) {
	for _, n := range []int{4 << 10, 1 << 20} {
		p := noise(n, 1)
		b.Run(byteCount(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				SumBytes(p)
			}
		})
	}
}

func byteCount(n int) string {
	if n < 1<<20 {
		return "4KiB"
	}
	return "1MiB"
}
