package content

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"
	"sync"

	"github.com/intermezzofs/intermezzo/pkg/kml"
)

// LeafSize is the number of bytes that a leaf of the hash tree covers.
const LeafSize = 64 << 10

const (
	fanBits  = 4
	fanOut   = 1 << fanBits
	maxDepth = 12 // levels above the leaves for content of 2^63-1 bytes

	tagLeaf, tagNode, tagRoot = 0, 1, 2
)

// ErrMismatch means that bytes are not those that a hash names.
var ErrMismatch = errors.New("content does not match its hash")

type digest = [sha256.Size]byte

// Leaves returns the number of leaves of content of size bytes: at least one.
func Leaves(size int64) int64 {
	if size <= 0 {
		return 1
	}
	return (size-1)/LeafSize + 1
}

// Hasher makes the root of the hash tree over bytes that are written to it in
// order. The zero Hasher is ready for use. It takes no memory to speak of.
type Hasher struct {
	size    int64 // bytes so far
	hash    hash.Hash
	pending [maxDepth + 1][]byte // hashes of a level that are not yet in a node
	seen    func(level int, index int64, d digest)
}

// Size is the number of bytes so far, holes included.
func (h *Hasher) Size() int64 { return h.size }

// Write adds p. It never fails but for content of more than 2^63-1 bytes.
func (h *Hasher) Write(p []byte) (int, error) {
	if int64(len(p)) > math.MaxInt64-h.size {
		return 0, errTooLong
	}
	n := len(p)
	for len(p) > 0 {
		part := min(int64(len(p)), LeafSize-h.size%LeafSize)
		h.fill(p[:part])
		p = p[part:]
	}
	return n, nil
}

var errTooLong = errors.New("content is longer than 2^63-1 bytes")

// fill adds bytes that do not go beyond the present leaf.
func (h *Hasher) fill(p []byte) {
	if h.hash == nil {
		h.hash = sha256.New()
	}
	if h.size%LeafSize == 0 {
		h.hash.Reset()
		h.hash.Write([]byte{tagLeaf})
	}
	h.hash.Write(p)
	h.size += int64(len(p))
	if h.size%LeafSize == 0 {
		h.push(0, h.sum())
	}
}

func (h *Hasher) sum() (d digest) {
	h.hash.Sum(d[:0])
	return d
}

// WriteHole adds n bytes of value zero, in hardly any time however many.
func (h *Hasher) WriteHole(n int64) error {
	if n < 0 || n > math.MaxInt64-h.size {
		return errTooLong
	}
	if in := h.size % LeafSize; in != 0 {
		part := min(n, LeafSize-in)
		h.zeros(part)
		n -= part
	}
	for n >= LeafSize {
		n -= h.zeroTree(n / LeafSize)
	}
	h.zeros(n)
	return nil
}

// zeros adds n zero bytes that do not go beyond the present leaf.
func (h *Hasher) zeros(n int64) {
	var page [4096]byte
	for n > 0 {
		part := min(n, int64(len(page)))
		h.fill(page[:part])
		n -= part
	}
}

// zeroTree adds the greatest whole subtree of zero leaves that fits here and
// has not more than leaves leaves, and returns its size in bytes.
func (h *Hasher) zeroTree(leaves int64) int64 {
	at := h.size / LeafSize
	level, width := 0, int64(1)
	for level < maxDepth && at%(width*fanOut) == 0 && width*fanOut <= leaves {
		level, width = level+1, width*fanOut
	}
	h.size += width * LeafSize
	h.push(level, zeroTrees()[level])
	return width * LeafSize
}

// zeroTrees has the hash of a whole subtree of zero bytes for each level.
var zeroTrees = sync.OnceValue(func() (trees [maxDepth + 1]digest) {
	trees[0] = sha256.Sum256(make([]byte, 1+LeafSize))
	for level := 1; level <= maxDepth; level++ {
		node := []byte{tagNode}
		for range fanOut {
			node = append(node, trees[level-1][:]...)
		}
		trees[level] = sha256.Sum256(node)
	}
	return trees
})

// push adds a hash to a level, and the node that becomes complete by it to the
// next.
func (h *Hasher) push(level int, d digest) {
	if h.seen != nil {
		// The size is that after the subtree, so the index of its last leaf is
		// in it.
		last := max(h.size-1, 0) / LeafSize
		h.seen(level, last>>(fanBits*level), d)
	}
	if len(h.pending[level]) == 0 {
		h.pending[level] = append(h.pending[level], tagNode)
	}
	h.pending[level] = append(h.pending[level], d[:]...)
	if len(h.pending[level]) == 1+fanOut*sha256.Size {
		h.collapse(level)
	}
}

// collapse makes a node of what is pending at level.
func (h *Hasher) collapse(level int) {
	d := sha256.Sum256(h.pending[level])
	h.pending[level] = h.pending[level][:0]
	h.push(level+1, d)
}

// Sum returns the root for what was written, followed by a hole up to size. It
// is an error if more than size bytes were written. Only Reset may follow.
func (h *Hasher) Sum(size int64) (kml.Content, error) {
	if size < h.size {
		return kml.Content{}, fmt.Errorf("sum content: %d bytes were written, not %d", h.size, size)
	}
	if err := h.WriteHole(size - h.size); err != nil {
		return kml.Content{}, fmt.Errorf("sum content: %w", err)
	}
	return kml.Content{Root: h.finish()}, nil
}

// finish returns the root for what was written.
func (h *Hasher) finish() [32]byte {
	if h.size == 0 {
		h.push(0, sha256.Sum256([]byte{tagLeaf}))
	} else if h.size%LeafSize != 0 {
		h.push(0, h.sum())
	}
	depth := depthOf(Leaves(h.size))
	for level := range depth {
		if len(h.pending[level]) > 0 {
			h.collapse(level)
		}
	}
	var top digest
	copy(top[:], h.pending[depth][1:])
	return rootOf(h.size, top)
}

// Reset makes h as new.
func (h *Hasher) Reset() {
	h.size = 0
	for i := range h.pending {
		h.pending[i] = h.pending[i][:0]
	}
}

// depthOf returns the number of levels above the leaves.
func depthOf(leaves int64) int {
	depth := 0
	for leaves > 1 {
		leaves = (leaves + fanOut - 1) / fanOut
		depth++
	}
	return depth
}

func rootOf(size int64, top digest) digest {
	var b [1 + 8 + sha256.Size]byte
	b[0] = tagRoot
	binary.LittleEndian.PutUint64(b[1:], uint64(size))
	copy(b[9:], top[:])
	return sha256.Sum256(b[:])
}

// SumBytes returns the root for p.
func SumBytes(p []byte) [32]byte {
	var h Hasher
	h.Write(p)
	return h.finish()
}
