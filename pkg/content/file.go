package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrShort means that a file has fewer bytes than it was said to have.
var ErrShort = errors.New("file is shorter than expected")

const readSize = 1 << 20

// Extent is a range of bytes of a file.
type Extent struct{ Off, Len int64 }

// End is the offset after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Extents returns the ranges of f below size that hold data, in order; the rest
// is holes. Where the file system can't tell, everything is data. It moves the
// offset of f.
func Extents(f *os.File, size int64) ([]Extent, error) {
	return extents(f, 0, size)
}

// extents is Extents for the range from..to.
func extents(f *os.File, from, to int64) ([]Extent, error) {
	var out []Extent
	for from < to {
		start, err := f.Seek(from, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return out, nil
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			return append(out, Extent{from, to - from}), nil
		case err != nil:
			return nil, fmt.Errorf("find data: %w", err)
		}
		if start >= to {
			return out, nil
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			return out, nil // cut off meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("find hole: %w", err)
		}
		end = min(end, to)
		if end > start {
			out = append(out, Extent{start, end - start})
		}
		from = max(end, start+1)
	}
	return out, nil
}

// SumFile returns the root for the first size bytes of f. It reads the file
// once, holes excepted, and fails with ErrShort if it has fewer bytes. If the
// file is written meanwhile, the root is that of no content it ever had; the
// caller has to find out. It moves the offset of f.
func SumFile(ctx context.Context, f *os.File, size int64) (root [32]byte, err error) {
	var h Hasher
	if err := hashFile(ctx, &h, f, size); err != nil {
		return root, fmt.Errorf("sum %s: %w", f.Name(), err)
	}
	c, err := h.Sum(size)
	return c.Root, err
}

// hashFile writes what f has from h.Size() up to the offset to into h.
func hashFile(ctx context.Context, h *Hasher, f *os.File, to int64) error {
	data, err := dataOf(f, h.Size(), to)
	if err != nil {
		return err
	}
	longest := int64(0)
	for _, e := range data {
		longest = max(longest, e.Len)
	}
	buf := make([]byte, min(longest, readSize))
	for _, e := range data {
		if err := h.WriteHole(e.Off - h.Size()); err != nil {
			return err
		}
		for h.Size() < e.End() {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n, err := f.ReadAt(buf[:min(e.End()-h.Size(), int64(len(buf)))], h.Size())
			h.Write(buf[:n])
			if err == io.EOF && h.Size() < e.End() {
				return ErrShort
			}
			if err != nil && err != io.EOF {
				return err
			}
		}
	}
	return h.WriteHole(to - h.Size())
}

// dataOf returns the extents of f in from..to, without asking for holes where
// that would cost more than it saves.
func dataOf(f *os.File, from, to int64) ([]Extent, error) {
	if from >= to {
		return nil, nil
	}
	all := []Extent{{from, to - from}}
	if to-from <= readSize {
		return all, nil
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < to {
		return nil, ErrShort
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Blocks*512 >= to {
		return all, nil
	}
	return extents(f, from, to)
}
