package content

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
)

// ErrProof means that a proof is malformed, or does not fit what it is said to
// prove.
var ErrProof = errors.New("malformed proof")

// Proof shows that a range of leaves belongs to content of Size bytes. Hashes
// are those of the neighbours that are needed to come from the leaves First to
// First+Count-1 to the root: of each level, from the leaves up, those left of
// the range, then those right of it, as far as they share a node with it.
type Proof struct {
	Size         int64
	First, Count int64
	Hashes       [][32]byte
}

// Range returns the bytes that p is about.
func (p *Proof) Range() Extent {
	off := p.First * LeafSize
	return Extent{off, min(p.Count*LeafSize, p.Size-off)}
}

const (
	proofVersion = 1
	proofHeader  = 1 + 3*8
)

// AppendProof appends the encoded form of p to b: the byte 1, then size, first
// and count as 64 bits each, little-endian, then the hashes.
func AppendProof(b []byte, p *Proof) []byte {
	b = append(b, proofVersion)
	for _, v := range []int64{p.Size, p.First, p.Count} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	for i := range p.Hashes {
		b = append(b, p.Hashes[i][:]...)
	}
	return b
}

// DecodeProof reads what AppendProof made, which must be all of b. Any error is
// an ErrProof.
func DecodeProof(b []byte) (*Proof, error) {
	if len(b) < proofHeader || b[0] != proofVersion {
		return nil, fmt.Errorf("%w: no header of version %d", ErrProof, proofVersion)
	}
	var v [3]int64
	for i := range v {
		v[i] = int64(binary.LittleEndian.Uint64(b[1+8*i:]))
	}
	p := &Proof{Size: v[0], First: v[1], Count: v[2]}
	if err := p.checkRange(); err != nil {
		return nil, err
	}
	b = b[proofHeader:]
	if n := p.hashCount(); len(b) != n*sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes of hashes instead of %d", ErrProof, len(b), n*sha256.Size)
	}
	for ; len(b) > 0; b = b[sha256.Size:] {
		p.Hashes = append(p.Hashes, digest(b[:sha256.Size]))
	}
	return p, nil
}

func (p *Proof) checkRange() error {
	if p.Size < 0 || p.First < 0 || p.Count < 1 || p.First >= Leaves(p.Size) || p.Count > Leaves(p.Size)-p.First {
		return fmt.Errorf("%w: leaves %d+%d of content of %d bytes", ErrProof, p.First, p.Count, p.Size)
	}
	return nil
}

// span is a range of nodes of one level, and how many nodes the level has.
type span struct{ first, last, nodes int64 }

// left and right are the numbers of neighbours that share a parent with an end
// of the range.
func (s span) left() int64  { return s.first % fanOut }
func (s span) right() int64 { return min(fanOut-1-s.last%fanOut, s.nodes-1-s.last) }
func (s span) up() span {
	return span{s.first / fanOut, s.last / fanOut, (s.nodes + fanOut - 1) / fanOut}
}

func (p *Proof) leaves() span {
	return span{p.First, p.First + p.Count - 1, Leaves(p.Size)}
}

// hashCount is the number of hashes that a proof for this range has.
func (p *Proof) hashCount() int {
	n := 0
	for s := p.leaves(); s.nodes > 1; s = s.up() {
		n += int(s.left() + s.right())
	}
	return n
}

// VerifyRange checks that data is what the content with that root has in
// p.Range(). The error is an ErrMismatch if it is not, and an ErrProof if p is
// no proof for anything.
func VerifyRange(root [32]byte, p *Proof, data []byte) error {
	if err := p.checkRange(); err != nil {
		return err
	}
	if len(p.Hashes) != p.hashCount() {
		return fmt.Errorf("%w: %d hashes instead of %d", ErrProof, len(p.Hashes), p.hashCount())
	}
	if r := p.Range(); int64(len(data)) != r.Len {
		return fmt.Errorf("%w: %d bytes instead of %d at %d", ErrMismatch, len(data), r.Len, r.Off)
	}
	level := leafHashes(data)
	rest := p.Hashes
	for s := p.leaves(); s.nodes > 1; s = s.up() {
		all := make([]digest, 0, int(s.left())+len(level)+int(s.right()))
		all = append(all, rest[:s.left()]...)
		all = append(all, level...)
		all = append(all, rest[s.left():s.left()+s.right()]...)
		rest = rest[s.left()+s.right():]
		level = nodeHashes(all)
	}
	if rootOf(p.Size, level[0]) != root {
		return fmt.Errorf("%w: bytes %d+%d", ErrMismatch, p.Range().Off, p.Range().Len)
	}
	return nil
}

func leafHashes(data []byte) []digest {
	out := make([]digest, 0, len(data)/LeafSize+1)
	h := sha256.New()
	for {
		n := min(len(data), LeafSize)
		h.Reset()
		h.Write([]byte{tagLeaf})
		h.Write(data[:n])
		out = append(out, digest(h.Sum(nil)))
		data = data[n:]
		if len(data) == 0 {
			return out
		}
	}
}

func nodeHashes(children []digest) []digest {
	var out []digest
	for len(children) > 0 {
		n := min(len(children), fanOut)
		b := append(make([]byte, 0, 1+fanOut*sha256.Size), tagNode)
		for i := range n {
			b = append(b, children[i][:]...)
		}
		out = append(out, sha256.Sum256(b))
		children = children[n:]
	}
	return out
}

// Tree is the whole hash tree of a content, for making proofs. It takes about
// 1/2000 of the size of the data; holes take nothing. It does not change once
// made and may be used by many goroutines.
type Tree struct {
	size   int64
	root   [32]byte
	levels [maxDepth + 1]map[int64]digest // without subtrees that are all zero
}

// NewTree reads the first size bytes of f, as SumFile does.
func NewTree(ctx context.Context, f *os.File, size int64) (*Tree, error) {
	t := &Tree{size: size}
	var h Hasher
	zero := zeroTrees()
	h.seen = func(level int, index int64, d digest) {
		if d == zero[level] {
			return
		}
		if t.levels[level] == nil {
			t.levels[level] = make(map[int64]digest)
		}
		t.levels[level][index] = d
	}
	if err := hashFile(ctx, &h, f, size); err != nil {
		return nil, fmt.Errorf("make hash tree of %s: %w", f.Name(), err)
	}
	t.root = h.finish()
	return t, nil
}

// Root is the root of the tree, Size the number of bytes of the content.
func (t *Tree) Root() [32]byte { return t.root }

// Size is the number of bytes of the content.
func (t *Tree) Size() int64 { return t.size }

// Proof makes a proof for count leaves from the leaf first on.
func (t *Tree) Proof(first, count int64) (*Proof, error) {
	p := &Proof{Size: t.size, First: first, Count: count}
	if err := p.checkRange(); err != nil {
		return nil, err
	}
	level := 0
	for s := p.leaves(); s.nodes > 1; s = s.up() {
		for i := s.first - s.left(); i < s.first; i++ {
			p.Hashes = append(p.Hashes, t.node(level, i))
		}
		for i := s.last + 1; i <= s.last+s.right(); i++ {
			p.Hashes = append(p.Hashes, t.node(level, i))
		}
		level++
	}
	return p, nil
}

func (t *Tree) node(level int, index int64) digest {
	if d, ok := t.levels[level][index]; ok {
		return d
	}
	return zeroTrees()[level]
}

// LeavesOf returns the leaves that cover the bytes of e, which must not be
// empty or go beyond size bytes.
func LeavesOf(e Extent, size int64) (first, count int64, err error) {
	if e.Len < 1 || e.Off < 0 || e.Off > math.MaxInt64-e.Len || e.End() > size {
		return 0, 0, fmt.Errorf("%w: no leaves for %d bytes at %d of %d", ErrProof, e.Len, e.Off, size)
	}
	first = e.Off / LeafSize
	return first, (e.End()-1)/LeafSize - first + 1, nil
}
